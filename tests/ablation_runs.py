"""
Runs of an ablation that were never trained, for the tests of reports.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from trl_dapo.ablation.designs import Design, make_design
from trl_dapo.ablation.results import DataSet, End, Question, RowOfRun, RunResult, SampleCompletion


EFFECTS = {
    "overlong_filtering": 0.004,
    "clip_higher": 0.02,
    "soft_overlong_punishment": -0.006,
    "token_level_loss": 0.035,
    "dynamic_sampling": 0.06,
}


def made_run(
    changes: Mapping[str, object],
    *,
    key: str,
    name: str = "",
    seed: int = 0,
    questions: int = 24,
    points: int = 40,
    position: int = 0,
    regime: str | None = None,
    matches: Sequence[str] = ("samples", "steps"),
    metrics: int = 4,
) -> RunResult:
    """A run whose accuracy rises with the toggles that are on."""
    rng = np.random.default_rng([seed, sum(map(ord, key))])
    # What questions and a seed share, so that pairs are worth something
    easy = np.random.default_rng(0).uniform(-0.25, 0.25, questions)
    luck = np.random.default_rng(seed + 1).normal(0, 0.02)
    mean = 0.38 + luck + sum(EFFECTS[one] for one, is_on in changes.items() if one in EFFECTS and is_on)
    ends = {}
    for match in matches:
        right = rng.binomial(8, np.clip(mean + easy, 0.02, 0.98))
        asked = tuple(Question(f"q{number}", 8, int(one)) for number, one in enumerate(right))
        seconds = 300.0 + 40 * bool(changes.get("dynamic_sampling")) + rng.uniform(0, 20)
        budget = {"samples": 12288.0, "steps": 96.0}.get(match, 300.0)
        ends[match] = End(budget, 96, 12288, seconds, {"held out": DataSet("exact match", asked, 0.04, 31.5)})
    return RunResult(
        row=RowOfRun(key, name or key, dict(changes), position),
        seed=seed,
        ends=ends,
        curve=made_curve(rng, mean, points, bool(changes.get("dynamic_sampling")), metrics),
        manipulation={"dapo/above_symmetric": 0.003, "dapo/groups_replaced": 4.0, "dapo/rows_filtered": 0.05},
        completions=made_completions(seed),
        regime=regime,
        start=f"warm start {seed % 3}",
        config={"learning_rate": 0.001, "seed": seed, **changes},
        checkpoint={"which": "last", "why": "the budget was spent"},
        environment={"trl_dapo": "0.1.0", "torch": "2.9.0", "commit": "0123abc", "cpu": "2 cores"},
    )


def made_completions(seed: int) -> tuple[SampleCompletion, ...]:
    texts = [(f"{seed}+2=", f"{seed + 2}", True), (f"{seed}*3=", "7, since\n\n  3 is odd", False)]
    return tuple(SampleCompletion(*one) for one in texts)


def made_curve(rng, mean: float, points: int, is_dynamic: bool, metrics: int) -> list[dict[str, float]]:
    curve = []
    for step in range(points):
        done = (step + 1) / points
        point = {
            "step": float(step + 1),
            "completions": 128.0 * (step + 1),
            "seconds": 3.1 * (step + 1) * (1.12 if is_dynamic else 1),
            "dapo/accuracy_generated": 0.2 + (mean - 0.2) * (1 - math.exp(-3 * done)) + rng.normal(0, 0.02),
            "entropy": 1.2 * math.exp(-1.4 * done) + (0.15 if is_dynamic else 0) + rng.normal(0, 0.02),
            "dapo/mean_length_generated": 20 + 12 * done + rng.normal(0, 0.5),
            "dapo/overlong_frac": 0.02 + 0.05 * done + rng.normal(0, 0.004),
            "dapo/frac_informative": 0.75 - 0.3 * done + rng.normal(0, 0.03),
            "clip_ratio/high_mean": 0.003 + rng.normal(0, 0.0004),
        }
        curve.append(point | {f"other/{number}": 0.123456789 * number for number in range(metrics)})
    return curve


def made_runs(design: Design | None = None, seeds: int = 4, **settings) -> list[RunResult]:
    """Runs of all rows of a design, the ladder's if none is given."""
    rows = (design or make_design("ladder")).rows
    return [
        made_run(row.changes, key=row.key, name=row.name, seed=seed, position=position, **settings)
        for position, row in enumerate(rows)
        for seed in range(seeds)
    ]


def with_metrics(runs: Sequence[RunResult], *names: str) -> list[RunResult]:
    """The runs with these metrics of their curves alone: each is a figure, which takes time."""
    kept = {"step", "completions", "seconds", *names}
    return [
        replace(run, curve=[{name: value for name, value in point.items() if name in kept} for point in run.curve])
        for run in runs
    ]


def with_scores(run: RunResult, scores: Sequence[int], samples: int = 8, match: str = "samples") -> RunResult:
    """The run with other answers."""
    asked = tuple(Question(f"q{number}", samples, one) for number, one in enumerate(scores))
    end = run.ends[match]
    name = next(iter(end.data_sets))
    data_sets = {**end.data_sets, name: replace(end.data_sets[name], questions=asked)}
    return replace(run, ends={**run.ends, match: replace(end, data_sets=data_sets)})
