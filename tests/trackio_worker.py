"""A run that is shown, diagnosed and reported to trackio, in a process of its own: trackio reads its folder at import.

    TRACKIO_DIR=folder python trackio_worker.py dapo output_dir

Its last line is the run's log, its findings and what trackio has stored, as JSON.
"""

import json
import sys
from pathlib import Path

from trackio.sqlite_storage import SQLiteStorage

from five import trainer
from trl_dapo import DiagnosisCallback, LiveView


def nothing_right(completions, **kwargs) -> list[float]:
    """A reward of which no group is informative."""
    return [0.0] * len(completions)


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    own = {"reward_funcs": nothing_right} if name == "dapo" else {}
    diagnosis = DiagnosisCallback()
    fields = {"max_steps": 8, "logging_steps": 1, "report_to": "trackio", "project": "view", "run_name": "one"}
    one = trainer(name, folder, callbacks=[diagnosis, LiveView(show="lines")], **fields, **own)
    one.train()
    stored = SQLiteStorage.get_logs("view", SQLiteStorage.get_runs("view")[0])
    found = {
        "history": one.state.log_history,
        "stored": stored,
        "findings": [f"{finding.rule} at step {finding.step}" for finding in diagnosis.findings],
        "alerts": SQLiteStorage.get_alerts("view"),
    }
    sys.stdout.write(json.dumps(found, default=str) + "\n")
