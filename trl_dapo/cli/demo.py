"""
`trl-dapo demo`: trains GRPO without KL and DAPO on the arena, live, and ends with a table and a plot of the curves.
"""

import argparse
import importlib.util
import math
import sys
import tempfile
import warnings
from pathlib import Path
from typing import NoReturn

from .errors import UsageError, one_line
from .folders import check_folder
from .grouped_help import GroupedHelp


DEFAULT_BUDGET = 16384
EVAL_EVERY = 8
COMPLETIONS_OF_A_ROLLOUT = 128
FILE_WIDTH = 120
# NumPy's generator takes 32 bits
MAX_SEED = 2**32
# The numbers and the plot of a run take less
LEAST_ROOM = 2**20


def make_parser(prog: str = "trl-dapo demo") -> argparse.ArgumentParser:
    """Returns the parser of the demo's options."""
    parser = GroupedHelp(
        prog=prog,
        allow_abbrev=False,
        description="Train GRPO without KL and DAPO from the same warm start on the same number of generated "
        "completions. The task is built in; a CPU needs minutes.",
    )
    parser.error = _refuse
    parser.add_argument("--seeds", type=int, default=1, help="Repeat with this many seeds (default: 1).")
    parser.add_argument("--seed", type=int, default=0, help="First seed (default: 0).")
    parser.add_argument(
        "--completions", type=int, default=DEFAULT_BUDGET, help=f"Completions to generate (default: {DEFAULT_BUDGET})."
    )
    parser.add_argument("--learning_rate", type=float, help="Learning rate of both (default: 2e-4).")
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("runs/demo"),
        help="Folder for curves.png and results.json (default: runs/demo).",
    )
    return parser


def main(argv: list[str]) -> int:
    """Runs the demo and returns the exit code."""
    options = make_parser().parse_args(argv)
    _check(options)
    _make_folder(options.output_dir)
    # Transformers warns about names that TRL still uses
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from trl_dapo.arena import load_warm_start
    from trl_dapo.arena.settings import LEARNING_RATE
    from trl_dapo.demo.display import shown
    from trl_dapo.demo.report import result_table, verdict, write_curves, write_json
    from trl_dapo.demo.run import DAPO, GRPO, RunResult, held_out_score, run_method

    # A file has no width, and rich's default of 80 columns would break the table
    console = Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH)
    console.print("The arena: a robot on a ring of 10 cells; `7a+b-c*=` asks where three moves take it from cell 7.")
    start = held_out_score(*load_warm_start())
    console.print(f"The warm start is right {start.accuracy:.1%} of the time on held-out prompts.")
    learning_rate = LEARNING_RATE if options.learning_rate is None else options.learning_rate
    results: list[RunResult] = []
    for seed in range(options.seed, options.seed + options.seeds):
        budget = options.completions
        # DAPO first: its refills decide how many completions it generates, and GRPO gets the same number
        for method in (DAPO, GRPO):
            with shown(console, method.name, seed, budget) as listener:
                result = run_method(method, seed, budget, listener, eval_every(budget), learning_rate)
            console.print(
                f"{method.name}, seed {seed}: held-out accuracy {result.score.accuracy:.3f} after "
                f"{result.completions} completions and {result.updates} updates, {result.seconds:.0f} s"
            )
            results.append(result)
            budget = result.completions
    results.sort(key=lambda result: (result.name != "GRPO", result.seed))
    console.print(result_table(start, results))
    console.print(verdict(results))
    write_json(options.output_dir / "results.json", start, results)
    write_curves(options.output_dir / "curves.png", start, results)
    console.print(f"Curves: {options.output_dir / 'curves.png'}, numbers: {options.output_dir / 'results.json'}")
    return 0


def eval_every(completions: int) -> int:
    """Returns the rollouts between two measurements on held-out prompts: fewer in a short run, so that it has some."""
    return max(1, min(EVAL_EVERY, completions // (8 * COMPLETIONS_OF_A_ROLLOUT)))


def _check(options: argparse.Namespace) -> None:
    if options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {options.seeds}.")
    if options.completions < COMPLETIONS_OF_A_ROLLOUT:
        raise UsageError(f"--completions must be at least 128, one rollout, got {options.completions}.")
    if not 0 <= options.seed <= MAX_SEED - options.seeds:
        raise UsageError(f"--seed must be between 0 and {MAX_SEED - options.seeds}, got {options.seed}.")
    rate = options.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        raise UsageError(f"--learning_rate must be {'finite' if rate == math.inf else 'above 0'}, got {rate:g}.")
    try:
        check_folder("--output_dir", str(options.output_dir))
    except ValueError as error:
        raise UsageError(one_line(error)) from error
    for package in ("matplotlib", "scipy"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"{package} is missing, and the report needs it: pip install 'trl-dapo[report]'.")


def _make_folder(folder: Path) -> None:
    """Makes the folder and writes into it once, so that minutes of training do not end in an error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(LEAST_ROOM))
            file.flush()
    except OSError as error:
        raise UsageError(f"--output_dir {folder} cannot be written to: {error.strerror}. Name another.") from error


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}. See `trl-dapo demo --help`.")
