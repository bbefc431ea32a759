"""Pairs, models and arguments for the trainers that learn from preferences: no hub, float32, CPU."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BitsAndBytesConfig, LlamaForSequenceClassification, PreTrainedTokenizerBase

from tiny import tiny_args, tiny_model, tiny_tokenizer


def pairs(n: int = 16) -> Dataset:
    """`n` sums: the right one is chosen, the next number is rejected, with a different length in every third row."""
    return Dataset.from_dict(
        {
            "prompt": [f"{i}+{i + 1}=" for i in range(n)],
            "chosen": [str(2 * i + 1) + (" yes" if i % 3 == 0 else "") for i in range(n)],
            "rejected": [str(2 * i + 2) + (" or so" if i % 3 == 1 else "") for i in range(n)],
        }
    )


def chats(n: int = 16) -> Dataset:
    """[`pairs`] as messages."""
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return Dataset.from_list(
        [{name: [{"role": role, "content": row[name]}] for name, role in roles.items()} for row in pairs(n)]
    )


def tiny_reward_model(
    tokenizer: PreTrainedTokenizerBase | None = None, seed: int = 0, num_labels: int = 1, **kwargs: Any
) -> LlamaForSequenceClassification:
    """A random float32 reward model over the body of [`tiny_model`]."""
    tokenizer = tokenizer or tiny_tokenizer()
    config = tiny_model(tokenizer, **kwargs).config
    config.num_labels = num_labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(config).to(torch.float32)
    model.config._name_or_path = model.name_or_path = "tiny-reward"
    return model


def reward_adapter(
    folder: Path,
    labels: int = 1,
    task_type: str | None = "SEQ_CLS",
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PeftModel:
    """Saves a reward model with weights of its own on the base of `tiny_model`; returns it."""
    base = tiny_model(tiny_tokenizer())
    base.config.num_labels = labels
    torch.manual_seed(3)
    model = LlamaForSequenceClassification(base.config)
    model.model.load_state_dict(base.model.state_dict())
    config = LoraConfig(
        r=2, target_modules=["q_proj", "o_proj"], task_type=task_type, init_lora_weights=False, lora_dropout=0.5
    )
    model = get_peft_model(model, config).eval()
    model.save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return model


def saved(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """The folder with a model and a tokenizer."""
    model.save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return str(folder)


def nf4(compute: torch.dtype = torch.float32) -> BitsAndBytesConfig:
    """4-bit weights; float32 is what this CPU computes fast in."""
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def preference_args(cls: type, output_dir: str | Path, **overrides: Any) -> Any:
    """[`tiny_args`] of 4 pairs a step."""
    common = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "dataset_num_proc": None}
    return tiny_args(output_dir, cls=cls, **{**common, **overrides})


def lora_a(model: torch.nn.Module) -> torch.Tensor:
    """All entries of the trainable `lora_A`, flat and copied."""
    return torch.cat(
        [
            p.detach().float().flatten().clone()
            for n, p in model.named_parameters()
            if "lora_A" in n and p.requires_grad
        ]
    )
