"""One process of a run on preferences: trains, and writes what it ended with as JSON. Started by the test."""

import json
import os
import sys
from pathlib import Path

from preferences import pairs, preference_args, tiny_reward_model
from tiny import snapshot, tiny_lora, tiny_model, tiny_tokenizer
from trl_dapo import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer


def main(folder: Path) -> None:
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    tokenizer = tiny_tokenizer()
    kinds = {
        "reward": (RewardTrainer, RewardConfig, tiny_reward_model(), {}),
        "dpo": (DPOTrainer, DPOConfig, tiny_model(tokenizer), {"peft_config": tiny_lora()}),
        "free": (DPOTrainer, DPOConfig, tiny_model(tokenizer), {"peft_config": tiny_lora()}),
    }
    for name, (cls, config, model, kwargs) in kinds.items():
        fields = {"reference_free": True} if name == "free" else {}
        args = preference_args(
            config,
            folder / f"{name}-{processes}",
            per_device_train_batch_size=4 // processes,
            per_device_eval_batch_size=4 // processes,
            ddp_find_unused_parameters=False,
            **fields,
        )
        trainer = cls(
            model, args=args, train_dataset=pairs(), eval_dataset=pairs(7), processing_class=tokenizer, **kwargs
        )
        trainer.train()
        evaluation = trainer.evaluate()
        trainer.save_model()
        result = {
            "parameters": {key: value.flatten().tolist() for key, value in snapshot(trainer.model).items()},
            "logs": [log for log in trainer.state.log_history if "loss" in log],
            "evaluation": evaluation,
        }
        (folder / f"{name}-{processes}-{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
