"""
What a run is searched for: a rule of the diagnosis, or a bound on a metric of its log.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ..monitor.diagnosis import NAMES


_BOUND = re.compile(r"\s*(?P<key>[^<>\s]+)\s*(?P<sign>[<>])\s*(?P<bound>\S+)\s*")

Log = Sequence[Mapping[str, Any]]
Judge = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class Seen:
    """Where a rule was seen: since when it holds, and the step of the log that tells it."""

    onset: int
    told: int


@dataclass(frozen=True)
class Bound:
    """A bound on a metric, such as `entropy<0.1`: seen at the first entry of the log that is beyond it."""

    key: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.key}{self.sign}{self.bound:g}"

    def seen(self, log: Log, after: int) -> Seen | None:
        """Returns where the bound is passed first after a step, or `None`; what is no number passes none."""
        for entry in log:
            value = entry.get(self.key)
            if entry["step"] > after and isinstance(value, (int, float)) and self._is_beyond(value):
                return Seen(entry["step"], entry["step"])
        return None

    def _is_beyond(self, value: float) -> bool:
        return value < self.bound if self.sign == "<" else value > self.bound


@dataclass(frozen=True)
class Rule:
    """A rule of the diagnosis, by name."""

    name: str
    judge: Judge

    def __str__(self) -> str:
        return self.name

    def seen(self, log: Log, after: int) -> Seen | None:
        """Returns the first finding of the rule that is told after a step, or `None`."""
        found = [one for one in self.judge(list(log)) if one.rule == self.name and one.step > after]
        first = min(found, key=lambda one: one.step, default=None)
        return None if first is None else Seen(first.onset, first.step)


def parse_rule(text: str, judge: Judge) -> Rule | Bound:
    """
    Returns the rule that a text names.

    Raises:
        `ValueError`: If it is a bound that cannot be read, or the name of no rule.
    """
    if "<" in text or ">" in text:
        match = _BOUND.fullmatch(text)
        try:
            return Bound(match["key"], match["sign"], float(match["bound"]))  # ty: ignore[not-subscriptable]
        except (TypeError, ValueError) as error:
            raise ValueError(f"--find {text}: write a metric, < or >, and a number, as in entropy<0.1.") from error
    if text not in NAMES:
        near = get_close_matches(text, NAMES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"--find {text} is no rule of the diagnosis.{hint} They are {', '.join(NAMES)}. Or give a bound on "
            "a metric, as in entropy<0.1."
        )
    return Rule(text, judge)
