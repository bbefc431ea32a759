"""
`trl-dapo rewind RUN --find RULE`: until when a change would have prevented what the run shows.

Bisection, over the checkpoints that are there, then over the updates between two of them. Where an update has no
checkpoint, a branch that changes nothing makes one.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trl_dapo.host.whole_files import write_whole
from trl_dapo.rewind.bisection import Boundary, last_that_holds
from trl_dapo.rewind.branch import RUN_FOLDER
from trl_dapo.rewind.origin import TRAINER_STATE
from trl_dapo.rewind.rules import Bound, Rule, Seen, parse_rule

from .command_file import Started
from .errors import UsageError
from .rewind_options import Options, say
from .rewind_plan import Resolved, made, parse_changes, resolve
from .rewind_run import future_of
from .rewind_source import Source, judge, last_step, read_source


ASSUMED = "Taken for granted: a change that prevents it at a step also does so at every earlier one."


@dataclass
class Search:
    """
    One search.

    Args:
        options ([`Options`]):
            What was asked.
        source ([`Source`]):
            The run.
        rule ([`Rule`] or [`Bound`]):
            What is searched for.
        changes (`dict[str, Any]`):
            The change.
        end (`int`):
            Where each branch ends.
    """

    options: Options
    source: Source
    rule: Rule | Bound
    changes: dict[str, Any]
    end: int
    places: dict[int, tuple[Started, Path]] = field(default_factory=dict)
    answers: dict[int, bool] = field(default_factory=dict)

    def prevents(self, step: int) -> bool:
        """Returns whether a branch with the change, from a step on, does not show the rule; each step is run once."""
        if step not in self.answers:
            self.answers[step] = self._prevents(step)
        return self.answers[step]

    def _prevents(self, step: int) -> bool:
        start, checkpoint = self._place(step)
        (resolved,) = resolve(start, [self.changes], checkpoint)
        branch = made(start, resolved, checkpoint, step, self.end)
        future, failure = future_of(branch, start, self.options.folder, say)
        if future is None:
            raise UsageError(f"the branch from step {step} failed: {failure}")
        past = [entry for entry in self.source.origin.log if entry["step"] <= step]
        seen = self.rule.seen([*past, *future.log], step)
        told = "does not show it" if seen is None else f"shows it at step {seen.told}"
        say(f"{branch.name} from step {step}: {told}")
        return seen is None

    def _place(self, step: int) -> tuple[Started, Path]:
        """Returns a checkpoint of the run at a step; a branch that changes nothing makes it where there is none."""
        if step not in self.places:
            start, _, base, checkpoint = self.source.begin(step)
            if base < step:
                branch = made(start, Resolved(start.values, {}, {}), checkpoint, base, step, saves_end=True)
                future, failure = future_of(branch, start, self.options.folder, say)
                if future is None:
                    raise UsageError(f"the branch to step {step} failed: {failure}")
                checkpoint = self.options.folder / branch.folder_name / RUN_FOLDER / f"checkpoint-{step}"
            self.places[step] = (start, checkpoint)
        return self.places[step]


def find(options: Options) -> int:
    """Searches, prints what was found, and writes it to `find.json`."""
    source = read_source(options)
    (changes,) = parse_changes(options.groups, source.command)
    rule = parse_rule(str(options.find), judge(options.run))
    seen = rule.seen(source.origin.log, 0)
    if seen is None:
        raise UsageError(f"--find {rule}: the run's log does not show it, up to step {source.origin.last}.")
    steps = [step for step in source.origin.checkpoints if step < seen.told]
    source.begin(seen.told - 1)  # raises where there is none
    end = min(seen.told + (options.steps or 0), last_step(source.origin.checkpoints[steps[-1]] / TRAINER_STATE))
    search = Search(options, source, rule, changes, end)
    boundary = _search(search, steps, seen)
    for line in _lines(search, boundary, seen, steps):
        print(line)
    _write(search, boundary, seen)
    return 0


def _search(search: Search, steps: list[int], seen: Seen) -> Boundary:
    coarse = last_that_holds(steps, search.prevents)
    if coarse.last is None:
        return coarse
    between = range(coarse.last, (coarse.first or seen.told - 1) + 1)
    fine = last_that_holds(between, search.prevents, neighbours=True)
    return Boundary(fine.last, fine.first, {**coarse.asked, **fine.asked})


def _lines(search: Search, found: Boundary, seen: Seen, steps: list[int]) -> list[str]:
    change = ", ".join(f"{name}={value}" for name, value in search.changes.items())
    lines = [f"{search.rule}: the run shows it from step {seen.onset} on, told at step {seen.told}."]
    if found.last is None:
        lines.append(f"{change} does not prevent it by step {search.end}, not even from step {steps[0]} on.")
        return lines
    if found.first is None:
        lines.append(f"{change} still prevents it by step {search.end} from step {found.last} on, right before.")
    else:
        lines.append(
            f"{change} prevents it by step {search.end} where it is set at step {found.last} or before; at step "
            f"{found.first} it is too late."
        )
    lines.append(
        f"{ASSUMED} Asked: {', '.join(f'{step}: {_word(own)}' for step, own in sorted(found.asked.items()))}."
    )
    if found.contradictions:
        steps_told = ", ".join(map(str, found.contradictions))
        lines.append(
            f"That is not so here: step {steps_told} says otherwise. Read the answer as one boundary of several."
        )
    return lines


def _word(prevents: bool) -> str:
    return "prevented" if prevents else "shown"


def _write(search: Search, found: Boundary, seen: Seen) -> None:
    values = {
        "version": 1,
        "rule": str(search.rule),
        "seen": asdict(seen),
        "changes": search.changes,
        "end": search.end,
        "last_that_prevents": found.last,
        "first_that_does_not": found.first,
        "asked": {str(step): own for step, own in sorted(found.asked.items())},
        "contradictions": found.contradictions,
    }
    write_whole(search.options.folder / "find.json", json.dumps(values, indent=1))
