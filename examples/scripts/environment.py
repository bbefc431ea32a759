# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "trl-dapo",
#     "trl",
#     "datasets",
# ]
# ///

"""
DAPO in an environment: each completion has one of its own, whose methods are its tools and which gives the reward.

The policy looks for a hidden number. All completions of a group look for the same one, and fewer guesses earn more.

The model needs a chat template with tool calls. The built-in task has none, so a model has to be named on a CPU too:

```
python examples/scripts/environment.py \
    --model_name_or_path Qwen/Qwen3-0.6B \
    --output_dir Qwen3-0.6B-guesses \
    --max_completion_length 1024 \
    --max_tool_calling_iterations 8 \
    --max_steps 200
```

On a CPU, add `--use_cpu --bf16 false`.
"""

from datasets import Dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from trl_dapo import DAPOConfig, DAPOTrainer


ASK = "Find the hidden number, which is between 1 and 20. Use the tool `guess`."


class HiddenNumber:
    """One episode: the number is found with few guesses, with many, or not at all."""

    def reset(self, answer: int, **columns) -> None:
        self._answer, self._guesses, self._found = answer, 0, False

    def guess(self, number: int) -> str:
        """
        Compares a guess with the hidden number.

        Args:
            number: The guess.

        Returns:
            Whether the hidden number is higher, lower, or found.
        """
        self._guesses += not self._found
        self._found = self._found or number == self._answer
        return "found" if number == self._answer else "higher" if number < self._answer else "lower"

    def get_reward(self) -> float:
        return 1 / self._guesses if self._found else 0.0


def main(script_args: ScriptArguments, training_args: DAPOConfig, model_args: ModelConfig) -> None:
    if model_args.model_name_or_path is None:
        raise SystemExit("Give --model_name_or_path: a chat model that can call tools, such as Qwen/Qwen3-0.6B.")
    # Each row's columns are the arguments of `reset`
    numbers = [1 + 7 * row % 20 for row in range(1000)]
    prompts = [[{"role": "user", "content": ASK}] for _ in numbers]
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(training_args.model_init_kwargs or {}),
    }
    trainer = DAPOTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=Dataset.from_dict({"prompt": prompts, "answer": numbers}),
        environment_factory=HiddenNumber,  # its `get_reward` is the reward function
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.save_state()


if __name__ == "__main__":
    main(*TrlParser((ScriptArguments, DAPOConfig, ModelConfig)).parse_args_and_config())
