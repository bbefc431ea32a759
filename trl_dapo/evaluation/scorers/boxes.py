r"""
The rule of boxes: what the last `\boxed{...}` holds is the solution, but for the way it is written.

Texts are compared, not what they mean: x+1 is not 1+x. Numbers are compared by value.
"""

import functools
import re

from .last_number import ascii_digits, only_number
from .texts import end_of
from .verdicts import NO_ANSWER, Verdict, compared


BOX = re.compile(r"\\(?:boxed|fbox) ?\{|\\.|[{}]", re.DOTALL)

# Says how wide or upright, not what
DROPPED = (
    *("\\left", "\\right", "\\displaystyle", "\\limits", "\\!", "\\,", "\\;", "\\:", "\\ ", "\\quad", "\\(", "\\)"),
    *("\\[", "\\]", "\\$", "$", "\\%", "%", "^{\\circ}", "^\\circ", "°", "~"),
)
RENAMED = {
    **{"\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\leq": "\\le", "\\geq": "\\ge"},
    **{"\\neq": "\\ne", "\\lbrace": "\\{", "\\rbrace": "\\}", "−": "-", "π": "\\pi", "∞": "\\infty", "{,}": ","},
}
COMMAND_SPACE = re.compile(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])")
# Only inside a short wrapper: what is longer is prose
WRAPPER = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname) ?\{([^{}]{0,100})\}")
UNIT = re.compile(r"(?<=[\d}$]) ?(?:\\[,; ])? ?\\(?:text|mathrm|mbox|textrm) ?\{ ?[^{}\d]{1,40}\}(?:\^\{?\d\}?)?\$?$")
SHORT_FRACTION = re.compile(r"\\frac(?:\{([^{}]{1,20})\}|(\d))(?:\{([^{}]{1,20})\}|(\d))")
SHORT_ROOT = re.compile(r"\\sqrt([^{\[\\])")
# "x = 5" is 5, and "x = 2, y = 3" stays
NAMED = re.compile(r"[a-zA-Z](?:\([a-zA-Z]\))?=([^=]+)")


def judge(completion: str, solution: str) -> Verdict:
    """Returns the verdict on the last closed box. A completion without one has no answer."""
    answer = last_box(end_of(completion))
    if answer is None:
        return NO_ANSWER
    boxed_solution = last_box(solution)
    return compared(normalised(answer), normalised(solution if boxed_solution is None else boxed_solution))


def last_box(text: str) -> str | None:
    r"""Returns what is in the last closed `\boxed{...}`, in one pass. Escaped braces are text."""
    opened: list[int | None] = []  # where each open brace's content starts, if it is a box
    last = slice(0, 0)
    for token in BOX.finditer(text):
        if token[0] == "}":
            start = opened.pop() if opened else None
            # Of boxes in a box, the innermost is the answer
            if start is not None and start > last.start:
                last = slice(start, token.start())
        elif token[0].endswith("{") and token[0] != "\\{":
            opened.append(token.end() if token[0].startswith("\\") else None)
    return text[last] if last.start else None


# Every completion of a group has the same solution
@functools.lru_cache(maxsize=1024)
def normalised(answer: str) -> str:
    """Returns the normal form of an answer: without spaces, units and commands that change only its looks."""
    text = UNIT.sub("", answer.strip().rstrip("."))
    text = WRAPPER.sub(r"\1", text)
    for before, after in RENAMED.items():
        text = text.replace(before, after)
    for command in DROPPED:
        text = text.replace(command, "")
    text = COMMAND_SPACE.sub(r"\1 ", text)
    text = "".join(ascii_digits(text).split()).rstrip(".")
    text = SHORT_ROOT.sub(r"\\sqrt{\1}", SHORT_FRACTION.sub(_fraction, text))
    named = NAMED.fullmatch(text)
    text = named[1] if named else text
    return only_number(text) or text


def _fraction(found: re.Match[str]) -> str:
    return f"\\frac{{{found[1] or found[2]}}}{{{found[3] or found[4]}}}"
