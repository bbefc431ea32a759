"""
`trl-dapo ablate`: which part of DAPO does what, as a table with seeds, matched budgets and intervals.

In here: the options and what can be checked without torch. `ablate_plan.py` makes runs of them, and `ablate_start.py`
starts these and reports.
"""

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from trl_dapo.ablation.designs import DESIGNS

from .ablate_defaults import LARGEST, MARGIN, MAX_SEEDS, MOST_SEED, OUTPUT_DIR, SEEDS
from .config_file import read_config_file, split_config_flag
from .errors import UsageError, one_line
from .folders import check_folder
from .grouped_help import GroupedHelp
from .json_words import mapping_of


PRESETS = ("arena", "gsm8k-0.5b-12gb", "dapo-math-1.5b-24gb", "paper-32b")
MATCHES = ("samples", "steps", "seconds")
LAUNCHERS = ("local", "slurm", "ray")
SECTION = "ablation"  # of a YAML file: options of this command


def make_parser(prog: str = "trl-dapo ablate") -> argparse.ArgumentParser:
    """Returns the parser of the command's options; all other options are those of `trl-dapo dapo`."""
    parser = GroupedHelp(
        prog=prog,
        allow_abbrev=False,
        description="Run the rows of an ablation with several seeds and equal budgets, and report each row with its "
        "interval. Without a config: the built-in task. All options of `trl-dapo dapo` change the base that rows "
        "differ from. A stopped ablation goes on when the same command is run again.",
    )
    parser.error = _refuse
    _add_rows(parser.add_argument_group("rows"))
    _add_budget(parser.add_argument_group("seeds and budget"))
    _add_measuring(parser.add_argument_group("measuring"))
    _add_starting(parser.add_argument_group("running"))
    _add_report(parser.add_argument_group("report"))
    return parser


def _add_rows(group: Any) -> None:
    group.add_argument("--config", metavar="FILE", help="YAML file of `trl-dapo dapo`: the base.")
    group.add_argument("--preset", choices=PRESETS, help="A base of this package (default: arena).")
    group.add_argument(
        "--design",
        nargs="+",
        choices=DESIGNS,
        default=[],
        help="Which tables (default: ladder). The paper's ladder, DAPO without each part, each part alone, all "
        "combinations; they share their runs.",
    )
    group.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="FIELD=A,B",
        help="A row for each value of a field. Several give all combinations. In place of --design.",
    )
    group.add_argument(
        "--regime",
        help="Settings of the built-in task (default: default). In the others, a technique has something to do.",
    )


def _add_budget(group: Any) -> None:
    group.add_argument("--seeds", type=int, help=f"Seeds of each row (default: {SEEDS}).")
    group.add_argument("--first_seed", type=int, default=0, help="First seed (default: 0).")
    group.add_argument(
        "--match",
        nargs="+",
        choices=MATCHES,
        default=[],
        help="What rows spend equally (default: samples). Completions generated, optimizer steps, or seconds of "
        "training; several give a table each, from the same runs.",
    )
    group.add_argument(
        "--samples", type=int, help="Completions of a run. By default those of max_steps without refills."
    )
    group.add_argument("--steps", type=int, help="Steps of a run (default: max_steps).")
    group.add_argument("--seconds", type=float, help="Seconds of training of a run.")
    group.add_argument(
        "--until",
        choices=["resolved"],
        help="Add seeds until the differences are resolved. Each row's to the one before: resolved, or shown to be "
        "within --margin.",
    )
    group.add_argument("--margin", type=float, help=f"With --until: what is no difference ({MARGIN}).")
    group.add_argument("--max_seeds", type=int, help=f"With --until: most seeds ({MAX_SEEDS}).")


def _add_measuring(group: Any) -> None:
    group.add_argument("--temperature", type=float, help="Of the evaluation (default: 1.0).")
    group.add_argument("--top_p", type=float, help="Of the evaluation (default: 0.7). The built-in task: 1.0.")
    group.add_argument("--points", type=int, default=3, help="Measurements on the way (default: 3).")
    group.add_argument("--points_k", type=int, default=1, help="Completions per question there (default: 1).")


def _add_starting(group: Any) -> None:
    group.add_argument("--output_dir", type=_folder, metavar="DIR", help=f"Folder (default: {OUTPUT_DIR}).")
    group.add_argument("--jobs", type=int, help="Runs at a time (default: 1). The built-in task: one per core.")
    group.add_argument("--launcher", choices=LAUNCHERS, default="local", help="Where runs start (default: local).")
    group.add_argument(
        "--launcher_options",
        type=mapping_of,
        default={},
        metavar="JSON",
        help='For the launcher. {"slurm_partition": "gpu", "gpus_per_node": 1}, or {"num_gpus": 1} of ray.',
    )
    group.add_argument("--keep_models", action="store_true", help="Save the last policy of each run.")
    group.add_argument("--prepare", action="store_true", help="Write the runs' folders, and start nothing.")
    group.add_argument("--dry-run", "--dry_run", action="store_true", help="Print each command and the budget.")


def _add_report(group: Any) -> None:
    group.add_argument("--report", action="store_true", help="Report what is finished, start nothing.")
    group.add_argument(
        "--join", nargs="+", type=Path, default=[], metavar="FOLDER", help="Further folders of results."
    )
    group.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="Set two reports side by side.")


def main(argv: list[str]) -> int:
    """Runs the ablation and returns the exit code: 0, 1 if runs failed, 2 for a mistake, 130 after Ctrl-C."""
    options, base, words = parse(argv)
    if options.compare:
        from .ablate_start import compare_reports

        return compare_reports(*options.compare)
    from .ablate_start import run

    return run(options, base, words)


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, Any], list[str]]:
    """
    Returns the options, the fields of the base's file, and the words that belong to `trl-dapo dapo`.

    Raises:
        [`UsageError`]: For what can be seen to be wrong without torch.
    """
    argv = split_config_flag(argv)
    parser = make_parser()
    known, _ = parser.parse_known_args(argv)
    if known.config and known.preset:
        raise UsageError(f"--preset {known.preset} and --config {known.config} are both a base. Give one of them.")
    base = _preset(known.preset) if known.preset else read_config_file(argv)
    section = base.pop(SECTION, {})
    if not isinstance(section, Mapping):
        raise UsageError(f"{SECTION} in the file is {section!r}: a mapping of options of this command is needed.")
    section = {name: value for name, value in section.items() if not _gives_way(name, known)}
    options, words = parser.parse_known_args([*_words(section, parser), *argv])
    _check(options)
    return options, base, words


def _gives_way(name: str, written: argparse.Namespace) -> bool:
    """Whether an option of the file contradicts those on the command line, which win."""
    if name in ("design", "vary"):
        return bool(written.design or written.vary)
    return name in MATCHES and bool(written.match) and name not in written.match


def preset_file(name: str) -> Path:
    """Returns the YAML file of a preset."""
    from importlib.resources import files

    return Path(str(files("trl_dapo.ablation") / "presets" / f"{name}.yaml"))


def _preset(name: str) -> dict[str, Any]:
    return read_config_file(["--config", str(preset_file(name))])


def _words(section: Mapping[str, Any], parser: argparse.ArgumentParser) -> list[str]:
    """Returns a file's options as words, which flags behind them override."""
    known = {action.dest: action for action in parser._actions}
    words: list[str] = []
    for name, value in section.items():
        if name not in known or name in ("config", "preset", "compare", "help"):
            raise UsageError(f"{SECTION}: {name!r} is no option of `trl-dapo ablate`. See `trl-dapo ablate --help`.")
        if value is not None:
            words += _option_words(known[name], value)
    return words


def _option_words(action: argparse.Action, value: Any) -> list[str]:
    name, is_flag = action.dest, action.nargs == 0
    takes_several = action.nargs == "+" or isinstance(action, argparse._AppendAction)
    is_mapping = isinstance(value, Mapping)
    if isinstance(value, bool) != is_flag or is_mapping != (name == "launcher_options"):
        needed = "true or false" if is_flag else "a mapping" if name == "launcher_options" else "a text or number"
        raise UsageError(f"{SECTION}: {name}: {needed} is needed, got {value!r}.")
    if isinstance(value, list):
        if not takes_several or not all(isinstance(one, (str, int, float)) for one in value):
            needed = "a list of texts or numbers" if takes_several else "one value"
            raise UsageError(f"{SECTION}: {name}: {needed} is needed, got {value!r}.")
        if action.nargs == "+":
            return [f"--{name}", *map(str, value)]
        return [f"--{name}={one}" for one in value]
    if is_flag:
        return [f"--{name}"] if value else []
    return [f"--{name}={json.dumps(value) if is_mapping else value}"]


def _check(options: argparse.Namespace) -> None:
    _check_actions(options)
    _check_numbers(options)
    if options.vary and options.design:
        raise UsageError("--vary and --design both say which rows there are. Give one of them.")
    if options.until and options.max_seeds < (options.seeds or SEEDS):
        raise UsageError(
            f"--max_seeds {options.max_seeds} is below the {options.seeds or SEEDS} seeds to begin with. Raise it, or "
            "lower --seeds."
        )
    if options.launcher == "local" and options.launcher_options:
        raise UsageError("--launcher_options has no effect with --launcher local. Leave it out.")
    for match in MATCHES:
        if getattr(options, match) is not None and match not in (options.match or ["samples"]):
            raise UsageError(f"--{match} has no effect without --match {match}. Add it, or leave --{match} out.")
    try:
        check_folder("--output_dir", str(options.output_dir or OUTPUT_DIR))
    except ValueError as error:
        raise UsageError(one_line(error)) from error


def _check_actions(options: argparse.Namespace) -> None:
    asked = [name for name in ("dry_run", "prepare", "report", "compare") if getattr(options, name)]
    if len(asked) > 1:
        raise UsageError(
            f"--{asked[0].replace('_', '-')} and --{asked[1]} are different things to do. Give one of them."
        )
    missing = next((folder for folder in options.join if not folder.is_dir()), None)
    if missing is not None:
        raise UsageError(f"--join {missing}: there is no such folder. Name a folder of results.")


def _check_numbers(options: argparse.Namespace) -> None:
    for name, default in {"margin": MARGIN, "max_seeds": MAX_SEEDS}.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
        elif not options.until:
            raise UsageError(f"--{name} has no effect without --until resolved. Add it, or leave --{name} out.")
    for name in ("samples", "steps", "seeds", "jobs", "max_seeds", "points_k"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}.")
    if options.points < 0:
        raise UsageError(f"--points must not be negative, got {options.points}.")
    if options.seconds is not None and not 0 < options.seconds < math.inf:
        raise UsageError(f"--seconds must be above 0 and finite, got {options.seconds:g}.")
    for name, largest in LARGEST.items():
        if (getattr(options, name) or 0) > largest:
            raise UsageError(f"--{name} must be at most {largest}, got {_short(getattr(options, name))}.")
    seeds = options.max_seeds if options.until else options.seeds or SEEDS
    if not 0 <= options.first_seed <= MOST_SEED - seeds:
        raise UsageError(
            f"--first_seed must be between 0 and {MOST_SEED - seeds}, for {seeds} seeds from there on, got "
            f"{_short(options.first_seed)}."
        )
    if not 0 < options.margin < 1:
        raise UsageError(f"--margin must be between 0 and 1, got {options.margin:g}.")


def _short(number: float) -> str:
    digits = str(number)
    return digits if len(digits) < 30 else f"a number of {len(digits)} digits"


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("a folder is needed, got ''")
    return Path(text)


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}. See `trl-dapo ablate --help`.")
