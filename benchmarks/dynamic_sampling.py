"""
What dynamic sampling costs, and what it buys: four ways to fill a batch, side by side.

`simulated` draws prompts with pass rates from a mixture of Beta distributions, so that a known share of groups is
degenerate, and counts what each way generates for 64 informative groups. `arena` trains on the built-in task, all
methods on the same number of generated completions. `bookkeeping` times what is neither generation nor training. All
of them go through the package's own prompt stream, verdicts and sizes; only the way differs.

    python benchmarks/dynamic_sampling.py simulated --seeds 8
    python benchmarks/dynamic_sampling.py arena --seeds 8 --learning-rate 2e-4
    python benchmarks/dynamic_sampling.py bookkeeping
"""

import argparse
import functools
import json
import logging
import math
import random
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from scipy import stats
from trl import GRPOTrainer as HostTrainer

from trl_dapo import DAPOConfig, DAPOTrainer
from trl_dapo.arena import arena_accuracy, load_warm_start, train_dataset
from trl_dapo.dapo.sampling.groups import judge_groups, select_groups
from trl_dapo.dapo.sampling.history import PromptHistory
from trl_dapo.dapo.sampling.prompts import PromptStream, StreamedPrompt
from trl_dapo.dapo.sampling.refill import FIRST_QUANTILE, QUANTILE, KeepRate, round_size
from trl_dapo.demo.run import DAPO, DEMO_FIELDS, GRPO, Method, run_method


WANTED, GENERATIONS = 64, 16
PROMPTS = 8192


# ---------------------------------------------------------------------------------------------------------- simulated


class Population:
    """
    Prompts with a pass rate each: a mixture of hard, easy and medium ones, of which `degenerate` is the share of
    groups that come out constant.
    """

    def __init__(self, degenerate: float, seed: int) -> None:
        draw = random.Random(f"population/{seed}")
        self._noise = torch.Generator().manual_seed(seed)
        self.rates = [self._rate(draw, degenerate) for _ in range(PROMPTS)]
        rates = torch.tensor(self.rates, dtype=torch.float64)
        self.keep_rate = (1 - rates**GENERATIONS - (1 - rates) ** GENERATIONS).mean().item()

    @staticmethod
    def _rate(draw: random.Random, degenerate: float) -> float:
        # Groups of a prompt from Beta(4, 4) are hardly ever degenerate, those of the others in about 96 % of the cases
        if draw.random() >= (degenerate - 0.001) / 0.96:
            return draw.betavariate(4, 4)
        hard = draw.betavariate(0.05, 20)
        return hard if draw.random() < 0.5 else 1 - hard

    def metric(self, prompts: list[StreamedPrompt]) -> torch.Tensor:
        """Returns 0/1 rewards of shape `(P, G)` for these prompts."""
        rates = torch.tensor([self.rates[prompt.identity] for prompt in prompts], dtype=torch.float64)
        return (torch.rand(len(prompts), GENERATIONS, generator=self._noise) < rates.unsqueeze(1)).double()


@dataclass
class Step:
    """Groups generated and kept in one step, and the rounds after the first."""

    generated: int = 0
    kept: int = 0
    refills: int = 0
    epoch: float = 0.0


# Deficit, keep-rate and rounds so far in, groups to generate out; 0 ends the step
Way = Callable[[int, KeepRate, int], int]


def ours(deficit: int, rate: KeepRate, rounds: int, bound: float = 1.0) -> int:
    """Sizes by the keep-rate, at most `bound` generation batches in a round."""
    return round_size(deficit, rate, QUANTILE if rounds else FIRST_QUANTILE, 1, int(bound * WANTED))


def none(deficit: int, rate: KeepRate, rounds: int) -> int:
    """No dynamic sampling: one round, trained on as it comes."""
    return 0 if rounds else WANTED


def verl(deficit: int, rate: KeepRate, rounds: int) -> int:
    """verl's recipe: whole batches of three times the size, ten at most."""
    return 3 * WANTED if rounds < 10 else 0


def ms_swift(deficit: int, rate: KeepRate, rounds: int) -> int:
    """ms-swift: batches of the same size, three after the first."""
    return WANTED if rounds <= 3 else 0


WAYS: dict[str, tuple[Way, dict]] = {
    "no dynamic sampling": (none, {}),
    "verl (3x batches)": (verl, {}),
    "ms-swift (3 rounds)": (ms_swift, {}),
    "ours": (ours, {}),
    "ours, rounds up to 4 batches": (functools.partial(ours, bound=4.0), {}),
    "ours + greso": (ours, {"skip_degenerate": True}),
    "ours + solved 0.9": (ours, {"skip_solved_above": 0.9}),
    "ours + thompson": (ours, {"thompson": True}),
    "ours + greso, 4 batches": (functools.partial(ours, bound=4.0), {"skip_degenerate": True}),
}


def simulate(way: Way, switches: dict, degenerate: float, seed: int, steps: int, epochs: int) -> list[Step]:
    """Runs steps until as many are done and the stream has passed `epochs` times through the prompts."""
    population = Population(degenerate, seed)
    history = PromptHistory(seed, **switches)
    stream = PromptStream(Dataset.from_dict({"prompt": ["x"] * PROMPTS}), seed, history=history)
    rate, done = KeepRate(), []
    while len(done) < steps or (switches and stream.progress < epochs):
        step, informative = Step(epoch=stream.progress), []
        stream.begin_batch()
        rate.begin_rollout()
        while sum(informative) < WANTED and (
            size := way(WANTED - sum(informative), rate, step.refills + bool(informative))
        ):
            prompts = stream.take(size)
            metric = population.metric(prompts)
            verdicts = judge_groups(metric, torch.ones_like(metric, dtype=torch.bool), 1e-6)
            step.refills += bool(informative)
            informative += verdicts.informative_P.tolist()
            rate.observe(int(verdicts.informative_P.sum()), len(prompts))
            for prompt, right, teaches in zip(
                prompts, metric.sum(dim=1).int().tolist(), verdicts.informative_P.tolist(), strict=True
            ):
                history.record(prompt.identity, right, GENERATIONS - right, teaches)
        history.end_rollout()
        selection = select_groups(informative, WANTED)
        step.generated, step.kept = len(informative), sum(not filler for filler in selection.filler)
        if way is ms_swift and step.kept < WANTED:
            # Its fallback trains on the first batch as it came
            step.kept = sum(informative[:WANTED])
        done.append(step)
    return done


def simulated(args: argparse.Namespace) -> None:
    """Prints, for each share of degenerate groups and each way, what a kept group costs."""
    print(f"{WANTED} prompts of {GENERATIONS} generations a step, {args.steps} steps or more, {args.seeds} seeds")
    print(
        "cost: groups generated per informative group trained on; to limit: its ratio to 1 / keep-rate, 95 % interval"
    )
    for degenerate in (0.2, 0.5, 0.8):
        keep_rate = statistics.mean(Population(degenerate, seed).keep_rate for seed in range(args.seeds))
        print(f"\n{degenerate:.0%} degenerate: keep-rate {keep_rate:.3f}, limit {1 / keep_rate:.3f}")
        print(f"{'':32}{'cost':>7} {'to limit':>18} {'refills':>8} {'at most 1':>10} {'filled':>7} {'seconds':>8}")
        for name, (way, switches) in WAYS.items():
            costs, ratios, refills, few, filled = [], [], [], [], []
            started = time.perf_counter()
            for seed in range(args.seeds):
                steps = simulate(way, switches, degenerate, seed, args.steps, args.epochs + 1)
                # What skipping costs once every prompt was met `epochs` times; the first steps estimate the keep-rate
                steps = [step for step in steps if step.epoch >= args.epochs] if switches else steps[5:]
                cost = sum(step.generated for step in steps) / max(sum(step.kept for step in steps), 1)
                costs.append(cost)
                ratios.append(cost * Population(degenerate, seed).keep_rate)
                refills += [step.refills for step in steps]
                few += [step.refills <= 1 for step in steps]
                filled += [step.kept == WANTED for step in steps]
            print(
                f"{name:32}{statistics.mean(costs):7.3f} {interval(ratios):>18} {statistics.mean(refills):8.2f} "
                f"{statistics.mean(few):10.1%} {statistics.mean(filled):7.1%} {time.perf_counter() - started:8.1f}"
            )


# -------------------------------------------------------------------------------------------------------------- arena


class VerlWay(DAPOTrainer):
    """Refills by whole batches of three times the size."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        ours = self.sampler.size_of_round
        self.sampler.size_of_round = lambda candidates, wanted: 3 * wanted if ours(candidates, wanted) else 0


class MsSwiftWay(DAPOTrainer):
    """Refills by batches of the same size, three at most."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        ours = self.sampler.size_of_round
        self.sampler.size_of_round = lambda candidates, wanted: (
            wanted if ours(candidates, wanted) and candidates.generation_rounds <= 3 else 0
        )


METHODS = {
    "GRPO": GRPO,
    "DAPO": DAPO,
    "DAPO, verl's way": Method("verl", DAPOConfig, VerlWay),
    "DAPO, ms-swift's way": Method("ms-swift", DAPOConfig, MsSwiftWay),
    "DAPO + greso": Method("greso", functools.partial(DAPOConfig, skip_degenerate="greso")),
    "DAPO + solved 0.9": Method("solved", functools.partial(DAPOConfig, skip_solved_above=0.9)),
    "DAPO + thompson": Method("thompson", functools.partial(DAPOConfig, prompt_selection="thompson")),
    "DAPO + carry": Method("carry", functools.partial(DAPOConfig, surplus="carry")),
}


@dataclass
class Line:
    """Results of a method over the seeds."""

    accuracy: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    refills: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def arena(args: argparse.Namespace) -> None:
    """Trains every method on every seed and prints held-out accuracies, with the difference to GRPO."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    lines = {name: Line() for name in args.methods}
    print(f"learning rate {args.learning_rate}, {args.completions} completions, {args.prompts} training prompts")
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for name, line in lines.items():
            result = run_method(
                METHODS[name],
                seed,
                args.completions,
                lambda point: None,
                learning_rate=args.learning_rate,
                training_prompts=args.prompts,
            )
            line.accuracy.append(result.score.accuracy)
            line.refills.append(statistics.mean(point.refill_rounds for point in result.curve))
            line.seconds.append(result.seconds)
            trained = (
                sum(min(16, round(16 * point.informative)) for point in result.curve)
                if name == "GRPO"
                else 16 * len(result.curve)
            )
            line.cost.append(result.completions / 8 / trained)
            print(
                f"  seed {seed}  {name:22} {result.score.accuracy:.4f}  {result.completions} completions", flush=True
            )
            if args.output:
                record = {
                    "method": name,
                    "seed": seed,
                    "learning_rate": args.learning_rate,
                    "prompts": args.prompts,
                    "accuracy": result.score.accuracy,
                    "completions": result.completions,
                    "updates": result.updates,
                    "seconds": result.seconds,
                }
                with Path(args.output).open("a") as file:
                    file.write(json.dumps(record) + "\n")
    head = f"{'accuracy':>18} {'less GRPO':>19} {'better':>7} {'cost':>6} {'refills':>8} {'seconds':>8}"
    print(f"\n{'':24}{head}")
    base = next(iter(lines.values())).accuracy
    for name, line in lines.items():
        gains = [one - other for one, other in zip(line.accuracy, base, strict=True)]
        better = f"{sum(gain > 0 for gain in gains)}/{len(gains)}"
        cost, refills, seconds = (statistics.mean(one) for one in (line.cost, line.refills, line.seconds))
        print(
            f"{name:24}{interval(line.accuracy):>18} {interval(gains):>19} {better:>7} "
            f"{cost:6.2f} {refills:8.2f} {seconds:8.1f}"
        )


# -------------------------------------------------------------------------------------------------------- bookkeeping


@contextmanager
def timed(owner: type, name: str, seconds: dict[str, float]) -> Generator[None]:
    """Adds the seconds spent in a method of a class, by class and name."""
    method, key = getattr(owner, name), f"{owner.__name__}.{name}"

    @functools.wraps(method)
    def measured(*args, **kwargs):
        started = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds[key] += time.perf_counter() - started

    setattr(owner, name, measured)
    try:
        yield
    finally:
        setattr(owner, name, method)


def bookkeeping(args: argparse.Namespace) -> None:
    """Trains on one rollout and prints the share of its time that is neither the host's nor a reward function's."""
    warnings.filterwarnings("ignore")
    prompts = args.rows // GENERATIONS
    settings = {**DEMO_FIELDS, "num_generations": GENERATIONS, "per_device_train_batch_size": args.rows // 16}
    model, tokenizer = load_warm_start()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        config = DAPOConfig(
            folder,
            **{**settings, "updates_per_rollout": 16, "max_steps": 16, "logging_steps": 16},
            skip_degenerate="greso",
            prompt_selection="thompson",
            max_refill_rounds=2,
        )
        dataset = train_dataset(4 * prompts)
        trainer = DAPOTrainer(model, arena_accuracy, config, dataset, processing_class=tokenizer)
        seconds: dict[str, float] = defaultdict(float)
        inner = ("_generate", "_calculate_rewards")
        for owner in (HostTrainer, DAPOTrainer):
            for name in (*inner, "_generate_and_score_completions"):
                stack.enter_context(timed(owner, name, seconds))
        started = time.perf_counter()
        trainer.train()
        whole = time.perf_counter() - started
    # Ours around the host's: the pass as a whole, and within it generation and rewards
    ours = sum(
        seconds[f"DAPOTrainer.{name}"] - seconds[f"GRPOTrainer.{name}"]
        for name in (*inner, "_generate_and_score_completions")
    )
    generated = trainer.completions_generated
    print(
        f"{args.rows} rows trained on, {generated} generated: {whole:.1f} s for a rollout and its 16 updates, "
        f"of which {ours:.2f} s bookkeeping ({ours / whole:.2%})"
    )


def interval(values: Iterable[float]) -> str:
    """Returns the mean with the half-width of its 95 % t-interval."""
    values = list(values)
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    simulation = commands.add_parser("simulated")
    simulation.add_argument("--seeds", type=int, default=8)
    simulation.add_argument("--steps", type=int, default=60)
    simulation.add_argument("--epochs", type=int, default=2)
    simulation.set_defaults(run=simulated)
    training = commands.add_parser("arena")
    training.add_argument("--seeds", type=int, default=8)
    training.add_argument("--first-seed", type=int, default=0)
    training.add_argument("--learning-rate", type=float, default=2e-4)
    training.add_argument("--completions", type=int, default=16384)
    training.add_argument("--prompts", type=int, default=512)
    training.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    training.add_argument("--output", help="file to append one JSON line per run to")
    training.set_defaults(run=arena)
    books = commands.add_parser("bookkeeping")
    books.add_argument("--rows", type=int, default=8192)
    books.set_defaults(run=bookkeeping)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.run(args)


if __name__ == "__main__":
    main()
