# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "trl-dapo[math]",
#     "trl",
# ]
# ///

"""
GRPO with exact resume and packed updates, and held-out accuracy before, during and after training.

On a GPU, with the published loss, a mean over each completion and then over the group:

```
python examples/scripts/grpo.py \
    --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
    --dataset_name gsm8k \
    --output_dir Qwen2.5-0.5B-GRPO \
    --loss_type grpo \
    --beta 0.04 \
    --max_completion_length 1024 \
    --per_device_eval_batch_size 64 \
    --max_steps 800
```

On a CPU, with the built-in task in place of model and data:

```
python examples/scripts/grpo.py \
    --use_cpu --bf16 false \
    --output_dir arena-GRPO \
    --per_device_train_batch_size 16 \
    --steps_per_generation 8 \
    --per_device_eval_batch_size 400 \
    --max_completion_length 40 \
    --learning_rate 2e-4 \
    --max_steps 48
```
"""

from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_dapo import EvaluationCallback, GRPOConfig, GRPOTrainer
from trl_dapo.arena import arena_accuracy, held_out_dataset, load_warm_start, train_dataset
from trl_dapo.evaluation.scorers import math_verify
from trl_dapo.problems import load_problems


def main(script_args: ScriptArguments, training_args: GRPOConfig, model_args: ModelConfig) -> None:
    if model_args.model_name_or_path is None and script_args.dataset_name is None:
        model, tokenizer = load_warm_start()
        problems, held_out, scorer = train_dataset(2048), held_out_dataset(100), arena_accuracy
    else:
        model, tokenizer, scorer = model_args.model_name_or_path, None, math_verify
        training_args.model_init_kwargs = {
            "revision": model_args.model_revision,
            "attn_implementation": model_args.attn_implementation,
            "dtype": model_args.dtype,
            **(training_args.model_init_kwargs or {}),
        }
        name, answer_format = script_args.dataset_name, scorer.answer_format
        problems = load_problems(name, split=script_args.dataset_train_split, answer_format=answer_format)
        held_out = load_problems(name, split=script_args.dataset_test_split, answer_format=answer_format, size=200)

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=scorer,
        args=training_args,
        train_dataset=problems,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    # Logged as eval_held_out_avg@4 and so on; completions and intervals are in `evaluations` in the output folder
    every = max(1, training_args.max_steps // 4)
    trainer.add_callback(EvaluationCallback(trainer, {"held_out": held_out}, scorer, k=4, every=every))
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.save_state()
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)


if __name__ == "__main__":
    main(*TrlParser((ScriptArguments, GRPOConfig, ModelConfig)).parse_args_and_config())
