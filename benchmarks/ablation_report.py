"""
How long a report of many runs takes, and how much memory.

    python benchmarks/ablation_report.py --seeds 20 --points 500 --questions 225

Writes results that were never trained, of the rows of the ladder and of leave-one-out, and makes their report in a
process of its own: reading, statistics, figures and page.
"""

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trl_dapo.ablation.designs import Row, make_design
from trl_dapo.ablation.report import write_report
from trl_dapo.ablation.results import (
    DataSet,
    End,
    Question,
    RowOfRun,
    RunResult,
    SampleCompletion,
    find_results,
    write_result,
)


DESIGNS, MATCHES = ("ladder", "leave-one-out"), ("samples", "steps")
METRICS = (
    "dapo/accuracy_generated",
    "entropy",
    "dapo/mean_length_generated",
    "dapo/overlong_frac",
    "dapo/frac_informative",
    "clip_ratio/high_mean",
    "clip_ratio/low_mean",
    "reward",
)


def made_run(row: Row, position: int, seed: int, points: int, questions: int) -> RunResult:
    """Returns a run that looks like a real one."""
    draw = random.Random(f"{row.key} {seed}")
    level = 0.4 + 0.02 * sum(map(bool, row.changes.values())) + draw.gauss(0, 0.02)
    asked = [Question(f"q{n}", 8, sum(draw.random() < level for _ in range(8))) for n in range(questions)]
    data_sets = {"held out": DataSet("exact match", tuple(asked), 0.03, 30.0)}
    curve = [
        {"step": float(step), "completions": 128.0 * step, "seconds": 3.1 * step}
        | {name: level * (1 - math.exp(-step / points)) + draw.gauss(0, 0.02) for name in METRICS}
        | {f"other/{number}": draw.random() for number in range(22)}
        for step in range(1, points + 1)
    ]
    completion = SampleCompletion("1+1=", "The answer is " + "1 + " * 120, right=False)
    return RunResult(
        row=RowOfRun(row.key, row.name, dict(row.changes), position),
        seed=seed,
        ends={match: End(128.0 * points, points, 128 * points, 3.1 * points, data_sets) for match in MATCHES},
        curve=curve,
        completions=(completion,) * 8,
        config={f"field_{number}": number for number in range(150)} | dict(row.changes),
        environment={"torch": "2.9.0"},
    )


def write_runs(folder: Path, seeds: int, points: int, questions: int) -> int:
    """Writes the results of all runs and returns how many there are."""
    rows = {row.key: row for name in DESIGNS for row in make_design(name).rows}
    for position, row in enumerate(rows.values()):
        for seed in range(seeds):
            run = made_run(row, position, seed, points, questions)
            write_result(folder / row.key / f"seed-{seed}", run)
    return len(rows) * seeds


def report(folder: Path) -> None:
    """Makes the report and prints what it took as JSON."""
    start = time.perf_counter()
    found = find_results(folder)
    read = time.perf_counter() - start
    paths = write_report(folder / "report", found.runs, [make_design(name) for name in DESIGNS], MATCHES, title="All")
    print(
        json.dumps(
            {
                "runs": len(found.runs),
                "left out": len(found.left_out),
                "seconds": round(time.perf_counter() - start, 1),
                "CPU seconds": round(time.process_time(), 1),
                "of which reading": round(read, 1),
                "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                "files": len(paths),
                "page MB": round((folder / "report" / "index.html").stat().st_size / 1e6, 2),
                "results.json MB": round((folder / "report" / "results.json").stat().st_size / 1e6, 2),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--questions", type=int, default=225)
    parser.add_argument("--folder", type=Path, help="report on the runs below this folder, and write none")
    given = parser.parse_args()
    if given.folder:
        report(given.folder)
        return
    with tempfile.TemporaryDirectory() as place:
        write_runs(Path(place), given.seeds, given.points, given.questions)
        subprocess.run([sys.executable, __file__, "--folder", place], check=True)


if __name__ == "__main__":
    main()
