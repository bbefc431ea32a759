"""
When a symptom becomes a finding: after enough observations, enough of them in a row, and not twice while it lasts.
"""

from .finding import Finding
from .observations import Observations
from .rule import Rule, Symptom
from .settings import Settings


class Watcher:
    """
    One rule, watching a log that grows.

    Args:
        rule ([`Rule`]):
            The rule.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.observed = 0
        self._in_a_row, self._calm, self._onset, self._told = 0, 0, 0, False

    def look(self, seen: Observations, settings: Settings) -> Finding | None:
        """Returns the finding that the last row makes, or `None`."""
        key = self.rule.watches(seen)
        if key is None or key not in seen.row.values or (self.rule.of_rollouts and not seen.is_rollout):
            return None
        self.observed += 1
        if self.observed < self.rule.minimum:
            return None
        symptom = self.rule.look(seen, settings)
        if symptom is None:
            self._in_a_row, self._calm = 0, self._calm + 1
            if self._calm >= self.rule.calm:
                self._told = False
            return None
        self._onset = symptom.onset if not self._in_a_row else min(self._onset, symptom.onset)
        self._in_a_row, self._calm = self._in_a_row + 1, 0
        if self._told or self._in_a_row < self.rule.patience:
            return None
        self._told = True
        return self._finding(symptom, seen.row.step)

    def _finding(self, symptom: Symptom, step: int) -> Finding:
        rule = self.rule
        return Finding(
            rule=rule.name,
            onset=self._onset,
            step=step,
            message=_printable(symptom.message),
            numbers=dict(symptom.numbers),
            settings=tuple(_printable(one) for one in symptom.settings),
            advice=rule.advice,
            reference=rule.reference,
        )


def _printable(text: str) -> str:
    """A text on one line, without control characters: names in a log are whatever a reward function is called."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
