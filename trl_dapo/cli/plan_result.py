"""
The answer of `trl-dapo plan` as a value: what a run needs, whether it fits, what to change, and how long a step takes.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from trl_dapo.planning.advice import Change, Largest, chunk_for, first_change, largest
from trl_dapo.planning.cards import Card, sizes
from trl_dapo.planning.memory import plan_memory
from trl_dapo.planning.memory_plan import MemoryPlan
from trl_dapo.planning.plans import MOST_PLANS, Plans
from trl_dapo.planning.throughput import StepTime

from .plan_shape import Planned


# Chunks that are recommended leave this share of a card free
SPARE = 0.1


@dataclass(frozen=True)
class Verdict:
    """
    A run on a card.

    Args:
        card ([`Card`]):
            The card.
        fits (`bool`):
            Whether the run does.
        spare (`int`):
            Bytes that are left; below 0 where it does not fit.
        change ([`Change`], *optional*):
            The first knob to turn where it does not fit.
        largest ([`Largest`]):
            The most of each that fits.
        chunk (`int`, *optional*):
            Recommended `generation_chunk_size`; `None` without generation.
    """

    card: Card
    fits: bool
    spare: int
    change: Change | None
    largest: Largest
    chunk: int | None


@dataclass(frozen=True)
class Result:
    """What the command prints."""

    command: str
    planned: Planned
    plan: MemoryPlan
    batch: tuple[str, ...]
    verdict: Verdict | None
    time: StepTime | None
    fitting: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 where the run does not fit on the card that was asked for, else 0."""
        return int(self.verdict is not None and not self.verdict.fits)

    def as_dict(self) -> dict[str, Any]:
        """Returns all of it as JSON has it; bytes are whole numbers."""
        shape, plan = self.planned.shape, self.plan
        return {
            "command": self.command,
            "needs_bytes": plan.bytes,
            "peak": plan.peak.name,
            "fragmentation": plan.fragmentation,
            "phases": [
                {"name": phase.name, "bytes": phase.bytes, "items": [asdict(item) for item in phase.items]}
                for phase in plan.phases
            ],
            "modelled": list(plan.modelled),
            "assumptions": list(self.planned.assumptions),
            "batch": list(self.batch),
            "prompt_length": shape.prompt_length,
            "completion_length": shape.completion_length,
            "chunk_rows": shape.chunk_rows,
            "fits_cards": list(self.fitting),
            "gpu": None if self.verdict is None else _verdict(self.verdict, shape),
            "seconds_per_step": None
            if self.time is None
            else {**self.time.seconds, "total": self.time.total, "assumptions": list(self.time.assumptions)},
        }


def plans_on(card_bytes: int | None, most: int = MOST_PLANS, context: int | None = None) -> Plans:
    """
    Returns plans for a card: traced where they are an answer, replayed where a search asks for them.

    Args:
        card_bytes (`int`, *optional*):
            Memory of the card.
        most (`int`, *optional*):
            Plans that may be made.
        context (`int`, *optional*):
            Bytes that the card loses to a context; see [`~trl_dapo.planning.memory.plan_memory`].
    """
    plan = partial(plan_memory, card_bytes=card_bytes, context=context)
    return Plans(plan, most, lambda shape, limit: plan(shape, traced_from=limit))


def judged(planned: Planned, plan: MemoryPlan, card: Card, plans: Plans) -> Verdict:
    """Returns whether a run fits on a card, what to change if not, and the largest that does."""
    shape, free = planned.shape, card.usable
    fits = plan.bytes <= free
    change = None if fits else first_change(shape, plans, free)
    return Verdict(
        card, fits, free - plan.bytes, change, largest(shape, plans, free), chunk_for(shape, plans, free, SPARE)
    )


def fitting_sizes(plan: MemoryPlan) -> tuple[str, ...]:
    """Returns the common sizes of cards on which a plan fits."""
    return tuple(one.name for one in sizes() if plan.bytes <= one.usable)


def _verdict(verdict: Verdict, shape: Any) -> dict[str, Any]:
    change = verdict.change
    return {
        "name": verdict.card.name,
        "total_bytes": verdict.card.total,
        "usable_bytes": verdict.card.usable,
        "fits": verdict.fits,
        "spare_bytes": verdict.spare,
        "change": None
        if change is None
        else {"field": change.field, "value": change.value, "needs_bytes": change.needs, "saves_bytes": change.brings},
        "largest": asdict(verdict.largest),
        "recommended_chunk": verdict.chunk,
        "recommended_tokens_per_call": tokens_of(verdict.chunk, shape),
    }


def tokens_of(chunk: int | None, shape: Any) -> int | None:
    """Returns the tokens of a call of `generate` with so many completions."""
    return None if chunk is None else chunk * (shape.prompt_length + shape.completion_length)
