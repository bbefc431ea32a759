"""
How often the diagnosis alarms on healthy runs: seeds of all five trainers on the arena, one after the other.

Each run is long enough that every rule has passed its minimum of observations. Logs are written to a folder, one file
per run, and a run whose file is there is not made again, so rules can be judged anew without training.

    nice -n 15 python benchmarks/diagnosis_false_alarms.py --seeds 20 --folder /tmp/healthy
"""

import argparse
import json
import logging
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from transformers import PrinterCallback

from trl_dapo import DiagnosisCallback
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.script import build_trainer, parse_words
from trl_dapo.monitor.diagnosis import diagnose, undecided
from trl_dapo.monitor.history import History
from trl_dapo.monitor.settings import Settings


# 24 rollouts of 8 updates; the critic's rules need as many rollouts
ONLINE = ["--max_steps=192", "--logging_steps=4", "--eval_strategy=steps", "--eval_steps=40"]
OFFLINE = ["--max_steps=120", "--logging_steps=4", "--eval_strategy=steps", "--eval_steps=30"]
WORDS = {"dapo": ONLINE, "grpo": ONLINE, "ppo": ONLINE, "dpo": OFFLINE, "reward": OFFLINE}


def healthy_run(name: str, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Trains on the built-in task with the command's own settings; returns the log and the settings."""
    command = COMMANDS[name]
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--output_dir={folder}", f"--seed={seed}", "--report_to=none", "--disable_tqdm=true", *WORDS[name]]
        trainer = build_trainer(command, parse_words(command, [*words, "--diagnose=false"]))
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(DiagnosisCallback())
        trainer.train()
        return trainer.state.log_history, dict(Settings.of(trainer.args).values)


def logs_of(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Returns what a run logged, from its file if there is one."""
    path = folder / f"{name}-{seed}.json"
    if not path.is_file():
        history, settings = healthy_run(name, seed)
        path.write_text(json.dumps({"log_history": history, "settings": settings}))
    return json.loads(path.read_text())


def main() -> None:
    """Makes the runs that are missing, and prints a row per trainer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("healthy"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    found: dict[str, Counter[str]] = {name: Counter() for name in WORDS}
    for seed in range(options.seeds):
        for name in WORDS:
            run = logs_of(name, seed, options.folder)
            history, settings = History.of(run["log_history"]), Settings(run["settings"])
            found[name].update(one.rule for one in diagnose(history, settings))
            left = undecided(history, settings)
            print(
                f"{name} seed {seed}: {len(history.rows)} rows, not decided: {', '.join(left) or 'none'}", flush=True
            )
    for name, alarms in found.items():
        print(f"| {name} | {options.seeds} | {sum(alarms.values())} | {dict(alarms) or '-'} |")


if __name__ == "__main__":
    main()
