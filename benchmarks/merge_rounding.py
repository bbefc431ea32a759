"""
What a merge loses: by learning rate, by base, and by the type that the weights are stored as.

    python benchmarks/merge_rounding.py                # SmolLM2-135M-Instruct in 4 bits, 8 updates at each rate
    python benchmarks/merge_rounding.py --layers 4     # minutes less

Each row is `trl-dapo merge` with `--base` and `--dtype`: the share of the entries that the adapter moves which still
change once stored, the error relative to the update, and how far the merged model is from the one that was trained.
"""

import argparse
import sys
import tempfile
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from qlora_smollm2 import make_trainer, save_smollm2
from trl_dapo.export.choice import choose
from trl_dapo.export.merging import tokenizer_of
from trl_dapo.export.source import find_source


def main() -> None:
    """Trains at each rate and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-6, 1e-5, 1e-4])
    options = parser.parse_args()
    print("| learning rate | base | stored as | entries changed | error | KL, nats per token | greedy tokens agree |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        base = save_smollm2(Path(folder) / "base", options.layers)
        for rate in options.rates:
            run = argparse.Namespace(
                output_dir=Path(folder) / f"{rate:g}",
                learning_rate=rate,
                steps=options.steps,
                tokens=32,
                questions=1,
                k=1,
                seed=0,
            )
            trainer, _ = make_trainer(base, run, options.steps)
            trainer.train()
            trainer.save_model()
            source = find_source(str(run.output_dir / "run"))
            tokenizer = tokenizer_of(source)
            for kind in ("dequantized", "original"):
                for dtype in ("float32", "bfloat16"):
                    one = choose(source, tokenizer, kind, dtype).taken
                    print(
                        f"| {rate:g} | {kind} | {dtype} | {one.kept.share:.1%} | {one.kept.error:.2g} | "
                        f"{one.agreement.divergence:.2g} | {one.agreement.agrees:.1%} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
