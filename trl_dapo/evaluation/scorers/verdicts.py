"""
What a rule says of one completion, and what a scorer makes of it.
"""

from dataclasses import dataclass
from typing import Literal


ANSWER_CHARACTERS = 1_000

Outcome = Literal["right", "wrong", "unparseable"]


@dataclass(frozen=True)
class Verdict:
    """
    What a rule says, before it is a reward.

    Args:
        answer (`str`, *optional*):
            Normalised answer. `None`: the completion has none.
        score (`float`, *optional*):
            From 0.0, wrong, to 1.0, right. `None`: there is no answer to score.
        readable_solution (`bool`, *optional*, defaults to `True`):
            Whether the rule can read the data set's solution.
        timed_out (`bool`, *optional*, defaults to `False`):
            Whether the time limit stopped the rule.
    """

    answer: str | None = None
    score: float | None = None
    readable_solution: bool = True
    timed_out: bool = False


NO_ANSWER = Verdict()
UNREADABLE_SOLUTION = Verdict(readable_solution=False)


@dataclass(frozen=True)
class Judgement:
    """
    What a scorer says of one completion.

    Args:
        outcome (`str`):
            `"right"`, `"wrong"` or `"unparseable"`. The last one also stands for an answer that timed out, and for a
            solution that the scorer cannot read.
        reward (`float`, *optional*):
            The reward. `None`: the scorer does not apply, as in TRL.
        answer (`str`, *optional*):
            Normalised answer, by which equal answers are counted (maj@k). `None` where there is none.
        timed_out (`bool`, *optional*, defaults to `False`):
            Whether the time limit stopped the scorer.
        readable_solution (`bool`, *optional*, defaults to `True`):
            `False` if the data set's solution cannot be read. This says nothing about the completion.
    """

    outcome: Outcome
    reward: float | None
    answer: str | None
    timed_out: bool = False
    readable_solution: bool = True


def compared(answer: str, solution: str) -> Verdict:
    """Returns the verdict on two normalised texts: right if they are equal."""
    return Verdict(answer, float(answer == solution))
