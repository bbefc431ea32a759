# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "trl-dapo",
#     "trl",
#     "datasets",
# ]
# ///

"""
A reward model from preferences, with LoRA or without, and its accuracy and calibration on held-out pairs.

On a GPU:

```
python examples/scripts/reward_model.py \
    --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
    --dataset_name trl-lib/ultrafeedback_binarized \
    --output_dir Qwen2.5-0.5B-Reward \
    --use_peft \
    --learning_rate 1e-4 \
    --eval_strategy steps --eval_steps 100
```

On a CPU, with the built-in task in place of model and data:

```
python examples/scripts/reward_model.py \
    --use_cpu --bf16 false \
    --output_dir arena-reward \
    --per_device_train_batch_size 32 \
    --per_device_eval_batch_size 128 \
    --learning_rate 1e-3 \
    --max_steps 200
```
"""

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_dapo import RewardConfig, RewardTrainer
from trl_dapo.arena import load_reward_start, preference_dataset


def main(script_args: ScriptArguments, training_args: RewardConfig, model_args: ModelConfig) -> None:
    if model_args.model_name_or_path is None and script_args.dataset_name is None:
        model, tokenizer = load_reward_start()
        train, held_out = preference_dataset(8192), preference_dataset(512, split="held_out")
    else:
        model, tokenizer = model_args.model_name_or_path, None
        training_args.model_init_kwargs = {
            "revision": model_args.model_revision,
            "attn_implementation": model_args.attn_implementation,
            "dtype": model_args.dtype,
            **(training_args.model_init_kwargs or {}),
        }
        pairs = load_dataset(script_args.dataset_name, name=script_args.dataset_config)
        train, held_out = pairs[script_args.dataset_train_split], pairs[script_args.dataset_test_split]

    trainer = RewardTrainer(
        model=model,
        args=training_args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),  # its head is trained and saved, whatever the task type
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    metrics = trainer.evaluate()
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    trainer.save_model(training_args.output_dir)
    trainer.save_state()
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)


if __name__ == "__main__":
    main(*TrlParser((ScriptArguments, RewardConfig, ModelConfig)).parse_args_and_config())
