r"""
Ten ways to write an answer, and which of them a prompt asks for. Text in, text out.

The commonest way to lose a run is a verifier that does not read what the prompt asks for: a last line `Answer: 34`,
and a reward function that looks for `\boxed{34}`.
"""

import re
from dataclasses import dataclass


PLAIN = "plain"
ASKING = {
    # "... should be of the form Answer: $Answer", not a question that ends in "Answer:"
    "answer_line": re.compile(r"\b(?:Answer|ANSWER)\s*\**\s*:(?!\s*\Z)"),
    "boxed": re.compile(r"\\boxed|\bboxed\s*\{"),
    "hashes": re.compile(r"####"),
    "tags": re.compile(r"<answer>", re.IGNORECASE),
}
# The completion goes on behind it
CUE = re.compile(r"(?:answer\s*\**|\bA)\s*[:=]\s*\Z|=\s*\??\s*\Z", re.IGNORECASE)
ALONE = re.compile(r"answer (?:alone|only)\b|\bonly (?:with )?the (?:final )?answer\b|nothing else", re.IGNORECASE)
THINKING = re.compile(r"<think>", re.IGNORECASE)

TEMPLATES = {
    "answer_line": "Answer: {}",
    "bold_answer_line": "**Answer:** {}",
    "boxed": "\\boxed{{{}}}",
    "hashes": "#### {}",
    "sentence": "The answer is {}.",
    "tags": "<answer>{}</answer>",
    PLAIN: "{}",
}


@dataclass(frozen=True)
class Written:
    """
    An answer, written.

    Args:
        format (`str`):
            How: a key of `TEMPLATES`, or `"asked"`, `"decimal"` or `"units"`, which are written as asked.
        text (`str`):
            The completion.
        is_right (`bool`):
            Whether the answer is the right one.
    """

    format: str
    text: str
    is_right: bool


def asked_formats(prompt: str) -> tuple[str, ...]:
    """
    Returns the formats that a prompt asks for, innermost first, `("plain",)` where it ends in a cue such as `=`, and
    `()` where it says nothing.
    """
    if CUE.search(prompt):
        return (PLAIN,)
    found = [name for name in ("boxed", "hashes", "tags", "answer_line") if ASKING[name].search(prompt)]
    # One line cannot be two of these; a box may stand inside of either
    if not found and ALONE.search(prompt):
        return (PLAIN,)
    outer = [name for name in found if name != "boxed"][:1]
    return tuple([name for name in found if name == "boxed"] + outer)


def write(formats: tuple[str, ...], answer: str) -> str:
    """Returns the answer in these formats, one inside of the other."""
    for name in formats:
        answer = TEMPLATES[name].format(answer)
    return answer


def written(prompt: str, answer: str, wrong: str) -> list[Written]:
    """
    Returns the answer in ten forms, behind each the wrong one in the same.

    Args:
        prompt (`str`):
            Decides what `"asked"`, `"decimal"` and `"units"` look like; plain where it asks for nothing.
        answer, wrong (`str`):
            A right and a wrong answer.
    """
    asked = asked_formats(prompt) or (PLAIN,)
    before = "<think>\nStep by step.\n</think>\n" if THINKING.search(prompt) else ""
    forms = {"asked": ("{}", asked), **{name: ("{}", (name,)) for name in TEMPLATES}}
    if re.fullmatch(r"-?\d+", answer):
        forms["decimal"] = ("{}.0", asked)
    forms["units"] = ("{} apples", asked)
    rows = []
    for name, (form, formats) in forms.items():
        rows.append(Written(name, write(formats, form.format(answer)), True))
        rows.append(Written(name, write(formats, form.format(wrong)), False))
    return [Written(row.format, before + row.text, row.is_right) for row in rows]


def final_answer(solution: str) -> str:
    r"""Returns the answer in a solution: what follows `####`, is in the last `\boxed{}` or between `$`, or all."""
    text = solution.strip()
    if "####" in text:
        return text.rsplit("####", 1)[1].strip()
    if "\\boxed{" in text:
        return _braced(text.rsplit("\\boxed{", 1)[1])
    if len(text) > 2 and text.startswith("$") and text.endswith("$"):
        return text.strip("$").strip()
    return text


def another_answer(answer: str, others: list[str]) -> str:
    """Returns a wrong answer: the next number, the next letter, or another row's."""
    if re.fullmatch(r"-?\d{1,18}", answer):
        return str(int(answer) + 1)
    if re.fullmatch(r"[A-D]", answer):
        return "ABCD"[("ABCD".index(answer) + 1) % 4]
    return next((other for other in others if other != answer), "-1" if answer != "-1" else "-2")


def _braced(text: str) -> str:
    depth = 1
    for place, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return text[:place]
    return text
