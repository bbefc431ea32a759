"""
Runs that collapse at a hot learning rate, and which change at a checkpoint would have prevented it.

Trains DAPO without dynamic sampling on the built-in task at ten times its learning rate, rewinds each run to the same
step, and lets it go on as it was, with the learning rate back at its default, with a narrower clip range, without
clip-higher, and with dynamic sampling. One command, one process on a CPU:

    python benchmarks/rewind_collapse.py --seeds 5 --dir runs/rewind_collapse

Branches run in this process, one after the other, since most of the time of a process would be its imports; the report
proves each unchanged one. A run that was stopped goes on where it was. The tables are in `docs/rewind.md`.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from trl_dapo.ablation.report.drawing import GREY, line_style, new_figure, save
from trl_dapo.ablation.scipy_stats import stats
from trl_dapo.cli import rewind_branch, rewind_run
from trl_dapo.cli.command_file import Started
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.main import main
from trl_dapo.cli.script import run_script
from trl_dapo.host.whole_files import write_whole


STEPS, TO, EVERY = 104, 40, 8
HOT = 2e-3
RUN = [
    *("--dynamic_sampling", "false", "--learning_rate", str(HOT), "--max_steps", str(STEPS)),
    *("--save_strategy", "steps", "--save_steps", str(TO), "--logging_steps", "1", "--disable_tqdm", "true"),
]
CHANGES = [
    ["learning_rate=2e-4"],
    ["epsilon=0.05", "epsilon_high=0.07"],
    ["epsilon_high=0.2"],
    ["dynamic_sampling=true"],
]
ACCURACY, ENTROPY = "dapo/accuracy_generated", "entropy"
# The last five rollouts, of eight updates each
LAST = 5 * EVERY


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, default=Path("runs/rewind_collapse"))
    options = parser.parse_args()
    rewind_run.run_branch = here
    found = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        folder = options.dir / f"seed-{seed}"
        train(folder, seed)
        found[seed] = rewound(folder)
        print(f"seed {seed}: {line(found[seed])}", flush=True)
    print(table(found))
    write_whole(options.dir / "collapse.json", json.dumps(summary(found), indent=1))
    draw(found, options.dir)


def train(folder: Path, seed: int) -> None:
    """Trains the run that collapses, where it has not been trained."""
    if not (folder / f"checkpoint-{STEPS}" / "trainer_state.json").is_file():
        words = ["--output_dir", str(folder), "--seed", str(seed), *RUN]
        call(lambda: run_script(COMMANDS["dapo"], words), folder.with_suffix(".txt"))


def rewound(folder: Path) -> dict[str, Any]:
    """Returns the futures of a run."""
    sets = [word for change in CHANGES for word in ("--set", *change)]
    call(lambda: main(["rewind", str(folder), "--to", str(TO), *sets]), folder.with_suffix(".rewind.txt"))
    return json.loads((folder / "rewind" / f"{TO}-report" / "futures.json").read_text(encoding="utf-8"))


def call(code: Callable[[], int], output: Path) -> None:
    """Calls a command, with what it prints in a file."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        if code():
            raise SystemExit(f"failed: see {output}")


def here(start: Started, folder: Path) -> int:
    """Runs a branch in this process."""
    return rewind_branch.main(["--config", str(folder / "run.yaml")])


def ended(curve: list[list[float]]) -> float:
    """Returns the mean over the last rollouts."""
    return statistics.fmean(value for step, value in curve if step > STEPS - LAST)


def line(found: dict[str, Any]) -> str:
    values = [f"{name} {ended(own[ACCURACY]):.3f}" for name, own in found["curves"].items()]
    return f"causal: {found['causal']}; accuracy at the end: {'; '.join(values)}"


def summary(found: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return {
        name: {
            "accuracy": [ended(one["curves"][name][ACCURACY]) for one in found.values()],
            "entropy": [ended(one["curves"][name][ENTROPY]) for one in found.values()],
            "causal": [one["causal"] for one in found.values()],
        }
        for name in next(iter(found.values()))["curves"]
    }


def table(found: dict[int, dict[str, Any]]) -> str:
    """Returns the table of docs/rewind.md."""
    own = summary(found)
    was = own["as it was"]["accuracy"]
    lines = [
        "| from step 40 on | accuracy at the end, by seed | mean | over as it was | 95 % interval | entropy |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in own.items():
        accuracy, entropy = values["accuracy"], statistics.fmean(values["entropy"])
        over = [one - other for one, other in zip(accuracy, was, strict=True)]
        shown = ", ".join(f"{one:.2f}" for one in accuracy)
        gained = " | " if name == "as it was" else f"{statistics.fmean(over):+.3f} | {interval(over)}"
        lines.append(f"| {name} | {shown} | {statistics.fmean(accuracy):.3f} | {gained} | {entropy:.2f} |")
    return "\n".join(lines)


def interval(differences: list[float]) -> str:
    """Returns the interval of a mean of paired differences over seeds, by Student's t."""
    if len(differences) < 2:
        return "one seed"
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    width = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return f"{mean - width:+.3f} to {mean + width:+.3f}"


def draw(found: dict[int, dict[str, Any]], folder: Path) -> None:
    """Draws the mean over seeds of accuracy and entropy of each future."""
    names = list(next(iter(found.values()))["curves"])
    with new_figure(2.6, nrows=1, ncols=2) as (figure, axes):
        for ax, key, title in zip(axes, (ACCURACY, ENTROPY), ("accuracy", "entropy, nats per token"), strict=True):
            for number, name in enumerate(names):
                ax.plot(*rollout_means(found, name, key), label=name, **line_style(number))
            ax.axvline(TO, color=GREY, linewidth=0.8, linestyle=":")
            ax.set_title(title)
            ax.set_xlabel("update")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
        save(figure, folder, "rewind-collapse")


def rollout_means(found: dict[int, dict[str, Any]], name: str, key: str) -> tuple[list[int], list[float]]:
    """Returns the last step of each rollout and the mean over it and over seeds."""
    points = [point for one in found.values() for point in one["curves"][name][key]]
    steps = list(range(TO + EVERY, STEPS + 1, EVERY))
    return steps, [statistics.fmean(v for step, v in points if end - EVERY < step <= end) for end in steps]


if __name__ == "__main__":
    run()
