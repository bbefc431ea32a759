"""A trainer derived from `DAPOTrainer`, as a user writes it: overridden methods, and arguments of its own."""

from typing import Any

import torch
from datasets import Dataset
from transformers import BitsAndBytesConfig, TrainerCallback

from trl_dapo import DAPOConfig, DAPOTrainer, LiveView, RewardFunction


class OwnTrainer(DAPOTrainer):
    """Scales rewards, counts steps, and adds a metric."""

    def __init__(self, *args: Any, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = scale
        self.steps_begun = 0

    def step_begins(self) -> None:
        super().step_begins()
        self.steps_begun += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log({**logs, "own/steps_begun": float(self.steps_begun)}, start_time)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        return self.scale * super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    @property
    def band(self) -> int | None:
        return self.args.soft_punish_cache if self.args.soft_overlong_punishment else None


def length_reward(completions: list[str], **columns: Any) -> list[float]:
    """One number per completion."""
    return [-float(len(completion)) for completion in completions]


async def judged(prompts: list[str], completions: list[str], answer: list[str], **columns: Any) -> list[float | None]:
    """Asynchronous, with a column of the data set, and without a reward for some."""
    return [None if not right else 1.0 for right in answer]


functions: list[RewardFunction] = [length_reward, judged]


def main() -> None:
    """Makes configs and trainers with every kind of argument."""
    config = DAPOConfig("run", clip_higher=False, surplus="carry", skip_degenerate="greso", learning_rate=1e-6)
    data = Dataset.from_list([{"prompt": "1+1=", "answer": "2"}])
    callbacks: list[TrainerCallback] = [LiveView()]
    trainer = OwnTrainer("some/model", length_reward, config, data, scale=0.5, callbacks=callbacks)
    DAPOTrainer("some/model", [length_reward, judged], config, data, {"easy": data}, callbacks=callbacks)
    DAPOTrainer(
        "some/model",
        ["some/reward-model", length_reward],
        quantization_config=BitsAndBytesConfig(load_in_4bit=True),
        token_importance_func=lambda prompts, completions, completion_ids, **columns: [[1.0] for _ in completions],
    )
    trainer.train()
    generated: int = trainer.completions_generated
    assert generated >= (trainer.band or 0) - trainer.args.max_refill_rounds
