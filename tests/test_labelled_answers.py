"""The labelled answers, and the docs' table of how far each scorer agrees with them."""

import sys
from collections import Counter
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def benchmark():
    pytest.importorskip("math_verify", reason="the extra math is not installed")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import scorers

        yield scorers
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        sys.modules.pop("scorers", None)


def test_there_are_300_answers_and_each_has_its_label_once(benchmark):
    rows = benchmark.labelled()
    assert len(rows) == 300
    assert len({(row["completion"], row["solution"]) for row in rows}) == 300
    assert all(set(row) == {"completion", "solution", "right", "trap", "form"} for row in rows)
    assert all(isinstance(row["right"], bool) and row["solution"] for row in rows)
    # Neither label is so common that accepting or rejecting everything looks good
    assert 0.3 < Counter(row["right"] for row in rows)[True] / 300 < 0.7


def test_the_docs_have_the_table_that_the_command_prints(benchmark):
    text = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    for line in benchmark.agreement_table():
        assert line in text


def test_the_errors_are_counted_by_their_kind(benchmark):
    # By hand: dapo_math takes 3,4 for 34, and has no answer in a box; a careful teacher says the opposite of both
    rows = [
        {"completion": "Answer: 34", "solution": "34", "right": True},
        {"completion": "Answer: 3,4", "solution": "34", "right": False},
        {"completion": "\\boxed{34}", "solution": "34", "right": True},
        {"completion": "Answer: 3", "solution": "34", "right": False},
    ]
    found = benchmark.agreement("dapo_math", rows)
    assert (found.answers, found.false_accepts, found.false_rejects, found.share) == (4, 1, 1, 0.5)


def test_pathological_answers_stop_no_scorer(benchmark):
    for name in ("dapo_math", "math_verify", "boxed", "number", "multiple_choice", "exact"):
        completions, solutions, _ = benchmark.answers(name, 100, 25)
        judgements = benchmark.get_scorer(name, time_limit=1).judge(completions, solutions)
        assert len(judgements) == 100
        # The four in a hundred are not right, and about half of the others are
        assert 30 < sum(judgement.outcome == "right" for judgement in judgements) < 70
