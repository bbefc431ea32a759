"""
Seconds per step, by phase, from how fast a machine generates.

A model of time, not a measurement: tokens of each phase, divided by tokens per second of that phase. Where only the
speed of generation is stated, that of the others follows from how often a weight is used per token.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .measured import RunMeasured
from .run_shape import RunShape


# Tokens that a forward pass reads while `generate` writes one. Generation is bound by reading the weights, a pass by
# arithmetic; on consumer cards with models of 0.5 to 7 billion parameters it is about ten
FORWARD_RATIO = 10.0
# Share of groups that are informative, where nothing is known of it
INFORMATIVE = 0.5


@dataclass(frozen=True)
class Speeds:
    """
    Tokens per second.

    Args:
        generate (`float`):
            Completion tokens that are written.
        score (`float`):
            Tokens of prompts and completions that a pass without gradient reads.
        update (`float`):
            Tokens of prompts and completions that are read forward and backward.
        source (`str`):
            Where they are from.
    """

    generate: float
    score: float
    update: float
    source: str


@dataclass(frozen=True)
class StepTime:
    """
    Seconds of one optimizer step; a rollout's time is shared by its updates.

    Args:
        seconds (`Mapping[str, float]`):
            By phase.
        assumptions (`tuple[str, ...]`):
            What it rests on, one line each.
    """

    seconds: Mapping[str, float]
    assumptions: tuple[str, ...]

    @property
    def total(self) -> float:
        """All phases."""
        return sum(self.seconds.values())


def forward_equivalents(shape: RunShape) -> float:
    """
    Returns how many forward passes an update costs: 1 for the forward pass, 2 for the backward pass (1 where weights
    are frozen, since only gradients of activations are computed), and 1 for gradient checkpointing.
    """
    backward = 2.0 if shape.lora is None else 1.0
    return 1.0 + backward + (1.0 if shape.gradient_checkpointing else 0.0)


def stated_speeds(shape: RunShape, tokens_per_second: float, ratio: float = FORWARD_RATIO) -> Speeds:
    """Returns the speeds that follow from that of generation (for DPO and reward models, from that of the update)."""
    if not tokens_per_second > 0 or not ratio > 0:
        raise ValueError(f"speeds must be above 0, got tokens_per_second={tokens_per_second}, ratio={ratio}.")
    forward = tokens_per_second * ratio
    update = forward / forward_equivalents(shape)
    if not shape.round_rows:
        return Speeds(0.0, forward_equivalents(shape) * tokens_per_second, tokens_per_second, "as stated")
    return Speeds(
        tokens_per_second,
        forward,
        update,
        f"generation as stated; a forward pass reads {ratio:g} times as many tokens",
    )


def measured_speeds(measured: RunMeasured, shape: RunShape) -> Speeds:
    """
    Returns the speeds that a run has measured.

    Raises:
        `ValueError`: If it lacks a phase that the planned run has.
    """
    found = {name: one.tokens / one.seconds for name, one in measured.phases.items() if one.tokens and one.seconds}
    needed = ["update", *(["generate"] if shape.round_rows else [])]
    if lacking := [name for name in needed if name not in found]:
        raise ValueError(f"the run has measured no speed of the phase {lacking[0]!r}. Take a run of the same kind.")
    # Scoring holds the reward functions too; a run without it reads as fast as a forward pass of its update
    score = found.get("score", found["update"] * forward_equivalents(shape))
    return Speeds(found.get("generate", 0.0), score, found["update"], f"measured on {measured.device} by that run")


def expected_rounds(informative: float, most: float) -> float:
    """
    Returns how many batches dynamic sampling generates per batch that is trained on: `1 / informative`, and no more
    than `most`.

    A lower bound, since rounds are whole and a share is not known beforehand.
    """
    if not 0 < informative <= 1:
        raise ValueError(f"the share of informative groups must be in (0, 1], got {informative}.")
    return min(1.0 / informative, max(1.0, most))


def step_time(shape: RunShape, speeds: Speeds, trained_rows: int, iterations: float, length: float) -> StepTime:
    """
    Returns the seconds of one optimizer step.

    Args:
        shape ([`RunShape`]):
            The run; its `rounds` are batches that are generated per batch that is trained on.
        speeds ([`Speeds`]):
            Of the machine.
        trained_rows (`int`):
            Rows of a rollout that are trained on, on this device (of an update, without generation).
        iterations (`float`):
            Passes over a rollout.
        length (`float`):
            Mean tokens of a completion.
    """
    row = shape.prompt_length + length
    updates = max(shape.updates, 1e-9)
    seconds = {}
    if shape.round_rows:
        seconds["generate"] = trained_rows * shape.rounds * length / speeds.generate / updates
    if shape.scoring_rows:
        passes = 1.0 + (shape.reference != "none" and shape.round_rows > 0)
        seconds["score"] = trained_rows * row * passes / speeds.score / updates
    seconds["update"] = trained_rows * row * iterations / speeds.update / updates
    lines = [f"speeds: {speeds.source}", f"rows of {row:g} tokens, {length:g} of them the completion's"]
    if shape.round_rows and shape.rounds > 1:
        lines.append(f"{shape.rounds:.2g} batches generated per batch that is trained on")
    return StepTime(seconds, tuple(lines))
