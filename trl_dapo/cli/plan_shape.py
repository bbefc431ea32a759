"""
From the arguments of a run to the sizes that decide on its memory and time, as one device sees it.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch

from trl_dapo.planning.run_shape import RunShape
from trl_dapo.planning.throughput import expected_rounds

from .arguments import Arguments
from .plan_lengths import prompt_length
from .plan_model import PlannedModel, planned_model, weights_bytes


ONLINE = ("dapo", "grpo", "ppo")
DEFAULT_LENGTH = 1024


@dataclass(frozen=True)
class Planned:
    """
    A run's sizes, and what they rest on.

    Args:
        shape ([`RunShape`]):
            Of one device.
        trained_rows (`int`):
            Rows of a rollout that one device trains on; of an update, where nothing is generated.
        iterations (`float`):
            Passes over each.
        assumptions (`tuple[str, ...]`):
            Where numbers are from that the arguments do not give, one line each.
    """

    shape: RunShape
    trained_rows: int
    iterations: float
    assumptions: tuple[str, ...]


def planned_run(
    name: str, arguments: Arguments, prompt: int | None = None, informative: float = 0.5, processes: int = 1
) -> Planned:
    """
    Returns the sizes of a run.

    Args:
        name (`str`):
            Of the command.
        arguments ([`Arguments`]):
            As its parser gives them.
        prompt (`int`, *optional*):
            Tokens of the longest prompt; by default of the data, where it can be read here.
        informative (`float`, *optional*, defaults to `0.5`):
            Share of groups that dynamic sampling keeps.
        processes (`int`, *optional*, defaults to `1`):
            Devices that share the batch.

    Raises:
        [`UsageError`]: If the config of the model cannot be had.
    """
    training_args = arguments.training_args
    model = planned_model(arguments.model_args, getattr(training_args, "trust_remote_code", False))
    notes = [f"model: {model.source}"]
    shared = _of_model(arguments, model)
    if name in ONLINE:
        planned = _online(name, arguments, model, shared, prompt, informative, processes)
    else:
        planned = _preferences(name, arguments, model, shared)
    if training_args.deepspeed or training_args.fsdp:
        notes.append("sharding by deepspeed or fsdp is not planned: each device is counted as if it held all")
    return Planned(planned.shape, planned.trained_rows, planned.iterations, (*notes, *planned.assumptions))


def _of_model(arguments: Arguments, model: PlannedModel) -> dict[str, Any]:
    _, args, model_args, _ = arguments
    dtype = _dtype(model_args.dtype, model.config)
    compute = "bfloat16" if args.bf16 else "float16" if args.fp16 else dtype
    return {
        "model_config": model.config,
        "dtype": dtype,
        "compute_dtype": compute,
        "quantization": "4bit" if model_args.load_in_4bit else "8bit" if model_args.load_in_8bit else None,
        "double_quantization": bool(model_args.load_in_4bit and model_args.use_bnb_nested_quant),
        "lora": model.lora,
        "adapter_dtype": args.adapter_dtype,
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        "attention": model_args.attn_implementation or "sdpa",
        "gradient_checkpointing": bool(args.gradient_checkpointing),
        "activation_offloading": bool(getattr(args, "activation_offloading", False)),
    }


def _online(
    name: str,
    arguments: Arguments,
    model: PlannedModel,
    shared: dict[str, Any],
    prompt: int | None,
    informative: float,
    processes: int,
) -> Planned:
    script_args, args, _, _ = arguments
    length = prompt_length(arguments, prompt)
    rows = -(-args.generation_batch_size // processes)
    rounds, most = 1.0, 1.0
    notes = [f"prompts: {length.tokens} tokens, {length.source}"]
    if name == "dapo" and args.dynamic_sampling:
        most = args.max_round_batches
        rounds = expected_rounds(informative, most * (1 + args.max_refill_rounds))
        notes.append(
            f"dynamic sampling: {informative:.0%} of the groups informative, assumed; a round has at most "
            f"{most:g} batches"
        )
    round_rows = _whole_groups(rows * most, args.num_generations)
    scores = args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations) or args.use_vllm
    reward_bytes, unread = _reward_model(script_args)
    colocated = args.use_vllm and args.vllm_mode == "colocate"
    shape = RunShape(
        algorithm=name,
        **shared,
        prompt_length=length.tokens,
        completion_length=args.max_completion_length,
        num_generations=args.num_generations,
        round_rows=round_rows,
        chunk_rows=0 if args.use_vllm else _chunk(args, length.tokens, round_rows),
        rounds=rounds,
        scoring_rows=args.per_device_train_batch_size if scores or args.beta != 0 or name == "ppo" else 0,
        microbatch_rows=args.per_device_train_batch_size,
        microbatch_tokens=args.max_tokens_per_microbatch,
        microbatches=args.gradient_accumulation_steps,
        updates=args.steps_per_generation * args.num_iterations / args.gradient_accumulation_steps,
        reference=_reference(args.beta != 0, model),
        critic="none" if name != "ppo" else "model" if model.lora is None else "adapter",
        reward_model_bytes=reward_bytes,
        vllm_share=args.vllm_gpu_memory_utilization if colocated else None,
        vllm_sleeps=bool(colocated and args.vllm_enable_sleep_mode),
        prefill_once=args.prefill_once,
        drops_finished_rows=args.drops_finished_rows,
    )
    return Planned(shape, rows, float(args.num_iterations), (*notes, *unread))


def _preferences(name: str, arguments: Arguments, model: PlannedModel, shared: dict[str, Any]) -> Planned:
    args = arguments.training_args
    length = args.max_length or DEFAULT_LENGTH
    note = f"rows: prompt and answer of max_length={length} tokens"
    if args.max_length is None:
        note = f"rows: {length} tokens, assumed, since max_length is not set"
    # A pair is two rows of one pass
    rows = 2 * args.per_device_train_batch_size
    if name == "reward" and model.lora is not None:
        # A reward model has a head for one number, whatever the adapter's config was written for
        shared = {**shared, "lora": _for_scores(model.lora)}
    refers = name == "dpo" and not args.reference_free and not args.precompute_ref_log_probs
    shape = RunShape(
        algorithm=name,
        **shared,
        prompt_length=length // 2,
        completion_length=length - length // 2,
        num_generations=2,
        scoring_rows=rows if refers else 0,
        microbatch_rows=rows,
        microbatches=args.gradient_accumulation_steps,
        updates=1.0,
        reference=_reference(refers, model),
    )
    return Planned(shape, rows * args.gradient_accumulation_steps, 1.0, (note,))


def _for_scores(lora: Any) -> Any:
    changed = copy(lora)
    changed.task_type = "SEQ_CLS"
    return changed


def _chunk(args: Any, prompt: int, round_rows: int) -> int:
    """Returns the rows of one call of `generate`."""
    group = args.num_generations
    chunk = args.generation_chunk_size or round_rows
    if limit := args.max_tokens_per_generation_call:
        # At least one group, whatever the limit
        chunk = min(chunk, max(1, limit // (prompt + args.max_completion_length) // group) * group)
    return min(chunk, round_rows)


def _whole_groups(rows: float, group: int) -> int:
    return max(1, -(-int(rows) // group)) * group


def _reference(needed: bool, model: PlannedModel) -> str:
    if not needed:
        return "none"
    if model.continues:
        return "adapter_copy"
    return "model" if model.lora is None else "adapter_off"


def _reward_model(script_args: Any) -> tuple[int, tuple[str, ...]]:
    name = script_args.reward_model_name_or_path
    if not name:
        return 0, ()
    size = weights_bytes(name)
    if size is None:
        return 0, (f"the reward model {name} is not on this machine and is not counted",)
    return size, ()


def _dtype(asked: Any, config: Any) -> str:
    if asked in (None, "auto"):
        asked = getattr(config, "dtype", None) or "float32"
    return str(asked).removeprefix("torch.") if isinstance(asked, (str, torch.dtype)) else "float32"
