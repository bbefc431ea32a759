"""
A right and a wrong completion, chosen from the trainer's table of completions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..dapo.raw_metric import PENALTY_NAME
from .plain import text_of


@dataclass(frozen=True)
class Sample:
    """
    A completion that is shown, as plain text.

    Args:
        kind (`str`): `"right"` or `"wrong"`; where rewards are no verdicts, `"best"` or `"worst"`.
        prompt (`str`): its prompt.
        completion (`str`): what the policy wrote.
        reward (`float`): sum of its rewards, penalties on length left out.
        step (`int`): step at which it was trained on.
    """

    kind: str
    prompt: str
    completion: str
    reward: float
    step: int


def pick(table: Mapping[str, Any], step: int) -> tuple[Sample, ...]:
    """
    Returns the first completion with the highest reward and the first with the lowest, one where they are equal.

    Args:
        table (`Mapping[str, Any]`):
            Columns `prompt`, `completion` and `rewards`, the last by the function's name.
        step (`int`):
            The present step.

    Returns:
        `tuple[Sample, ...]`: None of a table without a reward that is finite.
    """
    prompts, completions = list(table.get("prompt", ())), list(table.get("completion", ()))
    rewards = _sums(table.get("rewards", {}), min(len(prompts), len(completions)))
    known = [row for row, reward in enumerate(rewards) if math.isfinite(reward)]
    if not known:
        return ()
    best, worst = max(known, key=rewards.__getitem__), min(known, key=rewards.__getitem__)
    verdicts = {rewards[row] for row in known} <= {-1.0, 0.0, 1.0}
    chosen = [best] if rewards[best] == rewards[worst] else [best, worst]
    kinds = [_kind(rewards[row], row == best, verdicts) for row in chosen]
    return tuple(
        Sample(kind, text_of(prompts[row]), text_of(completions[row]), rewards[row], step)
        for kind, row in zip(kinds, chosen, strict=True)
    )


def _kind(reward: float, is_best: bool, verdicts: bool) -> str:
    if verdicts:
        return "right" if reward > 0 else "wrong"
    return "best" if is_best else "worst"


def _sums(rewards: Mapping[str, Sequence[float]], rows: int) -> list[float]:
    columns = [list(column) for name, column in rewards.items() if name != PENALTY_NAME]
    columns = [column for column in columns if len(column) == rows]
    sums = []
    for row in range(rows):
        given = [column[row] for column in columns if column[row] is not None and not math.isnan(column[row])]
        sums.append(float(sum(given)) if given else math.nan)
    return sums
