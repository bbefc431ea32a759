"""One process of a distributed run: trains a scenario and writes what it trained on as JSON. Started by the test."""

import json
import sys
from pathlib import Path

import torch

from tiny import (
    CountingEnvironment,
    constant_reward,
    conversational_dataset,
    environment_factory,
    iterable_dataset,
    parity_reward,
    plain_dataset,
    script_generation,
    scripted_rollout,
    snapshot,
    tiny_tool_tokenizer,
    tool_call,
    tool_turns,
    total_reward,
)
from training import build, dapo_args, record_rollouts
from trl_dapo import DAPOTrainer


def number(text: str) -> int:
    return int(text.split("+")[0])


# With TRL's order for seed 0, prompts fall on the ranks by their place in the batch, so a rule on the prompt's number
# gives the ranks unequal yields
RULES = {
    "even": lambda text: number(text) % 2 == 0,
    "few": lambda text: number(text) % 5 == 0,
    "none": lambda text: False,
    "all": lambda text: True,
}

SCENARIOS = {
    # name: rule of the informative prompts, rows per device, dataset, further fields
    "one_process": ("even", 16, plain_dataset(64), {}),
    "whole_groups": ("even", 8, plain_dataset(64), {}),
    "straddling_groups": ("even", 6, plain_dataset(64), {}),
    "one_group_over_both_ranks": ("even", 2, plain_dataset(64), {"updates_per_rollout": 1}),
    "unequal_yields": ("few", 8, plain_dataset(64), {}),
    "iterable": ("even", 8, iterable_dataset(64), {}),
    "exhausted": ("none", 8, plain_dataset(64), {"max_refill_rounds": 2}),
    "half_exhausted": ("few", 8, plain_dataset(64), {"max_refill_rounds": 1}),
    "everything": ("all", 8, plain_dataset(64), {}),
    "filter_alone": ("even", 6, plain_dataset(64), {"max_refill_rounds": 0}),
}


def scripted(name: str, folder: Path) -> DAPOTrainer:
    """A trainer on scripted rollouts."""
    rule, rows, dataset, fields = SCENARIOS[name]
    settings = {
        "overlong_filtering": False,
        "soft_overlong_punishment": False,
        "max_steps": 4,
        "ddp_backend": "gloo",
        **fields,
    }
    return build(
        DAPOTrainer,
        dapo_args(folder, per_device_train_batch_size=rows, **settings),
        reward_funcs=[parity_reward, constant_reward],
        rollout_func=scripted_rollout(RULES[rule]),
        train_dataset=dataset,
    )


def with_environments(name: str, folder: Path) -> DAPOTrainer:
    """A trainer whose rows live in environments: one question in seven is informative, so rows have to move."""
    call = tool_turns(lambda number, row: tool_call("add", amount=9) if number % 7 == 0 and row == 0 else None)
    settings = {"overlong_filtering": False, "soft_overlong_punishment": False, "ddp_backend": "gloo", "max_steps": 2}
    trainer = build(
        DAPOTrainer,
        dapo_args(folder, max_completion_length=256, **settings),
        processing_class=tiny_tool_tokenizer(),
        train_dataset=conversational_dataset(120),
        environment_factory=environment_factory(CountingEnvironment),
        reward_funcs=total_reward,
    )
    script_generation(trainer, call)
    return trainer


def main(name: str, folder: Path) -> None:
    trainer = with_environments(name, folder) if name == "environments" else scripted(name, folder)
    rollouts = record_rollouts(trainer)
    trainer.train()
    result = {
        "prompts": [rollout["prompts"] for rollout in rollouts],
        "advantages": [rollout["advantages"].tolist() for rollout in rollouts],
        "completions": [
            [ids[mask.bool()].tolist() for ids, mask in zip(r["completion_ids"], r["completion_mask"], strict=True)]
            for r in rollouts
        ],
        "num_items": [int(rollout["num_items_in_batch"]) for rollout in rollouts],
        "parameters": {key: value.double().sum().item() for key, value in snapshot(trainer.model).items()},
        "logs": [
            {key: value for key, value in log.items() if key.startswith("dapo/") and "seconds" not in key}
            for log in trainer.state.log_history
        ],
        "stream": trainer._stream.state_dict(),
        "environments": [None if one is None else sum(one.amounts) for one in trainer.environments or []],
    }
    rank = trainer.accelerator.process_index
    (folder / f"{name}-{trainer.accelerator.num_processes}-{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    for scenario in sys.argv[2:]:
        main(scenario, target)
