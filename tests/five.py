"""The five trainers on one tiny model each, with the same few settings."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from preferences import pairs, preference_args
from tiny import parity_reward, plain_dataset, snapshot, tiny_args, tiny_tokenizer
from trl_dapo import (
    DAPOConfig,
    DAPOTrainer,
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    RewardConfig,
    RewardTrainer,
)


ONLINE = {"dapo": (DAPOTrainer, DAPOConfig), "grpo": (GRPOTrainer, GRPOConfig), "ppo": (PPOTrainer, PPOConfig)}
OFFLINE = {"dpo": (DPOTrainer, DPOConfig), "reward": (RewardTrainer, RewardConfig)}
FIVE = [*ONLINE, *OFFLINE]

# What an architecture needs beyond the common sizes
SIZES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2_moe": {
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "mixtral": {"num_local_experts": 4},
    "gpt_neox": {},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 256},
}


def architecture(
    kind: str, seed: int = 0, reward: bool = False, tokenizer: PreTrainedTokenizerBase | None = None
) -> Any:
    """A random float32 model of an architecture of transformers, two layers and 16 units."""
    tokenizer = tokenizer or tiny_tokenizer()
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    config = CONFIG_MAPPING[kind](**{**sizes, **SIZES[kind]})
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (AutoModelForSequenceClassification if reward else AutoModelForCausalLM).from_config(config)
    model.config._name_or_path = model.name_or_path = f"tiny-{kind}"
    return model.float()


def trainer(name: str, folder: Path, model: Any = None, kind: str = "llama", **fields: Any) -> Any:
    """A trainer that saves every step; `fields` are the config's, or `peft_config`, `callbacks` and `reward_funcs`."""
    tokenizer = tiny_tokenizer()
    own = {key: fields.pop(key) for key in ("peft_config", "callbacks", "reward_funcs", "ref_model") if key in fields}
    cls, config = {**ONLINE, **OFFLINE}[name]
    fields = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2, **fields}
    model = architecture(kind, reward=name == "reward", tokenizer=tokenizer) if model is None else model
    if name in OFFLINE:
        if name == "dpo" and "ref_model" not in own:
            fields = {"reference_free": True, **fields}
        args = preference_args(config, folder, **fields)
        return cls(model=model, args=args, train_dataset=pairs(), processing_class=tokenizer, **own)
    own = {"reward_funcs": parity_reward, **own}
    fields = {**{"ppo": {"beta": 0.0}, "dapo": {"max_refill_rounds": 0}}.get(name, {}), **fields}
    args = tiny_args(folder, cls=config, **fields)
    return cls(model=model, args=args, train_dataset=plain_dataset(16), processing_class=tokenizer, **own)


class Snapshots(TrainerCallback):
    """Copies of the parameters: `"begin"` once a run has loaded what it resumes from, then by optimizer step."""

    def __init__(self) -> None:
        self.at: dict[str | int, dict[str, torch.Tensor]] = {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.at["begin"] = snapshot(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.at[state.global_step] = snapshot(model)
