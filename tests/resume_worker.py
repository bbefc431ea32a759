"""
A run that dies where it is told to, is started again, and so on, until it comes to its end. Started by the test.

Each start is a fork of one process that has imported everything; the fork dies by SIGKILL, as the run of a user would.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
import transformers.trainer

from tiny import parity_reward, plain_dataset, snapshot
from training import build, dapo_args
from trl_dapo import DAPOTrainer


# Where a run can die: a method of the trainer, and whether before its work is done or after
MOMENTS = {
    "in a rollout": ("_generate", "after"),
    "after the weights": ("save_model", "after"),
    "before the optimizer": ("_save_optimizer_and_scheduler", "before"),
    "before anything of a checkpoint": ("own_parts", "before"),
    "before the last file": ("_save_rng_state", "after"),
    "after a backward pass": ("training_step", "after"),
    "after a checkpoint": ("_save_checkpoint", "after"),
    "before older checkpoints are removed": ("rotate_checkpoints", "before"),
}


def killing(trainer, function, when: str, step: int):
    """The function, which kills the process when it is called at this step or later."""

    def called(*args, **kwargs):
        due = trainer.state.global_step >= step
        if due and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called


def run(folder: Path, moment: str | None = None, step: int = 0) -> None:
    trainer = build(
        DAPOTrainer,
        dapo_args(
            folder,
            max_steps=9,
            save_strategy="steps",
            save_steps=1,
            save_total_limit=2,
            logging_steps=2,
            overlong_filtering=False,
            surplus="carry",
            skip_degenerate="greso",
        ),
        reward_funcs=parity_reward,
        train_dataset=plain_dataset(13),
    )
    if moment is not None:
        method, when = MOMENTS[moment]
        owner = transformers.trainer if method == "rotate_checkpoints" else trainer
        setattr(owner, method, killing(trainer, getattr(owner, method), when, step))
    trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")))
    logs = [
        {name: value for name, value in log.items() if name != "step_time" and not name.endswith("seconds")}
        for log in trainer.state.log_history
        if "loss" in log
    ]
    parameters = {name: value.tolist() for name, value in snapshot(trainer.model).items()}
    (folder / "result.json").write_text(json.dumps({"logs": logs, "parameters": parameters}))


def forked(*args) -> int:
    """Runs in a fork; returns its exit status, negative for the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        run(*args)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path) -> None:
    assert forked(folder / "whole") == 0
    for step, moment in enumerate(MOMENTS, start=1):
        assert forked(folder / "parts", moment, step) == -signal.SIGKILL, moment
    assert forked(folder / "parts") == 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
