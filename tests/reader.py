"""
What a reader of the docs has before the first line: a folder in which the Hub's names are tiny models and data sets, a
run that has ended, and the names that pages speak of without making them.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import trl
import yaml
from trl.rewards import accuracy_reward

import trl_dapo
from preferences import chats, saved
from test_merge import adapter
from test_reward_adapter import reward_adapter
from tiny import conversational_dataset, save_tiny_model, tiny_tokenizer
from trl_dapo.arena import arena_accuracy, load_warm_start, train_dataset
from trl_dapo.reward_model.statistics import RewardStatistics


ROOT = Path(__file__).parents[1]
MODELS = ("Qwen2.5-0.5B-Instruct", "Qwen2.5-1.5B-Instruct", "Qwen2.5-3B-Instruct", "Qwen2.5-Math-7B")
PROBLEMS = ("gsm8k", "math-500", "aime-2024", "dapo-math-17k", "trl-lib/DeepMath-103K")
PREFERENCES = ("trl-lib/ultrafeedback_binarized",)

# What the files have that a reader is told to bring
BROUGHT = {
    "grpo.yaml": {"dataset_name": "gsm8k", "reward_funcs": "accuracy_reward", "output_dir": "dapo"},
    "run.yaml": {"dataset_name": "gsm8k", "reward_funcs": "math_verify", "max_steps": 800},
    "ppo.yaml": {"dataset_name": "trl-lib/DeepMath-103K", "reward_funcs": "accuracy_reward"},
    "dpo.yaml": {"dataset_name": "trl-lib/ultrafeedback_binarized"},
}

# Fields that make a training one of a single small step on the CPU
SMALL: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "optim": "adamw_torch",
    "report_to": "none",
}
SMALL_ROLLOUT: dict[str, Any] = {"num_generations": 4, "max_completion_length": 8}


def make_folder(folder: Path) -> None:
    """Fills a folder with what a reader has."""
    for name in MODELS:
        # 4-bit kernels on a CPU generate with sizes of whole blocks only
        save_tiny_model(folder / "Qwen" / name, tiny_tokenizer(), hidden=64 if "3B" in name else 16)
    base = str(Path("Qwen") / MODELS[0])
    problems = conversational_dataset(48).rename_column("answer", "solution")
    for name in PROBLEMS:
        for split in ("train", "test"):
            problems.to_json(folder / name / f"{split}.jsonl")
    for name in PREFERENCES:
        for split in ("train", "test"):
            chats(16).to_json(folder / name / f"{split}.jsonl")
    for name, values in BROUGHT.items():
        values = {"model_name_or_path": base, "output_dir": "out", **values}
        (folder / name).write_text(yaml.safe_dump(values))
    rows = [
        {"question": f"{i}+1?", "reward_model": {"ground_truth": str(i + 1)}, "reward": {"truth": "2"}}
        for i in range(64)
    ]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "my_prompts.txt").write_text("1+1=\n2+2=\n")
    for name in ("examples", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("reward-model", "reward-model-0", "reward-model-1"):
        reward_adapter(folder / name)
        config = folder / name / "adapter_config.json"
        config.write_text(config.read_text().replace('"tiny-llama"', json.dumps(base)))
        RewardStatistics(mean=0.1, std=0.5, rows=64).save(folder / name)
    _make_runs(folder, base)


def _make_runs(folder: Path, base: str) -> None:
    for name in ("runs/my-run", "runs/my-run/checkpoint-200", "dapo-12gb"):
        adapter(base, folder / name, quantized=True)
        tiny_tokenizer().save_pretrained(folder / name)
    log = [{"step": step, "entropy": 1.0, "reward": 0.1 * step, "loss": 0.0} for step in range(1, 11)]
    state = json.dumps({"log_history": log, "global_step": 10})
    for name in ("runs/my-run/checkpoint-200", "."):
        (folder / name / "trainer_state.json").write_text(state)
    saved(folder / "arena-DAPO", *load_warm_start())


def small_configs(patch: pytest.MonkeyPatch) -> None:
    """Gives fields that a page leaves alone the values of a single small step, in every config."""
    size = {**SMALL, **SMALL_ROLLOUT, "soft_punish_cache": 4, "disable_tqdm": True}
    classes = [trl.GRPOConfig, trl_dapo.GRPOConfig, trl_dapo.DAPOConfig, trl_dapo.PPOConfig]
    for cls in (*classes, trl_dapo.RewardConfig, trl_dapo.DPOConfig):
        patch.setattr(cls, "__post_init__", _small(cls, size))


def _small(cls: type, size: dict[str, Any]) -> Callable[[Any], None]:
    host = cls.__post_init__
    defaults = {field.name: field.default for field in fields(cls) if field.name in size}

    def post_init(self) -> None:
        if type(self) is cls:
            for name, default in defaults.items():
                if getattr(self, name) == default:
                    setattr(self, name, size[name])
        host(self)

    return post_init


def my_reward(completions: list[Any], **columns: Any) -> list[float]:
    return [float(index % 2) for index, _ in enumerate(completions)]


def problems() -> Any:
    return conversational_dataset(32).rename_column("answer", "solution")


def trainer() -> Any:
    """A trainer on the built-in task, about to go on from its first step, which it has saved."""
    _arena_trainer(1).train()
    return _arena_trainer(2)


def _arena_trainer(steps: int) -> Any:
    model, tokenizer = load_warm_start()
    args = trl_dapo.DAPOConfig(
        "run", max_steps=steps, save_steps=1, logging_steps=1, max_completion_length=40, soft_punish_cache=8
    )
    return trl_dapo.DAPOTrainer(
        model, arena_accuracy, args=args, train_dataset=train_dataset(256), processing_class=tokenizer
    )


MODEL = f"Qwen/{MODELS[0]}"
# Names that a page may use without making them, and what makes them
GIVEN: dict[str, Callable[[], Any]] = {
    "model": lambda: MODEL,
    "my_reward": lambda: my_reward,
    "reward_funcs": lambda: my_reward,
    "accuracy_reward": lambda: accuracy_reward,
    "args": lambda: trl_dapo.DAPOConfig("run"),
    "dataset": problems,
    "train_dataset": problems,
    "prompts": problems,
    "preferences": lambda: chats(16),
    "trainer": trainer,
    **{name: (lambda name=name: getattr(trl_dapo, name)) for name in trl_dapo.__all__},
    **{name: (lambda name=name: getattr(trl, name)) for name in ("GRPOTrainer",)},
}


def given(names: list[str]) -> dict[str, Any]:
    """Returns the objects of those names that a page may take as given."""
    return {name: GIVEN[name]() for name in names if name in GIVEN}


def copy_folder(source: Path, target: Path) -> None:
    """Copies a reader's folder; links stay links."""
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def flags(values: dict[str, Any]) -> list[str]:
    """Returns fields as words of a command."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value).lower())]
