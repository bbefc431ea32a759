"""One process of a distributed PPO run, which writes down what it did. Started by the test."""

import sys
from pathlib import Path

import torch

from ppo_runs import WHOLE, excite, ppo_args, ppo_trainer, recorded
from tiny import snapshot


def shared_base(folder: Path) -> None:
    """Policy and critic as two adapters of one base."""
    trainer = ppo_trainer(folder, ppo_args(folder, **WHOLE, ddp_backend="gloo"))
    excite(trainer)
    steps = recorded(trainer)
    rank = trainer.accelerator.process_index
    torch.save(
        {"states": steps.states, "gradients": steps.gradients, "rollouts": steps.rollouts},
        folder / f"shared_base-{rank}.pt",
    )


def separate(folder: Path) -> None:
    """Policy and critic as two models, with parts that add up over ranks: whitening, running scores, adaptive KL."""
    fields = {**WHOLE, "normalize_rewards": True, "kl_target": 0.1, "kl_horizon": 100, "max_steps": 4}
    trainer = ppo_trainer(
        folder, ppo_args(folder, **fields, ddp_backend="gloo"), model=str(folder / "model"), peft_config=None
    )
    recorded(trainer)
    ends = {
        "policy": snapshot(trainer.model),
        "critic": snapshot(trainer.critic.model),
        "kl_coef": trainer._kl_coefficient.value,
        "scores": trainer._running_scores.sums,
    }
    torch.save(ends, folder / f"separate-{trainer.accelerator.process_index}.pt")


def id_sum(completion_ids: list[list[int]], **kwargs) -> list[float]:
    """The sum of the ids, which tells rows of one process from those of the other."""
    return [float(sum(ids)) for ids in completion_ids]


def scores(folder: Path) -> None:
    """Whose score a row has: without KL, and with gamma and lambda 1, its returns are it."""
    fields = {**WHOLE, "beta": 0.0, "lam": 1.0, "max_steps": 1}
    trainer = ppo_trainer(folder, ppo_args(folder, **fields, ddp_backend="gloo"), reward_funcs=id_sum)
    steps = recorded(trainer)
    torch.save(steps.rollouts[0], folder / f"scores-{trainer.accelerator.process_index}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    shared_base(target)
    separate(target)
    scores(target)
