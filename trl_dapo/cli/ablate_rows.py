"""
Which rows an ablation has: its designs, or values of fields, and what of the base contradicts them.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

from trl_dapo.ablation.designs import Design, comparison, make_design, vary
from trl_dapo.arena import REGIMES
from trl_dapo.dapo.toggles import TOGGLES

from .ablate_defaults import SEEDS
from .commands import ABLATE_RUN
from .errors import UsageError
from .script import make_parser


MOST_RUNS = 10_000

REFUSED = {
    "resume_from_checkpoint": "runs go on from their own checkpoints",
    "push_to_hub": "an ablation has many models",
    "load_best_model_at_end": "the policy that is measured is the one that spent the budget",
    "save_only_model": "a run that was stopped goes on from its checkpoint",
    "held_out_every": "runs are measured when a budget is spent, and at --points on the way",
    "num_train_epochs": "a run ends with its budget: give --samples or --steps",
    "ablation_run": "each run has its own",
    "dry_run": "--dry-run of `trl-dapo ablate` says it",
}
# Fields that say nothing about how a run trains
PASSING = ("output_dir", "ablation_run", "save_steps", "save_strategy", "save_total_limit", "report_to", "env")


def designs_of(options: argparse.Namespace, values: dict[str, Any], regime: str | None) -> list[Design]:
    """
    Returns the tables that were asked for; toggles that their rows set are taken out of `values`.

    Raises:
        [`UsageError`]: If rows and base contradict each other, or a field cannot be varied.
    """
    if options.vary:
        found = _varied(options.vary)
        _check_size(math.prod(map(len, found.values())), options)
        return [vary(found)]
    named = [make_design(name) for name in dict.fromkeys(options.design)]
    one = None if regime is None else REGIMES[regime].technique
    own = make_design("ladder") if one is None else comparison(one, REGIMES[str(regime)].others)
    designs = named or [own]
    for toggle in TOGGLES:
        asked = values.pop(toggle, None)
        on = next((row for design in designs for row in design.rows if row.changes.get(toggle)), None)
        if asked is False and on is not None:
            raise UsageError(
                f"{toggle}=False in the base contradicts --design {designs[0].name}: its row {on.name!r} turns it on. "
                "Leave it out, or compare values of single fields with --vary."
            )
    return designs


def _varied(asked: Sequence[str]) -> dict[str, list[Any]]:
    """Returns the values of each varied field, with the type that the field has."""
    found: dict[str, list[Any]] = {}
    for text in asked:
        name, mark, listed = text.partition("=")
        if not mark or not listed or not name or name.startswith("-") or name in found:
            raise UsageError(f"--vary {text}: FIELD=A,B is needed, each field once.")
        parser = make_parser(ABLATE_RUN)
        typed = []
        for word in listed.split(","):
            written, rest = parser.written_values([f"--{name}={word}"])
            if rest or name not in written:
                nearest = parser.nearest_option(f"--{name}")
                raise UsageError(
                    f"--vary {name}: there is no such field." + (f" Did you mean {nearest[2:]}?" if nearest else "")
                )
            typed.append(written[name])
        if len(set(map(str, typed))) < len(typed):
            raise UsageError(f"--vary {text}: a value is there twice.")
        _check_varied(name)
        found[name] = typed
    return found


def _check_varied(name: str) -> None:
    if name in ("seed", "output_dir", "max_steps"):
        raise UsageError(f"--vary {name}: it is set by --seeds, --output_dir and the budget. Vary another field.")
    if name in REFUSED:
        raise UsageError(f"--vary {name}: {REFUSED[name]}. Vary another field.")
    if name in PASSING or name.startswith(("held_out", "logging_", "eval_")):
        raise UsageError(
            f"--vary {name}: all rows are measured, logged and saved alike, so that they can be compared. Vary a "
            "field of the training."
        )


def _check_size(rows: int, options: argparse.Namespace) -> None:
    runs = rows * (options.seeds or SEEDS)
    if runs > MOST_RUNS:
        raise UsageError(
            f"--vary and --seeds: {rows} rows with {options.seeds or SEEDS} seeds are {runs} runs, and at most "
            f"{MOST_RUNS} are planned. Vary fewer fields, or lower --seeds."
        )
