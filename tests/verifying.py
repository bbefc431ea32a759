"""Runs to verify, without a model: rows of sums, reward functions with and without faults, and setups of them."""

from typing import Any

from tiny import tiny_args, tiny_tokenizer
from trl_dapo import DAPOConfig
from trl_dapo.verification.findings import Finding
from trl_dapo.verification.setup import Sample, Setup


ANSWER_LINE = "{} The last line of your response should be of the form Answer: $Answer (without quotes)."
BOXED = "{} Put your final answer in \\boxed{{}}."


def sums(prompt: str = ANSWER_LINE, n: int = 8, chat: bool = True) -> list[dict[str, Any]]:
    """`n` sums with the answers "30", "32", ... in the column `solution`."""
    texts = [prompt.format(f"What is {i + 15}+{i + 15}?") for i in range(n)]
    prompts: list[Any] = [[{"role": "user", "content": text}] for text in texts] if chat else texts
    return [{"prompt": one, "solution": str(2 * i + 30)} for i, one in enumerate(prompts)]


def setup(
    tmp_path, rows: list[dict[str, Any]] | None = None, functions: tuple = (), kind: str = "dapo", **fields: Any
) -> Setup:
    """A setup of these rows and reward functions; fields of [`Setup`] or of the config."""
    rows = sums() if rows is None else rows
    own = {name: fields.pop(name) for name in [*fields] if name in Setup.__dataclass_fields__}
    args = own.pop("args", None) or tiny_args(tmp_path, cls=DAPOConfig, **fields)
    given = {
        "functions": list(functions),
        "names": [one.__name__ for one in functions],
        "weights": [1.0] * len(functions),
        "tokenizer": tiny_tokenizer(),
        **own,
    }
    return Setup(kind, args, given.pop("sample", Sample(rows, len(rows))), **given)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    """Findings by the names of their checks, each of which must be there once."""
    found = {finding.name: finding for finding in findings}
    assert len(found) == len(findings)
    return found


def ends_right(completions, solution, **kwargs):
    """1 where the completion ends with the answer, else 0."""
    return [float(_text(one).endswith(answer)) for one, answer in zip(completions, solution, strict=True)]


def boxed_only(completions, solution, **kwargs):
    """1 for the answer in a box, else 0."""
    return [float(f"\\boxed{{{answer}}}" in _text(one)) for one, answer in zip(completions, solution, strict=True)]


def upside_down(completions, solution, **kwargs):
    """-1 for a right answer, else 0."""
    return [-reward for reward in ends_right(completions, solution)]


def blind(completions, solution, **kwargs):
    """1 whatever was answered, though it reads the column."""
    return [1.0] * len(completions)


def crashing(completions, solution, **kwargs):
    """Raises."""
    raise KeyError("no such table")


def too_few(completions, solution, **kwargs):
    """One reward for all."""
    return [1.0]


async def slow_but_right(completions, solution, **kwargs):
    """`ends_right` as a coroutine."""
    return ends_right(completions, solution)


def of_length(completions, **kwargs):
    """Reads no answer."""
    return [float(len(_text(one))) for one in completions]


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]
