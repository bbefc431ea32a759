"""
What a real trainer takes while two updates run: the running sum of all that PyTorch's allocator gave and took back.

Buffers that kernels take from the allocator are in it, those that libraries take elsewhere are not. A phase is what
happens while a generation or a pass without gradient runs; all else is the update.
"""

import gc
import resource
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from plan_cases import Case, build, shape_of, trainer_of
from trl_dapo.planning.run_shape import RunShape


GENERATE, SCORE = "plan:generate", "plan:score"
# Bytes: what the first events free without that it was seen. More would be garbage of an earlier run
UNSEEN = 2**20


@dataclass(frozen=True)
class Peaks:
    """Bytes that stand before the first update, the most of each phase, and the high water of the process."""

    before: int
    phases: dict[str, int]
    process: int

    @property
    def peak(self) -> int:
        return max(self.phases.values())


def measure(case: Case, source: str | None) -> tuple[Peaks, RunShape]:
    """Runs two updates of a case; returns what they took, and the shape that the plan gets."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = build(case, source, folder)
        config = model.config
        config = config.__class__(**{k: v for k, v in config.to_dict().items() if k != "quantization_config"})
        trainer = trainer_of(case, model, tokenizer, folder)
        return peaks_of(trainer), shape_of(case, config, trainer.args)


def peaks_of(trainer: Any) -> Peaks:
    """Trains, and returns what it took."""
    models = [trainer.model]
    if hasattr(trainer, "critic"):
        models.append(trainer.critic.model)
    if getattr(trainer, "ref_model", None) is not None:
        models.append(trainer.ref_model)
    before = standing(*models)
    # Trainers lie in cycles of references: one that is collected later would count as memory given back
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen, _phases_named(trainer):
        trainer.train()
    phases = highest(seen.profiler.kineto_results.events())
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Peaks(before, {name: before + size for name, size in phases.items()}, process)


def highest(events: Any) -> dict[str, int]:
    """The most that the running sum of allocations and frees came to in each phase."""
    sizes: list[tuple[int, int]] = []
    spans: list[tuple[int, int, str]] = []
    for event in events:
        if event.name() == "[memory]":
            sizes.append((event.start_ns(), event.nbytes()))
        elif event.name() in (GENERATE, SCORE):
            spans.append((event.start_ns(), event.end_ns(), event.name().removeprefix("plan:")))
    spans.sort()
    starts = [start for start, _, _ in spans]
    most: dict[str, int] = {}
    total = 0
    for moment, size in sorted(sizes, key=lambda one: one[0]):
        total += size
        assert total > -UNSEEN, "something that stood before was given back"
        last = bisect_right(starts, moment) - 1
        phase = spans[last][2] if last >= 0 and moment <= spans[last][1] else "update"
        most[phase] = max(most.get(phase, 0), total)
    return most


@contextmanager
def _phases_named(trainer: Any) -> Generator[None]:
    names = {"_generate": GENERATE, "_get_per_token_logps_and_entropies": SCORE}
    replaced = [name for name in names if hasattr(trainer, name)]
    for name in replaced:
        setattr(trainer, name, _recorded(getattr(trainer, name), names[name]))
    try:
        yield
    finally:
        for name in replaced:
            delattr(trainer, name)


def _recorded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if name == SCORE and torch.is_grad_enabled():
            return function(*args, **kwargs)
        with record_function(name):
            return function(*args, **kwargs)

    return call


def standing(*models: Any) -> int:
    """Bytes of all tensors that models hold, constants of quantized weights included."""
    storages: dict[int, int] = {}

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()

    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            add(tensor)
            state = getattr(tensor, "quant_state", None)
            for one in (state, getattr(state, "state2", None)):
                for name in ("absmax", "code", "offset"):
                    add(getattr(one, name, None))
    return sum(storages.values())
