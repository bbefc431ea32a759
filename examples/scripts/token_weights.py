# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "trl-dapo[math]",
#     "trl",
# ]
# ///

"""
DAPO with a weight for each token: the loss is `sum(w * loss) / sum(w)` over the tokens of an update.

Here, tokens at the end of a completion count twice as much as those at its beginning.

On a GPU:

```
python examples/scripts/token_weights.py \
    --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
    --dataset_name gsm8k \
    --output_dir Qwen2.5-0.5B-weighted \
    --max_completion_length 1024 \
    --max_steps 800
```

On a CPU, with the built-in task in place of model and data. With `--token_level_scope prompt`, each group has the same
weight in the loss, however long its completions are:

```
python examples/scripts/token_weights.py \
    --use_cpu --bf16 false \
    --output_dir arena-weighted \
    --token_level_scope prompt \
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


def later_tokens(completion_ids: list[list[int]], **columns) -> list[list[float]]:
    """One weight per token, from 1 for the first token to almost 2 for the last."""
    return [[1 + position / len(ids) for position in range(len(ids))] for ids in completion_ids]


def main(script_args: ScriptArguments, training_args: DAPOConfig, model_args: ModelConfig) -> None:
    if model_args.model_name_or_path is None and script_args.dataset_name is None:
        model, tokenizer = load_warm_start()
        problems, scorer = train_dataset(2048), arena_accuracy
    else:
        model, tokenizer, scorer = model_args.model_name_or_path, None, math_verify
        training_args.model_init_kwargs = {
            "revision": model_args.model_revision,
            "attn_implementation": model_args.attn_implementation,
            "dtype": model_args.dtype,
            **(training_args.model_init_kwargs or {}),
        }
        split, answer_format = script_args.dataset_train_split, scorer.answer_format
        problems = load_problems(script_args.dataset_name, split=split, answer_format=answer_format)

    trainer = DAPOTrainer(
        model=model,
        reward_funcs=scorer,
        args=training_args,
        train_dataset=problems,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
        token_importance_func=later_tokens,
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.save_state()


if __name__ == "__main__":
    main(*TrlParser((ScriptArguments, DAPOConfig, ModelConfig)).parse_args_and_config())
