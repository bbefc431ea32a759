"""
The diagnosis of a run: findings as a pure function of its log.

A log that grows is looked at row by row, so a run finds the same as its log does afterwards, and a run that resumes
finds again what it had found.
"""

from collections.abc import Iterable
from difflib import get_close_matches

from .finding import Finding
from .history import History, Row
from .hysteresis import Watcher
from .observations import Observations
from .rules import RULES, clip_inert
from .settings import Settings


ANY = "any"
NAMES = tuple(rule.name for rule in RULES)


class Diagnosis:
    """
    A diagnosis of a log that grows.

    Args:
        settings ([`Settings`], *optional*):
            What the run was set to, as far as it is known.

    Attributes:
        findings (`tuple[Finding, ...]`): what was found so far, in order.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = Settings() if settings is None else settings
        self.seen = Observations()
        self.findings: tuple[Finding, ...] = ()
        self._watchers = [Watcher(rule) for rule in RULES]

    def add(self, row: Row) -> tuple[Finding, ...]:
        """Looks at the next row of the log, and returns what is found by it."""
        self.seen.add(row)
        found = (watcher.look(self.seen, self.settings) for watcher in self._watchers)
        new = tuple(finding for finding in found if finding is not None)
        self.findings += new
        return new

    def undecided(self) -> dict[str, str]:
        """Returns the rules that could not tell, by name, each with what is missing."""
        reasons = {}
        for watcher in self._watchers:
            rule = watcher.rule
            if not watcher.observed:
                reasons[rule.name] = f"the log has not {rule.needs}"
            elif watcher.observed < rule.minimum:
                kind = "rollouts" if rule.of_rollouts else "logs"
                reasons[rule.name] = f"{watcher.observed} {kind} with its numbers, and {rule.minimum} are needed"
        if clip_inert.RULE.name not in reasons and clip_inert.updates_per_rollout(self.seen, self.settings) is None:
            reasons[clip_inert.RULE.name] = "neither log nor settings say how many updates a rollout feeds"
        return reasons

    def notes(self) -> tuple[str, ...]:
        """Returns what is as it should be, and may look wrong."""
        notes = []
        if clip_inert.updates_per_rollout(self.seen, self.settings) == 1 and not clip_inert.clips_higher(
            self.settings
        ):
            notes.append(
                "Each rollout feeds one update, so the ratio is exactly 1 and `clip_ratio/*` is 0: that is exact "
                "on-policy training. Clip bounds act with updates_per_rollout of 2 or more."
            )
        return tuple(notes)


def diagnose(history: History | Iterable, settings: Settings | None = None) -> tuple[Finding, ...]:
    """
    Returns what is wrong with a run, from its log.

    Args:
        history ([`History`] or `list[dict]`):
            The log: a trainer's `state.log_history`, or [`History.read`] of a `trainer_state.json`. Logs of plain TRL
            do too; what they do not tell, [`undecided`] says.
        settings ([`Settings`], *optional*):
            What the run was set to, see [`Settings.of`].

    Raises:
        `ValueError`: If the log is none.
    """
    return run_through(history, settings).findings


def undecided(history: History | Iterable, settings: Settings | None = None) -> dict[str, str]:
    """Returns the rules that a log cannot decide, by name, each with what is missing; arguments as [`diagnose`]."""
    return run_through(history, settings).undecided()


def run_through(history: History | Iterable, settings: Settings | None = None) -> Diagnosis:
    """Returns the diagnosis of a whole log; arguments as [`diagnose`]."""
    diagnosis = Diagnosis(settings)
    for row in (history if isinstance(history, History) else History.of(history)).rows:
        diagnosis.add(row)
    return diagnosis


def check_rules(names: Iterable[str], field: str = "stop_on") -> tuple[str, ...]:
    """
    Returns the names of rules, all of them for `"any"`.

    Raises:
        `ValueError`: If one is no rule's; the nearest is named.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    for name in given:
        if name != ANY and name not in NAMES:
            near = get_close_matches(str(name), [*NAMES, ANY], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{field}={name!r} is no rule.{hint} The rules are {', '.join(NAMES)}, or {ANY!r}.")
    return NAMES if ANY in given else given
