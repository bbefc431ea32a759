"""One process of runs that the diagnosis stops or saves: writes what it did as JSON. Started by the test."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from trl import GRPOConfig as HostConfig
from trl import GRPOTrainer as HostTrainer

from tiny import constant_reward, scripted_rollout, tiny_args
from training import build, even
from trl_dapo import DiagnosisCallback, GRPOConfig, GRPOTrainer, LiveView
from trl_dapo.monitor import callback as module


class Forgets(TrainerCallback):
    """Takes from one process's log what the diagnosis looks at."""

    def __init__(self, rank: int) -> None:
        self._is_here = os.environ["RANK"] == str(rank)

    def on_log(self, args, state, control, **kwargs):
        if self._is_here:
            kept = {key: value for key, value in state.log_history[-1].items() if key in ("step", "loss")}
            state.log_history[-1] = kept


class LogsAlone(TrainerCallback):
    """Logs on the first process alone, as a plug-in may, before each step."""

    trainer: Any = None

    def on_step_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            Trainer.log(self.trainer, {"plugged/in": 1.0})


class SlowTrainer(HostTrainer):
    """TRL's own, of which the second process writes its part of a checkpoint late."""

    def _save_rng_state(self, output_dir: str) -> None:
        if self.accelerator.process_index:
            time.sleep(1.0)
        super()._save_rng_state(output_dir)


ALL_RIGHT = ["groups_all_right"]
# Trainer, config, arguments of the diagnosis, rank that sees nothing, further fields
SCENARIOS: dict[str, tuple[type, type, dict[str, Any], int | None, dict[str, Any]]] = {
    "stops": (GRPOTrainer, GRPOConfig, {"stop_on": ALL_RIGHT}, None, {}),
    "keeps": (
        GRPOTrainer,
        GRPOConfig,
        {"save_on_finding": True},
        None,
        {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 1},
    ),
    "seen_by_the_first": (GRPOTrainer, GRPOConfig, {"stop_on": ALL_RIGHT, "save_on_finding": True}, 1, {}),
    "seen_by_the_second": (GRPOTrainer, GRPOConfig, {"stop_on": ALL_RIGHT, "save_on_finding": True}, 0, {}),
    "trl": (SlowTrainer, HostConfig, {"stop_on": ALL_RIGHT, "save_on_finding": True}, None, {"beta": 0.0}),
}


def run(name: str, folder: Path) -> None:
    cls, config, wanted, forgetful, fields = SCENARIOS[name]
    callback, view = DiagnosisCallback(**wanted), LiveView(show="lines")
    written: list[int] = []
    write = module.write_findings

    def counted(folder, findings):
        written.append(len(tuple(findings)))
        write(folder, findings)

    module.write_findings = counted
    alone = LogsAlone()
    others = [alone] if forgetful is None else [alone, Forgets(forgetful)]
    args = tiny_args(
        folder / name, cls=config, **{"max_steps": 7, "max_completion_length": 4, "ddp_backend": "gloo", **fields}
    )
    trainer = build(
        cls,
        args,
        reward_funcs=constant_reward,
        rollout_func=scripted_rollout(even),
        callbacks=[*others, callback, view],
    )
    alone.trainer = trainer
    trainer.train()
    module.write_findings = write
    rank = trainer.accelerator.process_index
    result = {
        "step": trainer.state.global_step,
        "findings": [[one.rule, one.onset, one.step] for one in callback.findings],
        "written": written,
        "shown": view.state is not None,
        "history": trainer.state.log_history,
    }
    (folder / f"{name}-{rank}.json").write_text(json.dumps(result, default=str))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for scenario in sys.argv[2:] or SCENARIOS:
        run(scenario, Path(sys.argv[1]))
