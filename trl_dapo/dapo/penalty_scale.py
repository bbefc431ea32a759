"""
How much the length penalty takes at full length, by default half of what a right answer is worth.

The paper pays +1 and -1 (Eq. 7 of https://huggingface.co/papers/2503.14476) and takes up to 1 for length (Eq. 13), so
that a right answer of full length stays above every wrong one. With another reward, the same half is another number.
"""

from typing import Any

import torch
from accelerate.logging import get_logger

from .config import DAPOConfig
from .worth import Worth


logger = get_logger(__name__)

PAPER_SHARE = 0.5

# Where a later rollout shows so many times the distance, the first one had only a part of it
TOLD_FROM = 1.5


def fitting_factor(distance: float) -> float:
    """Returns the paper's share of a distance, rounded to what the log prints, so that it can be set."""
    return float(f"{PAPER_SHARE * distance:.6g}")


class PenaltyScale:
    """
    The factor of the length penalty: the config's; else from what reward functions declare; else from the first
    rollout in which the raw metric varies. Once known, it stays.

    Args:
        worth ([`Worth`]):
            What a right answer is worth.
        args ([`DAPOConfig`]):
            Its `overlong_penalty_factor` and `dynamic_sampling_tolerance`.

    Attributes:
        factor (`float` or `None`):
            The factor, `None` until it is known.
    """

    def __init__(self, worth: Worth, args: DAPOConfig) -> None:
        self._worth, self._tolerance = worth, args.dynamic_sampling_tolerance * worth.unit
        self.is_set = args.overlong_penalty_factor is not None
        self.factor = args.overlong_penalty_factor
        self._told: set[str] = set()
        distance = None if self.is_set else worth.declared
        self._is_seen = not self.is_set and distance is None
        if distance is not None:
            cause = "weights" if worth.is_normalized else "declarations and weights"
            self._settle(distance, f"by the {cause} of {', '.join(stake.name for stake in worth.stakes)}")

    def forget(self) -> None:
        """Forgets a distance that was seen, as at the start of a run."""
        if self._is_seen:
            self.factor = None

    def learn(self, rewards_BF: torch.Tensor, step: int) -> None:
        """
        Takes the scale from a rollout where it is not known yet.

        Args:
            rewards_BF (`torch.Tensor`):
                Rewards of all that was generated for the rollout, by all processes, shape `(B, F)`.
            step (`int`):
                Optimizer updates so far.
        """
        if self.is_set:
            return
        if not self._is_seen:
            self._tell_of_surprises(rewards_BF)
            return
        distance = self._worth.seen(rewards_BF)
        if self.factor is None and distance > self._tolerance:
            self._settle(distance, f"in the rollout at step {step}")
        elif self.factor is not None and fitting_factor(distance) >= TOLD_FROM * self.factor:
            self._tell(
                "wider",
                f"A right answer is worth {distance:g} more than a wrong one in the rollout at step {step}, and the "
                f"length penalty stays at {self.factor}, from an earlier one. Set "
                f"overlong_penalty_factor={fitting_factor(distance)} to have half of it.",
            )

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "is_seen": self._is_seen}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Goes on with a scale that was seen; says in one line where the factor is another than the checkpoint's."""
        if self._is_seen:
            self.factor = state["factor"] if state is not None and state["is_seen"] else None
        if state is None and not self.is_set:
            logger.warning(
                "The checkpoint holds no scale of the length penalty: it was saved without the penalty, or by a "
                "version of trl_dapo whose factor was 1.0 where none was set. To go on with that, set "
                "overlong_penalty_factor=1.0."
            )
        elif state is not None and state["factor"] != self.factor:
            logger.warning(
                f"The factor of the length penalty was {state['factor']} in the checkpoint and is {self.factor} from "
                "here on (None: until the raw metric varies). Set `overlong_penalty_factor` to keep it."
            )

    def _settle(self, distance: float, source: str) -> None:
        self.factor = fitting_factor(distance)
        logger.warning(
            f"A right answer is worth {distance:g} more than a wrong one, {source}; the length penalty takes up to "
            f"half of it, as in the DAPO paper. Set overlong_penalty_factor={self.factor} to fix it."
        )

    def _tell_of_surprises(self, rewards_BF: torch.Tensor) -> None:
        """Says once where rewards are not what the functions declare, or do not add up in each completion."""
        for stake in self._worth.stakes:
            outside = stake.outside(rewards_BF)
            if outside:
                self._tell(
                    f"outside {stake.name}",
                    f"The reward function {stake.name!r} declares reward_range={stake.declared} and returned "
                    f"{outside[0]:g}. The length penalty follows from the declaration: correct it, or set "
                    f"`overlong_penalty_factor` (now {self.factor}).",
                )
        least, whole = self._worth.least(rewards_BF), self._worth.declared or 0.0
        if fitting_factor(least) < fitting_factor(whole):
            self._tell(
                "least",
                f"Not every reward function applies to every completion: a right answer is worth {least:g} in some, "
                f"and the length penalty is half of {whole:g}. Set overlong_penalty_factor={fitting_factor(least)} to "
                "have half of the smaller one.",
            )

    def _tell(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.warning(line)
