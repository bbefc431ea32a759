"""One process of an FSDP2 run on the CPU: trains each scenario and writes its full parameters. Started by the test."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from distributed_worker import RULES
from tiny import constant_reward, parity_reward, plain_dataset, scripted_rollout, tiny_tokenizer
from training import build, dapo_args, record_rollouts
from trl_dapo import DAPOConfig, DAPOTrainer


SCENARIOS = {"scripted": "even", "unequal_yields": "few", "generated": None}
ROWS = 16  # of all processes


def trainer_of(name: str, folder: Path, processes: int) -> DAPOTrainer:
    """A trainer on `ROWS` rows in all: on scripted rollouts, or on the model's own completions of any length."""
    tokenizer = tiny_tokenizer()
    args = dapo_args(
        folder,
        per_device_train_batch_size=ROWS // processes,
        updates_per_rollout=1,
        max_steps=4,
        # Adam divides by gradients near 0, where the order of a sum would be worth more than 1e-6
        adam_epsilon=1e-4,
        learning_rate=1e-3,
        warmup_steps=0,
        overlong_filtering=False,
        soft_overlong_punishment=False,
        max_completion_length=32,
        **({} if SCENARIOS[name] else {"generation_kwargs": {"suppress_tokens": _all_but_a_few(tokenizer)}}),
    )
    if processes > 1:
        _shard_on_cpu(args)
    return build(
        DAPOTrainer,
        args,
        reward_funcs=[parity_reward, constant_reward],
        rollout_func=scripted_rollout(RULES[SCENARIOS[name]]) if SCENARIOS[name] else None,
        train_dataset=plain_dataset(64),
        processing_class=tokenizer,
    )


def _all_but_a_few(tokenizer) -> list[int]:
    """With EOS and three letters left, all rows of a process end early, each process at a step of its own."""
    return [i for i in range(len(tokenizer)) if i not in {tokenizer.eos_token_id, 20, 21, 23}]


def _shard_on_cpu(args: DAPOConfig) -> None:
    # Accelerate heeds an FSDP config where it sees GPUs; on the CPU it falls back to DDP without a word
    assert args.distributed_state.distributed_type == DistributedType.MULTI_CPU
    PartialState().distributed_type = DistributedType.MULTI_GPU


def full_parameters(trainer: DAPOTrainer) -> dict[str, torch.Tensor]:
    named = trainer.accelerator.unwrap_model(trainer.model).named_parameters()
    return {name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone() for name, p in named}


def main(folder: Path) -> None:
    for name in SCENARIOS:
        trainer = trainer_of(name, folder / "run", processes=2)
        rollouts = record_rollouts(trainer)
        trainer.train()
        result = {
            "fsdp2": trainer.accelerator.is_fsdp2,
            "sharded": [isinstance(parameter, DTensor) for parameter in trainer.model.parameters()],
            "parameters": full_parameters(trainer),
            "steps": trainer.state.global_step,
            "longest": [int(rollout["completion_mask"].sum(dim=1).max()) for rollout in rollouts],
        }
        torch.save(result, folder / f"{name}-{trainer.accelerator.process_index}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
