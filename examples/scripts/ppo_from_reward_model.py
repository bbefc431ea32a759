# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "trl-dapo",
#     "trl",
#     "datasets",
# ]
# ///

"""
PPO against a reward model that `reward_model.py` saved. Policy and critic are two adapters of one base.

On a GPU:

```
python examples/scripts/ppo_from_reward_model.py \
    --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
    --reward_model_name_or_path Qwen2.5-0.5B-Reward \
    --dataset_name trl-lib/ultrafeedback-prompt \
    --output_dir Qwen2.5-0.5B-PPO \
    --use_peft --learning_rate 1e-5 --max_steps 500
```

On a CPU, with the built-in task, and the reward model that the CPU command of `reward_model.py` trained:

```
python examples/scripts/ppo_from_reward_model.py \
    --use_cpu --bf16 false \
    --reward_model_name_or_path arena-reward \
    --output_dir arena-PPO \
    --use_peft --lora_target_modules all-linear \
    --per_device_train_batch_size 16 \
    --steps_per_generation 8 \
    --max_completion_length 40 \
    --learning_rate 1e-3 --critic_learning_rate 3e-3 \
    --max_steps 96
```
"""

from dataclasses import dataclass, field

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_dapo import PPOConfig, PPOTrainer, RewardModelFunction
from trl_dapo.arena import load_warm_start, train_dataset


@dataclass
class PPOScriptArguments(ScriptArguments):
    """Arguments of the script, and the reward model's name."""

    reward_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a reward model, whole or an adapter."}
    )


def main(script_args: PPOScriptArguments, training_args: PPOConfig, model_args: ModelConfig) -> None:
    if script_args.reward_model_name_or_path is None:
        raise SystemExit("Give --reward_model_name_or_path, for example the folder that reward_model.py wrote.")
    if model_args.model_name_or_path is None and script_args.dataset_name is None:
        (model, tokenizer), prompts = load_warm_start(), train_dataset(2048)
    else:
        model, tokenizer = model_args.model_name_or_path, None
        training_args.model_init_kwargs = {
            "revision": model_args.model_revision,
            "attn_implementation": model_args.attn_implementation,
            "dtype": model_args.dtype,
            **(training_args.model_init_kwargs or {}),
        }
        prompts = load_dataset(script_args.dataset_name, split=script_args.dataset_train_split)

    trainer = PPOTrainer(
        model=model,
        # Rewards of the scale that the reward model had in training, so that `beta` means the same with any
        reward_funcs=RewardModelFunction(script_args.reward_model_name_or_path, normalize=True, clip=3.0),
        args=training_args,
        train_dataset=prompts,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.save_state()


if __name__ == "__main__":
    main(*TrlParser((PPOScriptArguments, PPOConfig, ModelConfig)).parse_args_and_config())
