"""
What to change where a run does not fit, and the largest run that does.

All of it is a search over plans of memory. It asks for a bounded number of them, and changes one knob at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from .memory_plan import MemoryPlan
from .plans import TOLERANCE, Plans
from .run_shape import RunShape


PREFERENCES = ("dpo", "reward")
# Share of a card that a recommended chunk leaves free
SPARE = 0.1
MOST_GUESSES = 5
LONGEST = 32_768
MOST_ROWS = 1024
MOST_GROUP = 256


@dataclass(frozen=True)
class Change:
    """
    One knob, turned.

    Args:
        field (`str`):
            Name of the field.
        value (`Any`):
            What to set it to.
        shape ([`RunShape`]):
            The run with it.
        cost (`str`):
            What it costs.
        needs (`int`):
            Bytes that the run then needs.
        brings (`int`):
            Bytes that it saves.
    """

    field: str
    value: Any
    shape: RunShape
    cost: str
    needs: int = 0
    brings: int = 0

    def __str__(self) -> str:
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.field}: {value} ({self.cost})"


@dataclass(frozen=True)
class Largest:
    """The most of each that fits with all else as it is; 0 where none does, `None` where it is no knob of the run."""

    per_device_train_batch_size: int
    completion_length: int
    num_generations: int | None
    generation_chunk_size: int | None


def first_change(shape: RunShape, plans: Plans, free: int) -> Change | None:
    """
    Returns the first knob that makes a run fit by itself; else the one that saves most; `None` if none saves anything.

    Knobs come in the order of what they cost: first those that change no gradient, then those that cost time, then
    precision, then what is learned.
    """
    now = plans.bytes(shape)
    best: Change | None = None
    for change in _changes(shape, plans.of(shape)):
        if plans.exhausted:
            break
        needs = plans.about(change.shape)
        if needs * (1 - TOLERANCE) <= free:
            needs = plans.bytes(change.shape)
        change = replace(change, needs=needs, brings=now - needs)
        if needs <= free:
            return change
        if change.brings > (best.brings if best else 0):
            best = change
    if best is None:
        return None
    needs = plans.bytes(best.shape)
    return replace(best, needs=needs, brings=now - needs)


def largest(shape: RunShape, plans: Plans, free: int) -> Largest:
    """Returns the most rows per device, tokens per completion and completions per prompt that fit, each by itself."""
    preferences = shape.algorithm in PREFERENCES
    rows = shape.microbatch_rows // (2 if preferences else 1)
    tokens, group = shape.completion_length // 16, shape.num_generations
    groups = not preferences and shape.algorithm != "ppo"
    return Largest(
        _most(1, rows, MOST_ROWS, lambda n: with_rows(shape, n), plans, free),
        16 * _most(1, tokens, LONGEST // 16, lambda n: _with_length(shape, 16 * n), plans, free),
        _most(2, group, MOST_GROUP, lambda n: with_group(shape, n), plans, free) if groups else None,
        chunk_for(shape, plans, free),
    )


def chunk_for(shape: RunShape, plans: Plans, free: int, spare: float = 0.0) -> int | None:
    """Returns the most completions of one call of `generate`, in whole groups, that fit; `None` without generation."""
    if not shape.chunk_rows:
        return None
    group = max(1, shape.num_generations)
    now, groups = shape.chunk_rows // group, max(1, shape.round_rows // group)
    return group * _most(1, now, groups, lambda n: replace(shape, chunk_rows=n * group), plans, free * (1 - spare))


def with_rows(shape: RunShape, rows: int) -> RunShape:
    """Returns a run whose forward and backward pass has so many rows per device (pairs, for DPO and reward models)."""
    rows *= 2 if shape.algorithm in PREFERENCES else 1
    total = shape.microbatch_rows * shape.microbatches
    scoring = rows if shape.scoring_rows else 0
    return replace(shape, microbatch_rows=rows, microbatches=max(1, -(-total // rows)), scoring_rows=scoring)


def with_group(shape: RunShape, group: int) -> RunShape:
    """Returns a run with the same prompts and another number of completions of each."""
    round_rows = -(-shape.round_rows // shape.num_generations) * group
    bounded = shape.chunk_rows < shape.round_rows
    chunk = max(group, shape.chunk_rows // group * group) if bounded else round_rows
    return replace(shape, num_generations=group, round_rows=round_rows, chunk_rows=min(chunk, round_rows))


def _with_length(shape: RunShape, tokens: int) -> RunShape:
    return replace(shape, completion_length=tokens)


def _most(least: int, now: int, most: int, changed: Callable[[int], RunShape], plans: Plans, limit: float) -> int:
    """
    Returns the largest number of at most `most` that fits, to a sixteenth, for needs that only grow; 0 if `least` does
    not fit.

    Needs are almost straight lines, so each next number is where the line through the nearest two known ones ends.
    """
    known = {number: plans.about(changed(number)) for number in {least, max(least, min(now, most))}}
    for _ in range(MOST_GUESSES):
        low = max((number for number, need in known.items() if need <= limit), default=0)
        high = min((number for number, need in known.items() if need > limit), default=most + 1)
        if high - low <= max(1, low // 16) or low == 0:
            break
        guess = _on_line(known, low, high, limit)
        known[guess] = plans.about(changed(guess))
    return _largest_checked(known, lambda number: plans.checked(changed(number), limit), limit)


def _largest_checked(known: dict[int, int], needs: Callable[[int], int], limit: float) -> int:
    """Returns the largest known number that fits beyond a search's doubt, or 0."""
    for number in sorted(known, reverse=True):
        if known[number] <= limit and needs(number) <= limit:
            return number
    return 0


def _on_line(known: dict[int, int], low: int, high: int, limit: float) -> int:
    """Returns a number between `low` and `high`, both left out, where the line through known ones meets the limit."""
    other = high if high in known else max((number for number in known if number < low), default=0)
    if not other or known[other] == known[low]:
        return min(2 * low, high - 1) if high not in known else (low + high) // 2
    guess = low + (limit - known[low]) * (other - low) / (known[other] - known[low])
    # A line that is a little too steep would end at `low` for ever
    return int(min(max(guess, low + 1), high - 1))


def _halves(number: int, least: int = 1) -> Iterator[int]:
    while number // 2 >= least:
        number //= 2
        yield number


def _changes(shape: RunShape, plan: MemoryPlan) -> Iterator[Change]:
    """Yields the knobs that can help where this plan's peak is, the cheapest first, each from its mildest value on."""
    peak = plan.peak.name
    if peak == "generate":
        yield from _of_generation(shape)
    elif peak == "score":
        yield from _of_passes(shape)
    elif peak == "update":
        yield from _of_passes(shape)
        yield from _of_update(shape)
    yield from _of_weights(shape)
    yield from _of_learning(shape)


def _of_generation(shape: RunShape) -> Iterator[Change]:
    group = max(1, shape.num_generations)
    for groups in _halves(max(1, shape.chunk_rows // group)):
        chunk = groups * group
        changed = replace(shape, chunk_rows=chunk)
        yield Change("generation_chunk_size", chunk, changed, "same gradients, slower generation")
    if shape.vllm_share is not None:
        yield from _of_vllm(shape)


def _of_vllm(shape: RunShape) -> Iterator[Change]:
    if not shape.vllm_sleeps:
        changed = replace(shape, vllm_sleeps=True)
        yield Change("vllm_enable_sleep_mode", True, changed, "vLLM leaves the card during the update")
    for share in (0.25, 0.2, 0.15, 0.1):
        if share < (shape.vllm_share or 0):
            changed = replace(shape, vllm_share=share)
            yield Change("vllm_gpu_memory_utilization", share, changed, "fewer completions at a time")


def _of_passes(shape: RunShape) -> Iterator[Change]:
    pair = 2 if shape.algorithm in PREFERENCES else 1
    for rows in _halves(shape.microbatch_rows // pair):
        cost = "multiply gradient_accumulation_steps by as much: same gradients, more passes"
        yield Change("per_device_train_batch_size", rows, with_rows(shape, rows), cost)


def _of_update(shape: RunShape) -> Iterator[Change]:
    if not shape.gradient_checkpointing:
        changed = replace(shape, gradient_checkpointing=True)
        yield Change("gradient_checkpointing", True, changed, "same gradients, a third more time per update")
    if not shape.activation_offloading:
        changed = replace(shape, activation_offloading=True)
        yield Change("activation_offloading", True, changed, "same gradients, slower updates")
    if shape.vllm_share is not None:
        yield from _of_vllm(shape)


def _of_weights(shape: RunShape) -> Iterator[Change]:
    if shape.optimizer not in ("paged_adamw_8bit", "adamw_8bit", "adamw_bnb_8bit"):
        yield Change("optim", "paged_adamw_8bit", replace(shape, optimizer="paged_adamw_8bit"), "8-bit moments")
    if shape.dtype == "float32":
        changed = replace(shape, dtype="bfloat16", compute_dtype="bfloat16")
        if shape.lora is not None or shape.quantization is not None:
            yield Change("dtype", "bfloat16", changed, "weights that are not trained, in half the bytes")
    if shape.quantization is None and shape.lora is not None:
        changed = replace(shape, quantization="4bit", double_quantization=True, dtype="bfloat16")
        yield Change("load_in_4bit", True, changed, "the base in 4 bits, about 30 % slower")
    if shape.lora is None and shape.quantization is None:
        from peft import LoraConfig

        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
        reference = "adapter_off" if shape.reference == "model" else shape.reference
        critic = "adapter" if shape.critic == "model" else shape.critic
        with_adapter = replace(shape, lora=lora, reference=reference, critic=critic)
        yield Change("use_peft", True, with_adapter, "an adapter is trained in place of all weights")
        quantized = replace(with_adapter, quantization="4bit", double_quantization=True, dtype="bfloat16")
        yield Change("load_in_4bit", True, quantized, "an adapter is trained on a base in 4 bits")


def _of_learning(shape: RunShape) -> Iterator[Change]:
    name = "max_length" if shape.algorithm in PREFERENCES else "max_completion_length"
    whole = shape.prompt_length if shape.algorithm in PREFERENCES else 0
    for tokens in _halves(shape.completion_length, 64):
        yield Change(name, whole + tokens, _with_length(shape, tokens), "longer completions are cut")
    if shape.algorithm in ("dapo", "grpo"):
        for group in _halves(shape.num_generations, 2):
            yield Change("num_generations", group, with_group(shape, group), "noisier advantages")
