"""A run that resumes where it was killed and, where `KILL_AT` says so, kills itself. Started by the test."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tiny import parity_reward, plain_dataset, snapshot
from training import build, dapo_args
from trl_dapo import DAPOTrainer


MOMENT, _, COUNT = os.environ.get("KILL_AT", "").partition(" ")


def killing(moment: str, function, half: bool = False):
    """The function, at whose first call at or after the step asked for the process dies: before it, or after."""

    def called(*args, **kwargs):
        due = moment == MOMENT and trainer.state.global_step >= int(COUNT)
        if due and not half:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called


def main(folder: Path) -> None:
    global trainer  # noqa: PLW0603
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
    trainer._generate = killing("generation", trainer._generate, half=True)
    trainer.save_model = killing("model", trainer.save_model, half=True)
    trainer._save_optimizer_and_scheduler = killing("optimizer", trainer._save_optimizer_and_scheduler)
    trainer._rank_state = killing("rank", trainer._rank_state)
    trainer.training_step = killing("step", trainer.training_step, half=True)
    trainer._save_rng_state = killing("trainer_state", trainer._save_rng_state, half=True)
    if MOMENT == "rotation":
        import transformers.trainer

        transformers.trainer.rotate_checkpoints = killing("rotation", transformers.trainer.rotate_checkpoints)
    trainer.train(resume_from_checkpoint=any(folder.glob("checkpoint-*")))
    logs = [
        {name: value for name, value in log.items() if name != "step_time" and not name.endswith("seconds")}
        for log in trainer.state.log_history
        if "loss" in log
    ]
    save_file({name: value.contiguous() for name, value in snapshot(trainer.model).items()}, folder / "final")
    result = {"logs": logs, "parameters": (folder / "final").read_bytes().hex()}
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
