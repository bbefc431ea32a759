"""The other trainers and configs, with the arguments that their constructors show."""

from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_dapo import (
    DiagnosisCallback,
    DPOConfig,
    DPOTrainer,
    EvaluationCallback,
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    RewardConfig,
    RewardModelFunction,
    RewardTrainer,
    four_bit,
)


def reward(completions: list[str], **columns: Any) -> list[float]:
    """One number per completion."""
    return [0.0 for _ in completions]


class OwnPPO(PPOTrainer):
    """Adds a bound to the advantages of PPO."""

    def step_ended(self) -> None:
        super().step_ended()
        assert 0 <= self.args.gamma <= 1


def main() -> None:
    """Makes one of each."""
    data = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    tokenizer = AutoTokenizer.from_pretrained("some/model")
    model = AutoModelForCausalLM.from_pretrained("some/model")
    GRPOTrainer(model, reward, GRPOConfig("run", vllm_sync="adapter"), data, processing_class=tokenizer)
    scores = RewardModelFunction("reward-model", chunk_size=4, normalize=True, clip=3.0)
    ppo = OwnPPO(
        "some/model",
        scores,
        PPOConfig("run", kl_estimator="k3", adapter_dtype="bfloat16"),
        data,
        peft_config=LoraConfig(r=8),
        value_peft_config=LoraConfig(r=4),
        callbacks=[DiagnosisCallback(stop_on=["entropy_collapse"])],
    )
    ppo.add_callback(EvaluationCallback(ppo, data, "exact", k=4, every="epoch"))
    RewardTrainer("some/model", RewardConfig("run", statistics_window=64), train_dataset=data, eval_dataset=data)
    DPOTrainer(model, None, DPOConfig("run", reference_free=True), train_dataset=data, **four_bit(r=16))
