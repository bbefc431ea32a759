"""Stand-ins for evaluations: a scorer, a sampler that needs no model, and questions."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_dapo.evaluation.results import ResultsFolder
from trl_dapo.evaluation.runner import Problems, evaluate, make_problems
from trl_dapo.evaluation.samples import Completion
from trl_dapo.evaluation.settings import Protocol


@dataclass(frozen=True)
class Judgement:
    outcome: str
    reward: float | None
    answer: str | None
    timed_out: bool = False


class LastNumber:
    """A scorer that reads the last number: of "7", "3 7" is right, "3" wrong and "" unparseable."""

    __name__ = "last_number"
    reward_range = (-1.0, 1.0)
    answer_format = "End with a number."
    columns = ("solution",)

    def judge(self, completions: list[Any], solutions: list[str], **columns: Any) -> list[Judgement]:
        texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
        found = [(re.findall(r"\d+", text) or [None])[-1] for text in texts]
        pairs = zip(found, solutions, strict=True)
        return [
            Judgement("unparseable", -1.0, None)
            if answer is None
            else Judgement("right" if answer == solution else "wrong", 1.0 if answer == solution else -1.0, answer)
            for answer, solution in pairs
        ]


class SeededSampler:
    """Completions that say their seed's last digit. Those of each call are in `calls`."""

    def __init__(self, stop_after: int | None = None, with_: type[BaseException] = KeyboardInterrupt) -> None:
        self.calls: list[list[Any]] = []
        self._stop_after, self._error = stop_after, with_

    def sample(self, prompts, seeds):
        if self._stop_after is not None and len(self.calls) >= self._stop_after:
            raise self._error
        self.calls.append(list(prompts))
        # As a model's, the draws of a batch are a function of its first seed and the row's place
        values = [(seeds[0] + 7919 * row) % 10 for row in range(len(prompts))]
        return [
            Completion("" if value == 9 else f"it is {value % 4}", [1] * (value + 1), value == 8, seeds[0])
            for value in values
        ]


def questions(count: int = 5, name: str = "numbers", scorer: Any = None) -> Problems:
    rows = [{"prompt": f"{n}?", "solution": str(n % 4), "question_id": f"q{n}"} for n in range(count)]
    return make_problems(name, rows, scorer or LastNumber())


PROTOCOL = Protocol(k=4, batch_size=8, max_new_tokens=16)


def evaluated(folder: Path, problems: Problems, sampler: Any = None, protocol: Protocol = PROTOCOL, **settings: Any):
    """Scores of one data set, with a results folder that is closed afterwards whatever happens."""
    results = ResultsFolder(folder, {"k": protocol.k, **settings})
    try:
        return evaluate(sampler or SeededSampler(), [problems], protocol, results)[problems.name]
    finally:
        results.close()
