# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "trl-dapo",
#     "trl",
#     "datasets",
# ]
# ///

"""
DAPO with a tool: the policy may call `multiply` before it answers. What the tool returns is not in the loss.

The model needs a chat template with tool calls. The built-in task has none, so a model has to be named on a CPU too:

```
python examples/scripts/tools.py \
    --model_name_or_path Qwen/Qwen3-0.6B \
    --output_dir Qwen3-0.6B-multiply \
    --max_completion_length 1024 \
    --max_tool_calling_iterations 4 \
    --max_steps 200
```

On a CPU, add `--use_cpu --bf16 false`.
"""

import random
import re

from datasets import Dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_dapo import DAPOConfig, DAPOTrainer


def multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: The first factor.
        b: The second factor.

    Returns:
        The product.
    """
    return a * b


def last_number(completions: list[list[dict]], answer: list[int], **columns) -> list[float]:
    """1.0 if the last number that the policy writes is the answer, else 0.0."""
    found = [re.findall(r"-?\d+", str(completion[-1].get("content"))) for completion in completions]
    return [float(bool(numbers) and int(numbers[-1]) == right) for numbers, right in zip(found, answer, strict=True)]


def products(size: int = 1024) -> Dataset:
    """Questions about products of two numbers, and the products."""
    rng = random.Random(0)
    pairs = [(rng.randrange(11, 99), rng.randrange(11, 99)) for _ in range(size)]
    prompts = [[{"role": "user", "content": f"What is {a} * {b}?"}] for a, b in pairs]
    return Dataset.from_dict({"prompt": prompts, "answer": [a * b for a, b in pairs]})


def main(script_args: ScriptArguments, training_args: DAPOConfig, model_args: ModelConfig) -> None:
    if model_args.model_name_or_path is None:
        raise SystemExit("Give --model_name_or_path: a chat model that can call tools, such as Qwen/Qwen3-0.6B.")
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }
    trainer = DAPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=last_number,
        args=training_args,
        train_dataset=products(),
        tools=[multiply],
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.save_state()


if __name__ == "__main__":
    main(*TrlParser((ScriptArguments, DAPOConfig, ModelConfig)).parse_args_and_config())
