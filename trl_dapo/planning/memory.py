"""
The memory that a run needs, phase by phase.

Passes of the model are traced in `traced_step`; what stands beside them is counted here.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from .memory_plan import Item, MemoryPlan, Phase
from .optimizer_state import is_known, state_bytes, step_bytes
from .replayed import ReplayedModel
from .run_shape import RunShape
from .traced_passes import Pass
from .tracker import Live


# A CUDA context with its libraries' workspaces, and what an allocator loses between blocks of changing sizes
CONTEXT = int(0.5 * 2**30)
FRAGMENTATION = 0.05

_DEEPEST = 64
_MODELS: dict[str, ReplayedModel] = {}


def plan_memory(
    shape: RunShape,
    device: str = "cuda",
    card_bytes: int | None = None,
    context: int | None = None,
    traced_from: float = 0.0,
) -> MemoryPlan:
    """
    Returns the memory of a run on one device, phase by phase.

    Args:
        shape (`RunShape`):
            The run. For DPO and reward models, `microbatch_rows` counts chosen and rejected rows.
        device (`str`, *optional*, defaults to `"cuda"`):
            `"cuda"` or `"cpu"`. On the CPU there is neither a context nor an allowance for fragmentation, and TRL's
            log-prob head works with more temporary tensors.
        card_bytes (`int`, *optional*):
            Memory of the card, of which vLLM takes its share; without it, vLLM counts as nothing.
        context (`int`, *optional*):
            Bytes that a device loses to its context. Defaults to 0.5 GiB on a GPU.
        traced_from (`float`, *optional*, defaults to `0.0`):
            Phases that need fewer bytes may be replayed from traces of other sizes; by default none is.
    """
    traced = _traced_model(shape)
    return _Planner(shape, traced, device, card_bytes, context, traced_from).plan()


def _traced_model(shape: RunShape) -> ReplayedModel:
    # Everything that a pass depends on beside its rows and columns
    key = replace(
        shape, model_config=None, lora=None, prompt_length=0, completion_length=0, round_rows=0, chunk_rows=0,
        scoring_rows=0, microbatch_rows=0, microbatch_tokens=None, microbatches=0, updates=0, rounds=0,
        num_generations=0, reward_model_bytes=0, vllm_share=None, optimizer="", critic="none",
    )  # fmt: skip
    lora = None if shape.lora is None else sorted((name, str(value)) for name, value in shape.lora.to_dict().items())
    name = f"{key} {lora} {shape.model_config.to_json_string(use_diff=False)}"
    if name not in _MODELS:
        if len(_MODELS) >= _DEEPEST:
            _MODELS.clear()
        _MODELS[name] = ReplayedModel(shape)
    return _MODELS[name]


@dataclass(frozen=True)
class _Planner:
    shape: RunShape
    traced: ReplayedModel
    device: str
    card_bytes: int | None
    context: int | None
    traced_from: float = 0.0
    replays: bool = False

    def plan(self) -> MemoryPlan:
        fragmentation = 0.0 if self.device == "cpu" else FRAGMENTATION
        replaying = replace(self, replays=self.traced_from > 0)
        phases = []
        for build in self._phases():
            phase = build(replaying)
            if replaying.replays and phase.bytes * (1 + fragmentation) >= self.traced_from:
                phase = build(self)
            phases.append(phase)
        return MemoryPlan(tuple(phases), fragmentation, tuple(self._modelled()))

    def _phases(self) -> list[Callable[["_Planner"], Phase]]:
        shape = self.shape
        phases: list[Callable[[_Planner], Phase]] = [lambda one: Phase("load", one._loading())]
        if shape.round_rows and shape.vllm_share is None and shape.chunk_rows:
            phases.append(lambda one: Phase("generate", one._held() + one._generation()))
        elif shape.round_rows and shape.vllm_share is not None:
            phases.append(lambda one: Phase("generate", one._held()))
        if shape.scoring_rows:
            phases.append(lambda one: Phase("score", one._held() + one._scoring()))
        return [*phases, _Planner._update]

    # What lies in memory all the time

    def _loading(self) -> tuple[Item, ...]:
        weights = self.traced.weights
        transient = weights.largest * (4 if self.shape.dtype == "float32" else 2)
        loading = (Item("weight being quantized", transient, "modelled"),) if transient else ()
        return self._model() + loading + self._context()

    def _model(self) -> tuple[Item, ...]:
        weights = self.traced.weights
        items = [
            Item("weights", weights.base, "traced"),
            Item("quantization constants", weights.constants, "modelled"),
            Item("adapter", weights.adapter, "traced"),
        ]
        if self.shape.reference == "adapter_copy":
            items.append(Item("reference adapter", weights.adapter, "modelled"))
        if self.shape.reference == "model":
            items.append(Item("reference model", weights.base + weights.constants, "modelled"))
        if self.shape.critic != "none":
            items.append(Item("critic", self._critic_bytes(), "modelled"))
        items.append(Item("reward models", self.shape.reward_model_bytes, "given"))
        return tuple(item for item in items if item.bytes)

    def _held(self, awake: bool = True) -> tuple[Item, ...]:
        shapes, itemsize = self._trained()
        state = state_bytes(self.shape.optimizer, shapes, itemsize)
        rows, prompt, completion = self.shape.round_rows, self.shape.prompt_length, self.shape.completion_length
        # Ids and masks of 8 bytes; completion mask, and log-probs of old policy and reference
        rollout = rows * (16 * (prompt + completion) + 16 * completion)
        items = [Item("optimizer state", state, "modelled"), Item("rollout", rollout, "modelled")]
        if self.shape.vllm_share and self.card_bytes and awake:
            items.append(Item("vLLM", int(self.shape.vllm_share * self.card_bytes), "given"))
        return self._model() + tuple(item for item in items if item.bytes) + self._context()

    def _context(self) -> tuple[Item, ...]:
        size = self.context if self.context is not None else (0 if self.device == "cpu" else CONTEXT)
        return (Item("device context", size, "modelled"),) if size else ()

    def _trained(self) -> tuple[tuple[tuple[int, ...], ...], int]:
        weights = self.traced.weights
        shapes = weights.trained
        if self.shape.critic != "none":
            shapes = shapes * 2
        return shapes, weights.trained_itemsize

    def _critic_bytes(self) -> int:
        weights = self.traced.weights
        hidden = 4 * self.shape.model_config.get_text_config().hidden_size
        if self.shape.critic == "adapter":
            return weights.adapter + 2 * hidden
        return weights.base - weights.head + hidden

    # Phases

    def _generation(self) -> tuple[Item, ...]:
        shape = self.shape
        prompts = -(-shape.chunk_rows // shape.num_generations) if shape.prefill_once else shape.chunk_rows
        prefill = self._peak("prefill", prompts, shape.prompt_length, 0)
        decode = self._peak("decode", shape.chunk_rows, shape.prompt_length, shape.completion_length)
        if prefill.bytes > decode.bytes:
            return _items(prefill, "activations and cache of prompts")
        cache = self.traced.cache_bytes(shape.chunk_rows, shape.prompt_length + shape.completion_length)
        rest = Live(decode.bytes - cache, 0, decode.logits)
        return (Item("KV cache", cache, "traced"), *_items(rest, "activations and copies of the cache"))

    def _scoring(self) -> tuple[Item, ...]:
        shape = self.shape
        return _items(self._peak("score", shape.scoring_rows, shape.prompt_length, shape.completion_length))

    def _update(self) -> Phase:
        shape, held = self.shape, self._held(awake=not self.shape.vllm_sleeps)
        weights, rows = self.traced.weights, self.shape.microbatch_rows
        if shape.microbatch_tokens is not None:
            rows = max(1, shape.microbatch_tokens // (shape.prompt_length + shape.completion_length))
        accumulates = shape.microbatches > 1
        held_gradients = weights.trained_bytes if accumulates else 0
        kind = {"dpo": "dpo", "reward": "reward"}.get(shape.algorithm, "update")
        passes = [self._peak(kind, rows, shape.prompt_length, shape.completion_length, accumulates)]
        if shape.critic != "none":
            passes.append(self._peak("critic", rows, shape.prompt_length, shape.completion_length, accumulates))
        most = max(passes, key=lambda live: live.bytes)
        # The gradients of policy and critic wait for one optimizer step
        waiting = held_gradients * (2 if shape.critic != "none" else 1)
        if shape.critic != "none" and not accumulates:
            waiting = weights.trained_bytes
        backward = (Item("gradients", waiting, "traced"), *_items(most)) if waiting else _items(most)
        shapes, itemsize = self._trained()
        gradients = weights.trained_bytes * (2 if shape.critic != "none" else 1)
        step = (
            Item("gradients", gradients, "traced"),
            Item(
                "optimizer's temporary tensors", step_bytes(shape.optimizer, shapes, self.device, itemsize), "modelled"
            ),
        )
        larger = max(backward, step, key=lambda items: sum(item.bytes for item in items))
        return Phase("update", held + tuple(item for item in larger if item.bytes))

    def _peak(self, kind: str, rows: int, prompt: int, completion: int, accumulates: bool = False) -> Live:
        one = Pass(kind, rows, prompt, completion, self.device, accumulates)
        return self.traced.replayed_peak(one) if self.replays else self.traced.peak(one)

    def _modelled(self) -> list[str]:
        shape = self.shape
        lines = [f"optimizer state: {shape.optimizer}, by its documentation"]
        if not is_known(shape.optimizer):
            lines = [f"optimizer state: {shape.optimizer} is not known, counted as AdamW"]
        if shape.optimizer.startswith("paged"):
            lines.append("paged optimizer state: counted on the device, though it leaves it where memory is short")
        if shape.quantization == "4bit":
            lines.append("4-bit weights: half a byte each; a block of 64 has a scale of 4 bytes, 1 if quantized twice")
            lines.append("4-bit products: one matrix at a time in the compute precision, forward and backward")
        if shape.quantization == "8bit":
            lines.append("8-bit weights: a byte each, 4 bytes a row; products as of 4-bit weights")
        if self.device != "cpu":
            lines.append(f"device context: {CONTEXT / 2**30:.1f} GiB; fragmentation: {FRAGMENTATION:.0%} of the rest")
            lines.append("buffers inside kernels: none")
        return lines


def _items(live: Live, name: str = "activations") -> tuple[Item, ...]:
    rest = live.bytes - live.gradients - live.logits
    items = [
        Item(name, rest, "traced"),
        Item("gradients", live.gradients, "traced"),
        Item("logits", live.logits, "traced"),
    ]
    return tuple(item for item in items if item.bytes)


def reset() -> None:
    """Forgets what was traced."""
    _MODELS.clear()


__all__ = ["CONTEXT", "FRAGMENTATION", "plan_memory", "reset"]
