# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "trl-dapo[math]",
#     "trl",
# ]
# ///

"""
DAPO with several rewards: one says whether an answer is right, the other how it should be written.

`--dynamic_sampling_metric` names the reward that decides whether a group teaches something. Without it, the weighted
sum decides, and two right answers of different lengths would count as a contrast.

On a GPU:

```
python examples/scripts/several_rewards.py \
    --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
    --dataset_name gsm8k \
    --output_dir Qwen2.5-0.5B-concise \
    --reward_weights 1.0 0.2 \
    --dynamic_sampling_metric math_verify \
    --max_completion_length 1024 \
    --max_steps 800
```

On a CPU, with the built-in task in place of model and data:

```
python examples/scripts/several_rewards.py \
    --use_cpu --bf16 false \
    --output_dir arena-concise \
    --reward_weights 1.0 0.2 \
    --dynamic_sampling_metric arena_accuracy \
    --per_device_train_batch_size 16 \
    --max_completion_length 40 \
    --learning_rate 2e-4 \
    --warmup_steps 8 \
    --max_steps 48
```
"""

from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_dapo import DAPOConfig, DAPOTrainer
from trl_dapo.arena import arena_accuracy, load_warm_start, train_dataset
from trl_dapo.evaluation.scorers import math_verify
from trl_dapo.problems import load_problems


def concise(completion_ids: list[list[int]], log_metric, **columns) -> list[float]:
    """Half of the reward is left at twice the mean length of the batch, nearly all of it at a tenth."""
    lengths = [len(ids) for ids in completion_ids]
    mean = max(1.0, sum(lengths) / len(lengths))
    log_metric("longest", max(lengths))
    return [2 / (2 + length / mean) for length in lengths]


def main(script_args: ScriptArguments, training_args: DAPOConfig, model_args: ModelConfig) -> None:
    if model_args.model_name_or_path is None and script_args.dataset_name is None:
        model, tokenizer = load_warm_start()
        problems, right = train_dataset(2048), arena_accuracy
    else:
        model, tokenizer, right = model_args.model_name_or_path, None, math_verify
        training_args.model_init_kwargs = {
            "revision": model_args.model_revision,
            "attn_implementation": model_args.attn_implementation,
            "dtype": model_args.dtype,
            **(training_args.model_init_kwargs or {}),
        }
        split, answer_format = script_args.dataset_train_split, right.answer_format
        problems = load_problems(script_args.dataset_name, split=split, answer_format=answer_format)

    trainer = DAPOTrainer(
        model=model,
        reward_funcs=[right, concise],
        args=training_args,
        train_dataset=problems,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.save_state()


if __name__ == "__main__":
    main(*TrlParser((ScriptArguments, DAPOConfig, ModelConfig)).parse_args_and_config())
