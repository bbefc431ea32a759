"""
Small real runs whose memory is held against their plan: models, trainers, and the shape that the plan gets.

Every second prompt is a little shorter than planned. Without padding there would be no attention mask, and keys and
values of a group would not be repeated: a few percent less than any run with real prompts takes.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

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
from trl_dapo.arena import build_tokenizer
from trl_dapo.planning.run_shape import RunShape


PAIRS = ("dpo", "reward")


@dataclass(frozen=True)
class Case:
    """A run: which trainer, which model, how large. `rows` are those of a pass, of pairs both."""

    name: str
    algorithm: str = "dapo"
    model: str = "wide"
    four_bit: bool = False
    lora: bool = True
    prompt: int = 64
    completion: int = 32
    group: int = 4
    rows: int = 8
    microbatches: int = 2
    checkpointing: bool = False
    beta: float = 0.0


def small(name: str, algorithm: str = "dapo", **more: Any) -> Case:
    return Case(f"SmolLM2, {name}", algorithm, "smollm2", rows=4, **more)


CASES = (
    Case("wide, DAPO, full", lora=False),
    Case("wide, DAPO, full, checkpointing", lora=False, checkpointing=True),
    Case("wide, DAPO, LoRA"),
    Case("wide, DAPO, LoRA, checkpointing", checkpointing=True),
    Case("wide, DAPO, LoRA, completion 96", completion=96),
    Case("wide, DAPO, LoRA, G 8", group=8, microbatches=4),
    Case("wide, DAPO, 4-bit", four_bit=True),
    Case("wide, DAPO, 4-bit, checkpointing", four_bit=True, checkpointing=True),
    Case("wide, GRPO with reference, LoRA", "grpo", beta=0.1),
    Case("wide, GRPO with reference, full", "grpo", beta=0.1, lora=False),
    Case("wide, PPO, full", "ppo", lora=False),
    Case("wide, PPO, 4-bit", "ppo", four_bit=True),
    Case("wide, DPO, full", "dpo", lora=False),
    Case("wide, DPO, LoRA", "dpo"),
    Case("wide, reward model, full", "reward", lora=False),
    Case("wide, reward model, LoRA", "reward"),
    small("DAPO, full", lora=False),
    small("DAPO, LoRA"),
    small("DAPO, 4-bit", four_bit=True),
    small("DAPO, 4-bit, checkpointing", four_bit=True, checkpointing=True),
    small("DAPO, 4-bit, completion 96", four_bit=True, completion=96),
    small("DAPO, 4-bit, G 8", four_bit=True, group=8, microbatches=4),
    small("GRPO with reference, 4-bit", "grpo", four_bit=True, beta=0.1),
    small("PPO, 4-bit", "ppo", four_bit=True),
    small("DPO, 4-bit", "dpo", four_bit=True),
    small("DPO, full", "dpo", lora=False),
    small("reward model, 4-bit", "reward", four_bit=True),
)


def adapter(case: Case) -> LoraConfig | None:
    """The adapter of a case."""
    if not case.lora:
        return None
    task = "SEQ_CLS" if case.algorithm == "reward" else "CAUSAL_LM"
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type=task)


def build(case: Case, source: str | None, folder: str) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    if case.model == "smollm2":
        assert source is not None
        tokenizer = AutoTokenizer.from_pretrained(source)
    else:
        # Wide and deep enough that layers count beside the head, whose tile has 32,768 columns in any case
        tokenizer = build_tokenizer()
        config = LlamaConfig(
            vocab_size=512, hidden_size=256, intermediate_size=704, num_hidden_layers=12, num_attention_heads=8,
            num_key_value_heads=4, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )  # fmt: skip
        torch.manual_seed(0)
        source = str(Path(folder) / "model")
        LlamaForCausalLM(config).save_pretrained(source)
        tokenizer.save_pretrained(source)
    more: dict[str, Any] = {}
    if case.four_bit:
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
    factory: Any = AutoModelForCausalLM
    if case.algorithm == "reward":
        factory, more["num_labels"] = AutoModelForSequenceClassification, 1
    model = factory.from_pretrained(source, dtype=torch.float32, **more)
    if case.algorithm == "reward" and model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def text(tokenizer: Any, tokens: int, seed: int) -> str:
    """Text of that many tokens: digits, which tokenizers read one by one."""
    ids = tokenizer("".join(str(i % 10) for i in range(seed, seed + 2 * tokens)), add_special_tokens=False)
    return tokenizer.decode(ids["input_ids"][:tokens])


def noise(completions: list[str], **kwargs: Any) -> list[float]:
    """A reward that differs between any two completions."""
    return [zlib.crc32(str(completion).encode()) % 1000 / 1000 for completion in completions]


def trainer_of(case: Case, model: Any, tokenizer: Any, folder: str) -> Any:
    """The trainer of a case, on the CPU in float32."""
    common = {
        "output_dir": folder, "use_cpu": True, "bf16": False, "max_steps": 2, "report_to": [], "save_strategy": "no",
        "gradient_checkpointing": case.checkpointing, "optim": "adamw_torch", "disable_tqdm": True,
        "gradient_accumulation_steps": case.microbatches, "seed": 1, "logging_steps": 1,
    }  # fmt: skip
    if case.algorithm in PAIRS:
        return _trainer_of_pairs(case, model, tokenizer, common)
    prompts = [{"prompt": text(tokenizer, case.prompt - 3 * (i % 2), i)} for i in range(64)]
    config, kind = {
        "dapo": (DAPOConfig, DAPOTrainer),
        "grpo": (GRPOConfig, GRPOTrainer),
        "ppo": (PPOConfig, PPOTrainer),
    }[case.algorithm]
    own: dict[str, Any] = {"num_generations": 1, "num_iterations": 1}
    if case.algorithm != "ppo":
        own = {"num_generations": case.group, "beta": case.beta}
    if case.algorithm == "dapo":
        own |= {"updates_per_rollout": 1, "overlong_filtering": False}
    else:
        own |= {"steps_per_generation": case.microbatches}
    args = config(
        per_device_train_batch_size=case.rows,
        max_completion_length=case.completion,
        generation_kwargs={"min_new_tokens": case.completion},
        **common,
        **own,
    )
    return kind(
        model, reward_funcs=noise, args=args, train_dataset=Dataset.from_list(prompts), processing_class=tokenizer,
        peft_config=adapter(case),
    )  # fmt: skip


def _trainer_of_pairs(case: Case, model: Any, tokenizer: Any, common: dict[str, Any]) -> Any:
    answer = case.completion - 1  # and the end token
    rows = [
        {
            "prompt": text(tokenizer, case.prompt - 3 * (i % 2), i),
            "chosen": text(tokenizer, answer, i + 5),
            "rejected": text(tokenizer, answer, i + 9),
        }
        for i in range(32)
    ]
    config, kind = {"dpo": (DPOConfig, DPOTrainer), "reward": (RewardConfig, RewardTrainer)}[case.algorithm]
    args = config(per_device_train_batch_size=case.rows // 2, max_length=case.prompt + case.completion, **common)
    return kind(
        model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=adapter(case)
    )


def shape_of(case: Case, config: Any, args: Any) -> RunShape:
    """What `trl-dapo plan` makes of a case; `config` is the model's, without quantization."""
    online = case.algorithm not in PAIRS
    group = 2 if not online else 1 if case.algorithm == "ppo" else case.group
    rows = case.rows * case.microbatches if online else 0
    critic = ("adapter" if case.lora else "model") if case.algorithm == "ppo" else "none"
    reference = "none"
    if case.algorithm in ("dpo", "ppo") or case.beta:
        reference = "adapter_off" if case.lora else "model"
    return RunShape(
        case.algorithm, config, quantization="4bit" if case.four_bit else None, double_quantization=case.four_bit,
        lora=adapter(case), optimizer="adamw_torch", gradient_checkpointing=case.checkpointing,
        prompt_length=case.prompt, completion_length=case.completion, num_generations=group, round_rows=rows,
        chunk_rows=rows, scoring_rows=case.rows if reference != "none" else 0, microbatch_rows=case.rows,
        microbatches=case.microbatches, reference=reference, critic=critic,
        prefill_once=online and args.prefill_once,
    )  # fmt: skip
