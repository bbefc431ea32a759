"""
Scorers: how often each agrees with a careful teacher, and how many answers it judges per second.

`agreement` judges the 300 answers of `labelled_answers.jsonl`, which were labelled by hand. `speed` judges 10,000
synthetic answers, of which one in a hundred is meant to stop a scorer, in one process and in two.

    python benchmarks/scorers.py agreement
    python benchmarks/scorers.py speed --size 10000
"""

import argparse
import importlib.util
import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trl_dapo.evaluation.scorers import SCORERS, get_scorer
from trl_dapo.evaluation.scorers.workers import EXTRAS, end_workers


LABELLED = Path(__file__).parent / "labelled_answers.jsonl"

# The form of answer that the scorer's prompt asks for. `exact` is for none of them
FORMS = {
    "dapo_math": "line",
    "math_verify": "boxed",
    "boxed": "boxed",
    "number": "marked",
    "multiple_choice": "choice",
}

ENDINGS = {
    "dapo_math": "Answer: {}",
    "math_verify": "\\boxed{{{}}}",
    "boxed": "\\boxed{{{}}}",
    "exact": "{}",
    "number": "#### {}",
    "multiple_choice": "Answer: {}",
    "reasoning_gym": "<answer>{}</answer>",
}
PATHOLOGICAL = (
    "\\boxed{" + "{" * 100_000,
    "\\boxed{" * 1_400_000,
    "\\boxed{" + "\\frac{1}{" * 1_000 + "2" + "}" * 1_001,
    "\\boxed{9^{9^{9^{9}}}}",
    "\\boxed{99999999!}",
    "#### 9e999999999 \\boxed{1e400}\nAnswer: 1e400",
    "<answer>9**9**9**9</answer>\n#### 9**9**9**9",
    "\0" * 100_000 + "Answer: \0",
    "٣" * 100_000,
    "Answer: " + "answer " * 15_000,
)


@dataclass(frozen=True)
class Agreement:
    """How a scorer's verdicts compare with the labels."""

    answers: int
    false_accepts: int
    false_rejects: int

    @property
    def share(self) -> float:
        """Share of the answers on which both agree."""
        return 1 - (self.false_accepts + self.false_rejects) / self.answers


def labelled() -> list[dict]:
    """The answers with their labels."""
    return [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]


def agreement(name: str, rows: list[dict]) -> Agreement:
    """Judges the rows. An answer that the scorer cannot parse is not accepted."""
    judgements = get_scorer(name).judge([row["completion"] for row in rows], [row["solution"] for row in rows])
    accepted = [judgement.outcome == "right" for judgement in judgements]
    pairs = list(zip(accepted, (row["right"] for row in rows), strict=True))
    return Agreement(len(rows), pairs.count((True, False)), pairs.count((False, True)))


def agreement_table() -> Iterator[str]:
    """The table of the docs, line by line: in the scorer's own format, and over all answers."""
    rows = labelled()
    yield (
        "| scorer | answers in its format | agreement | false accepts | false rejects | all: agreement | "
        "false accepts | false rejects |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for name in SCORERS:
        if name == "reasoning_gym":
            continue
        own = [row for row in rows if row["form"] == FORMS.get(name)]
        cells = _cells(agreement(name, own)) if own else ["", "", ""]
        yield f"| {' | '.join([f'`{name}`', str(len(own) or '-'), *cells, *_cells(agreement(name, rows))])} |"


def _cells(found: Agreement) -> list[str]:
    return [f"{100 * found.share:.1f} %", str(found.false_accepts), str(found.false_rejects)]


def answers(name: str, size: int, every: int) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Synthetic completions of about 1,500 characters, their solutions and columns; one in `every` is pathological."""
    draw = random.Random(0)
    solutions = [_drawn(name, draw) for _ in range(size)]
    # The whole completion is the answer for `exact`
    reasoning = "" if name == "exact" else "We add the two parts of 3 and 4, and check it. " * 30 + "\n"
    completions = [
        reasoning + ENDINGS[name].format(solution if draw.random() < 0.5 else _drawn(name, draw))
        for solution in solutions
    ]
    for place, row in enumerate(range(0, size, every) if every else ()):
        completions[row] = PATHOLOGICAL[place % len(PATHOLOGICAL)]
    return completions, solutions, _columns(name, size)


def _drawn(name: str, draw: random.Random) -> str:
    """An answer. Numbers differ from row to row: scorers keep what they have normalised."""
    return draw.choice("ABCDE") if name == "multiple_choice" else str(draw.randrange(-(10**5), 10**6))


def _columns(name: str, size: int) -> dict[str, list[str]]:
    if name != "reasoning_gym":
        return {}
    import reasoning_gym

    # Its scorers of these tasks are fast, middling and slow
    made = [reasoning_gym.create_dataset(task, size=1, seed=0)[0] for task in ("chain_sum", "countdown", "puzzle24")]
    return {"entry": [json.dumps(made[row % len(made)]) for row in range(size)]}


def judged(name: str, limit: float, workers: int, every: int, size: int) -> tuple[float, int]:
    """Judges answers of its own making; returns the seconds for judging and how many answers timed out."""
    completions, solutions, columns = answers(name, size, every)
    scorer = get_scorer(name, time_limit=limit, workers=workers)
    start = time.perf_counter()
    judgements = scorer.judge(completions, solutions, **columns)
    return time.perf_counter() - start, sum(judgement.timed_out for judgement in judgements)


def seconds(name: str, size: int, processes: int, every: int, limit: float) -> tuple[float, int]:
    """Seconds for all answers, with the start of workers, and how many timed out."""
    if name in EXTRAS or processes == 1:
        end_workers()
        return judged(name, limit, processes, every, size)
    # As in a run of two processes: each judges its own completions
    with ProcessPoolExecutor(processes) as pool:
        runs = list(pool.map(partial(judged, name, limit, 1, every), [size // processes] * processes))
    return max(taken for taken, _ in runs), sum(late for _, late in runs)


def speed_table(size: int, limit: float, names: list[str]) -> Iterator[str]:
    """Answers per second, line by line."""
    yield (
        "| scorer | one process | two | one, 1 % pathological | two, 1 % pathological | timed out | waiting for them |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name in names:
        if name in EXTRAS and importlib.util.find_spec(name) is None:
            yield f"| `{name}` | not installed | | | | | |"
            continue
        runs = [seconds(name, size, processes, every, limit) for every in (0, 100) for processes in (1, 2)]
        rates = [f"{size / taken:,.0f}" for taken, _ in runs]
        waited = runs[2][1] * limit / runs[2][0]
        yield f"| {' | '.join([f'`{name}`', *rates, str(runs[2][1]), f'{100 * waited:.0f} %'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("agreement", "speed"))
    parser.add_argument("--size", type=int, default=10_000, help="answers per run")
    parser.add_argument("--time_limit", type=float, default=5.0, help="seconds for one answer")
    parser.add_argument("--scorers", nargs="+", choices=SCORERS, default=list(SCORERS))
    args = parser.parse_args()
    lines = agreement_table() if args.table == "agreement" else speed_table(args.size, args.time_limit, args.scorers)
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
