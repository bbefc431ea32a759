"""
What PPO's critic, reference and reward model cost beside GRPO, when all of them stand on one 4-bit base.

Two figures, each against GRPO on the same base: the bytes of parameters and buffers with all four roles, and the time
of a rollout's passes and updates on the same rows. Generation and rewards, which would make the ratio of times
smaller, are scripted. `python benchmarks/ppo.py` builds its models in code and takes minutes on a CPU.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from transformers.utils import logging

from trl_dapo import GRPOConfig, GRPOTrainer, PPOConfig, PPOTrainer
from trl_dapo.arena import arena_accuracy, build_tokenizer, train_dataset


MEMORY_BOUND, TIME_BOUND = 1.15, 2.2
ROWS, TOKENS, UPDATES = 16, 48, 2
LORA: dict[str, Any] = {"r": 8, "target_modules": "all-linear"}


def model_folder(folder: Path, hidden: int, layers: int) -> Path:
    """Writes a random Llama over the arena's tokens."""
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=8,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def reward_folder(model: Path, folder: Path) -> str:
    """Writes a random reward adapter for the model."""
    base = LlamaForSequenceClassification.from_pretrained(model, num_labels=1)
    get_peft_model(base, LoraConfig(**LORA, task_type="SEQ_CLS")).save_pretrained(folder / "reward")
    return str(folder / "reward")


def scripted(prompts: list, trainer: Any) -> dict[str, list]:
    """Random completions of the full length, a function of the row alone: the same work for both trainers."""
    tokenizer = trainer.processing_class
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(len(tokenizer) - 8, (len(prompts), TOKENS), generator=draw)
    return {
        "prompt_ids": [tokenizer(prompt)["input_ids"] for prompt in prompts],
        "completion_ids": ids.tolist(),
        "logprobs": [[-1.0] * TOKENS] * len(prompts),
    }


def trainer(kind: str, model: Path, reward: str | None, folder: Path, rollouts: int) -> Any:
    """A trainer of either kind on the same base, quantized to 4 bits, and the same rows."""
    common = {
        "output_dir": str(folder / kind),
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": UPDATES,
        "per_device_train_batch_size": ROWS // UPDATES,
        "steps_per_generation": UPDATES,
        "num_generations": 8,
        "num_iterations": 1,
        "beta": 0.05,
        "max_completion_length": TOKENS,
        "max_steps": rollouts * UPDATES,
        # Rows without an advantage would cost GRPO nothing
        "compact_microbatches": False,
    }
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    policy = LlamaForCausalLM.from_pretrained(model, quantization_config=quantized, device_map="cpu")
    classes: dict[str, Any] = {"GRPO": (GRPOTrainer, GRPOConfig), "PPO": (PPOTrainer, PPOConfig)}
    cls, config = classes[kind]
    own = {"reward_adapter": reward} if kind == "PPO" and reward else {}
    return cls(
        policy,
        arena_accuracy,
        config(**common, **own),
        train_dataset(512),
        processing_class=build_tokenizer(),
        peft_config=LoraConfig(**LORA, task_type="CAUSAL_LM"),
        rollout_func=scripted,
    )


def stored_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, each storage once."""
    storages = {}
    for tensor in _tensors(model):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from model.buffers()
    for parameter in model.parameters():
        yield parameter.data
        state = getattr(parameter, "quant_state", None)  # the scales of 4-bit blocks
        while state is not None:
            yield from (tensor for tensor in (state.absmax, state.code) if tensor is not None)
            state = state.state2


def rollout_seconds(made: Any) -> list[float]:
    """Seconds of each rollout's passes and updates, without the first, which warms up."""
    seconds: list[float] = []
    host = made.training_step

    def timed(*args: Any) -> torch.Tensor:
        started = time.process_time()
        loss = host(*args)
        seconds.append(time.process_time() - started)
        return loss

    made.training_step = timed
    made.train()
    return [sum(seconds[i : i + UPDATES]) for i in range(UPDATES, len(seconds), UPDATES)]


def memory_ratio(folder: Path, hidden: int, layers: int) -> float:
    """Prints what parameters take with policy, critic, reference and reward model on one base; returns the ratio."""
    model = model_folder(folder, hidden, layers)
    reward = reward_folder(model, folder)
    sizes = {}
    for kind in ("GRPO", "PPO"):
        made = trainer(kind, model, reward, folder, rollouts=1).model
        sizes[kind] = stored_bytes(made)
        print(f"{kind}: adapters {sorted(made.peft_config)}, {sizes[kind] / 2**20:.1f} MiB of parameters")
    return sizes["PPO"] / sizes["GRPO"]


def time_ratio(folder: Path, hidden: int, layers: int, rollouts: int) -> float:
    """Prints what a rollout takes; returns the ratio of medians."""
    model = model_folder(folder, hidden, layers)
    seconds: dict[str, list[float]] = {"GRPO": [], "PPO": []}
    # In turns, so that what else the machine does falls on both
    for _ in range(2):
        for kind in seconds:
            seconds[kind] += rollout_seconds(trainer(kind, model, None, folder, rollouts))
    times = {kind: statistics.median(found) for kind, found in seconds.items()}
    for kind, median in times.items():
        print(f"{kind}: {median:.2f} CPU s per rollout of {ROWS} rows and {UPDATES} updates")
    return times["PPO"] / times["GRPO"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--hidden", type=int, default=2048, help="width of the model whose memory is counted")
    parser.add_argument("--layers", type=int, default=4, help="its layers")
    parser.add_argument("--rollouts", type=int, default=4, help="rollouts that are timed, on a smaller model")
    options = parser.parse_args()
    logging.set_verbosity_error()
    print(f"device: CPU, {torch.get_num_threads()} threads; NF4, LoRA of rank {LORA['r']} on all linear layers")
    with tempfile.TemporaryDirectory() as name:
        memory = memory_ratio(Path(name) / "memory", options.hidden, options.layers)
        slower = time_ratio(Path(name) / "time", 256, 4, options.rollouts)
    print(f"parameters of PPO: {memory:.3f} times those of GRPO (bound {MEMORY_BOUND})")
    print(f"time of PPO:       {slower:.2f} times that of GRPO (bound {TIME_BOUND})")
    return int(memory > MEMORY_BOUND or slower > TIME_BOUND)


if __name__ == "__main__":
    sys.exit(main())
