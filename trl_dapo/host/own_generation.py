"""
Completions of an online trainer of TRL by its own path, be it vLLM or transformers, without a trace in its run.

For GRPO and RLOO and what derives from them. While it is entered, the trainer samples with other settings and in eval
mode; its random numbers, metrics, counters and modes are afterwards what they were.
"""

from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, Trainer

from .compat import check_host
from .host_names import ONLINE
from .modes import eval_mode
from .randomness import random_state_kept
from .state import HostState
from .swapped import swapped


@dataclass(frozen=True)
class Generated:
    """
    One completion of a trainer.

    Args:
        ids (`list[int]`):
            Its tokens.
        completion (`str` or `list[dict]`):
            Its text, or messages where the prompt is messages.
        truncated (`bool`):
            Whether it ran out of tokens.
    """

    ids: list[int]
    completion: Any
    truncated: bool


@dataclass(frozen=True)
class GenerationSettings:
    """How a trainer samples for a while; `copies` of each prompt lie together in a batch."""

    temperature: float
    top_p: float
    max_new_tokens: int
    copies: int


def check_online(trainer: Any) -> None:
    """
    Raises where a trainer's generation is not one that is known here.

    Raises:
        `TypeError`: If it is no online trainer of TRL, or derived from one.
        `ValueError`: If its prompts belong to environments, which only its own batches have.
    """
    host = next((cls for cls in type(trainer).__mro__ if cls.__name__ in ONLINE and _is_of_trl(cls)), None)
    if host is None:
        raise TypeError(
            f"trainer is a {type(trainer).__name__}: only online trainers of TRL generate ({', '.join(ONLINE)}, and "
            "those derived from them)."
        )
    check_host(host)
    if getattr(trainer, "environments", None):
        raise ValueError("trainer has environments, and only the trainer's own batches are given some.")


def _is_of_trl(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "trl"


@contextmanager
def generating_aside(
    trainer: Any, settings: GenerationSettings
) -> Generator[Callable[[list[Any], int], list[Generated]]]:
    """Gives what returns the completions of this process's prompts, drawn with a seed; all processes call it alike."""
    seen = trainer.state.num_input_tokens_seen
    with ExitStack() as stack:
        stack.enter_context(eval_mode(trainer.model))
        stack.enter_context(random_state_kept())
        stack.enter_context(swapped(trainer, **_swaps(trainer, settings)))
        if trainer.use_vllm:
            stack.enter_context(swapped(trainer.vllm_generation, **_vllm_swaps(settings)))

        def generate(prompts: list[Any], seed: int) -> list[Generated]:
            # Continuous batching leaves the model in training mode
            trainer.model.eval()
            torch.manual_seed(seed)
            found = trainer._generate(prompts)
            # RLOO returns three values, the completions last
            ids, completions = found[1], found[2] if len(found) == 3 else found[3]
            ends = set(HostState(trainer).end_ids)
            rows = zip(ids, completions, strict=True)
            return [Generated(row, one, not row or row[-1] not in ends) for row, one in rows]

        try:
            yield generate
        finally:
            trainer.state.num_input_tokens_seen = seen


def log_aside(trainer: Any, metrics: dict[str, float]) -> None:
    """Logs metrics at the present step, and leaves alone what the trainer has gathered for its own next log."""
    due = trainer.control.should_log
    # TRL's own would add what belongs to the next log of training, and clear it
    Trainer.log(trainer, dict(metrics))
    trainer.control.should_log = due


def sampling_fields(temperature: float, top_p: float, max_new_tokens: int) -> dict[str, Any]:
    """Returns the fields of a generation config that say how is sampled, and that a model may have of its own."""
    greedy = temperature == 0.0
    return {
        "max_new_tokens": max_new_tokens,
        "do_sample": not greedy,
        "temperature": None if greedy else temperature,
        "top_p": None if greedy else top_p,
        "top_k": None if greedy else 0,
        "min_p": None,
        "repetition_penalty": 1.0,
    }


def _swaps(trainer: Any, settings: GenerationSettings) -> dict[str, Any]:
    swaps: dict[str, Any] = {
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "num_generations_eval": settings.copies,
    }
    if trainer.use_vllm:
        return swaps
    fields = sampling_fields(settings.temperature, settings.top_p, settings.max_new_tokens)
    config = GenerationConfig.from_dict({**trainer.generation_config.to_dict(), **fields})
    # TRL writes these into the model's config too
    return {**swaps, "generation_config": config, "generation_kwargs": {**trainer.generation_kwargs, **fields}}


def _vllm_swaps(settings: GenerationSettings) -> dict[str, Any]:
    return {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "max_completion_length": settings.max_new_tokens,
    }
