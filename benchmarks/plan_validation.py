"""
Memory that is planned against memory that is used: real trainers on the CPU, and published figures of GPUs.

    python benchmarks/plan_validation.py                       # a wide tiny model
    python benchmarks/plan_validation.py --smollm2 MODEL       # and SmolLM2-135M: a folder or an id on the Hub
    python benchmarks/plan_validation.py --published           # GPUs

`plan_cases` has the runs, `plan_peaks` says what is measured, `plan_published` has the figures.
"""

import argparse
import contextlib
import io
import logging
import sys
import warnings

from plan_cases import CASES, Case
from plan_peaks import Peaks, measure
from plan_published import show_published
from trl_dapo.planning.memory import plan_memory
from trl_dapo.planning.memory_plan import MemoryPlan


MIB = 2**20
LIMIT = 0.15
PHASES = ("generate", "score", "update")


def compare(case: Case, source: str | None) -> tuple[MemoryPlan, Peaks]:
    """Returns the plan of a case, and what it took."""
    with contextlib.redirect_stdout(io.StringIO()):
        peaks, shape = measure(case, source)
    return plan_memory(shape, device="cpu"), peaks


def row_of(case: Case, plan: MemoryPlan, peaks: Peaks) -> tuple[list[str], bool]:
    """Returns the cells of a case's row, and whether its error is within the limit."""
    planned = {phase.name: phase.bytes for phase in plan.phases}
    error = plan.bytes / peaks.peak - 1
    cells = [case.name, f"{peaks.before / MIB:.1f}", f"{peaks.peak / MIB:.1f}", f"{plan.bytes / MIB:.1f}"]
    cells.append(f"{error:+.1%}")
    for name in PHASES:
        both = name in planned and name in peaks.phases
        cells.append(f"{planned[name] / peaks.phases[name] - 1:+.1%}" if both else "")
    largest = sorted(plan.peak.items, key=lambda item: -item.bytes)[:2]
    cells.append(f"{plan.peak.name}: " + ", ".join(f"{item.name} {item.bytes / plan.bytes:.0%}" for item in largest))
    return cells, abs(error) < LIMIT


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().split("\n\n")[0])
    parser.add_argument("--smollm2", help="SmolLM2-135M-Instruct: a folder or an id on the Hub")
    parser.add_argument("--published", action="store_true", help="only published figures of GPUs")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    if arguments.published:
        show_published()
        return
    head = ("run", "stands", "measured MiB", "planned MiB", "error", *PHASES, "largest at the planned peak")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    beyond = []
    for case in CASES:
        if arguments.only in case.name and (case.model != "smollm2" or arguments.smollm2):
            cells, within = row_of(case, *compare(case, arguments.smollm2))
            print("| " + " | ".join(cells) + " |", flush=True)
            if not within:
                beyond.append(case.name)
    if beyond:
        sys.exit(f"error of {LIMIT:.0%} or more: {'; '.join(beyond)}")


if __name__ == "__main__":
    main()
