"""One process of a distributed run: trains a scenario and writes what it trained on as JSON. Started by the test."""

import json
import os
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
    tiny_model,
    tiny_tokenizer,
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

# Truncated rows are left out, so a process may have fewer rows to update on than another, or none
ACCUMULATED = {"gradient_accumulation_steps": 2, "overlong_filtering": True}

# The length penalty's scale is what the first rollout shows, of which each process sees its rows alone
SCALED = {"soft_overlong_punishment": True, "soft_punish_cache": 4, "max_refill_rounds": 1}

# Out of the clip range within a rollout
MOVING = {"learning_rate": 3e-2, "warmup_steps": 0}

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
    "carried_surplus": ("even", 6, plain_dataset(64), {"surplus": "carry", "max_round_batches": 3.0}),
    "selected_prompts": ("few", 8, plain_dataset(64), {"skip_degenerate": "greso", "prompt_selection": "thompson"}),
    "weighted_tokens": ("even", 6, plain_dataset(64), {"token_level_scope": "prompt"}),
    "bounded": ("few", 4, plain_dataset(64), {**ACCUMULATED, "max_tokens_per_microbatch": 30}),
    "unequal_updates": ("few", 4, plain_dataset(64), {**ACCUMULATED, "max_refill_rounds": 0}),
    "seen_scale": ("even", 8, plain_dataset(64), SCALED),
    "seen_scale_alone": ("even", 16, plain_dataset(64), SCALED),
    "moving_fast": ("all", 8, plain_dataset(64), {**MOVING, "overlong_filtering": True}),
    "no_row_lives": ("none", 4, plain_dataset(64), {**ACCUMULATED, "max_refill_rounds": 0}),
}

# Groups of 6 divide evenly over 1, 2 and 3 processes, and one update takes a whole rollout: which process has which
# rows, and so the order of sums, is all that differs. The model rounds to float32 in its norms, and TRL counts
# positions from the padding on: hence prompts of one length, and an epsilon of Adam's above the noise in gradients
# that are 0
AGREEING = {"num_generations": 6, "updates_per_rollout": 1, "max_steps": 6, "adam_epsilon": 1e-4}
COMPACT = {"gradient_accumulation_steps": 4, "overlong_filtering": True}
AGREEMENTS = {
    "agree": {},
    "agree_iterable": {"dataset": plain_dataset(64).select(range(10, 64)).to_iterable_dataset()},
    "agree_exhausted": {"rule": "few", "max_refill_rounds": 1},
    "agree_selected": {"skip_degenerate": "greso", "skip_solved_above": 0.9, "prompt_selection": "thompson"},
    "agree_carried": {"surplus": "carry", "max_round_batches": 2.0},
    "agree_weighted": {"token_level_scope": "prompt", "token_importance_func": None},
    "agree_compact": COMPACT,
    "agree_bounded": {**COMPACT, "max_tokens_per_microbatch": 40},
    "agree_grpo": {**COMPACT, "loss_type": "grpo", "token_level_loss": False},
    "agree_few": {**COMPACT, "rule": "few", "max_refill_rounds": 0, "weight_decay": 0.1},
    "agree_none": {**COMPACT, "rule": "none", "max_refill_rounds": 0, "weight_decay": 0.1},
}
# The same with TRL's own micro-batches
AGREEMENTS |= {
    f"{name}_as_trl": {**AGREEMENTS[name], "compact_microbatches": False}
    for name in ("agree_compact", "agree_grpo", "agree_few", "agree_none")
}


def settings_of(name: str) -> tuple:
    """Rule of the informative prompts, rows per device, dataset and further fields of a scenario."""
    if name not in AGREEMENTS:
        return SCENARIOS[name]
    fields = {**AGREEING, **AGREEMENTS[name]}
    rows = 24 // int(os.environ.get("WORLD_SIZE", "1")) // fields.get("gradient_accumulation_steps", 1)
    return fields.pop("rule", "even"), rows, fields.pop("dataset", plain_dataset(64).select(range(10, 64))), fields


def rising(completion_ids: list[list[int]], **kwargs) -> list[list[float]]:
    """Token weights that rise along a completion."""
    return [[1.0 + position for position in range(len(ids))] for ids in completion_ids]


def numbered_reward(prompts: list[str], completion_ids: list[list[int]], **kwargs) -> list[float]:
    """Parity times the prompt's number, so that processes with other prompts see other ranges."""
    return [number(prompt) * one for prompt, one in zip(prompts, parity_reward(completion_ids), strict=True)]


def scripted(name: str, folder: Path, **more) -> DAPOTrainer:
    """A trainer on scripted rollouts; `more` are further fields."""
    rule, rows, dataset, fields = settings_of(name)
    weighted = "token_importance_func" in fields and rising
    fields = {key: value for key, value in fields.items() if key != "token_importance_func"}
    settings = {
        "overlong_filtering": False,
        "soft_overlong_punishment": False,
        "max_steps": 4,
        "ddp_backend": "gloo",
        **fields,
        **more,
    }
    return build(
        DAPOTrainer,
        dapo_args(folder, per_device_train_batch_size=rows, **settings),
        reward_funcs=[numbered_reward if "soft_punish_cache" in fields else parity_reward, constant_reward],
        rollout_func=scripted_rollout(RULES[rule]),
        train_dataset=dataset,
        token_importance_func=weighted or None,
        model=tiny_model(tiny_tokenizer()).double() if name in AGREEMENTS else None,
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


def resumed(folder: Path) -> None:
    """Trains, trains again from a checkpoint inside a rollout, and writes both ends."""
    fields = {
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 3,
        "surplus": "carry",
        "max_round_batches": 2.0,
    }
    ends = []
    for checkpoint in (None, str(folder / "resumed" / "checkpoint-1")):
        trainer = scripted("straddling_groups", folder / "resumed", **fields)
        trainer.train(resume_from_checkpoint=checkpoint)
        ends.append({key: value.tolist() for key, value in snapshot(trainer.model).items()})
    rank = trainer.accelerator.process_index
    (folder / f"resumed-{trainer.accelerator.num_processes}-{rank}.json").write_text(json.dumps(ends))


def main(name: str, folder: Path) -> None:
    if name == "resumed":
        resumed(folder)
        return
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
            {
                key: value
                for key, value in log.items()
                if key.startswith(("dapo/", "packing/")) and "seconds" not in key
            }
            for log in trainer.state.log_history
        ],
        "factor": trainer.length_penalty and trainer.length_penalty.factor,
        "stream": trainer.sampler.stream.state_dict(),
        "environments": [None if one is None else sum(one.amounts) for one in trainer.environments or []],
    }
    rank = trainer.accelerator.process_index
    if name in AGREEMENTS:
        result["values"] = {key: value.tolist() for key, value in snapshot(trainer.model).items()}
    (folder / f"{name}-{trainer.accelerator.num_processes}-{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    for scenario in sys.argv[2:]:
        main(scenario, target)
