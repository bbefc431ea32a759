"""
The rule of multiple choice: the letter that the completion names as its answer, A to E, is the solution's.

A letter counts where the text says that it is the answer: after "answer", in a box, or as the last line. The article
"a" is no answer.
"""

import re
from collections import deque

from .boxes import last_box
from .texts import end_of
from .verdicts import NO_ANSWER, UNREADABLE_SOLUTION, Verdict, compared


_OPTION = r"(?:(?i:option|choice)s? )?"
# "B", "(B)", "(b)", "**B**", "$B$", "B." and "B) 34", but not "Because"
_LETTER = r"[*_$`\"']{0,3}(?:\(\s?([A-Ea-e])\s?\)|([A-E])(?![\w'’]))[*_$`\"']{0,3}"
_STATED = r"(?i:answer|choice|option)[*_]{0,2} {0,2}(?:(?i:is|would be|should be|must be)|[:=])? ?:?[*_]{0,2}\s{0,3}"
STATEMENT = re.compile(rf"{_STATED}{_OPTION}{_LETTER}")
LINE = re.compile(rf"\s*{_OPTION}{_LETTER}(?:[.):,]|\s*$)")
# A second letter is a hedge: both are the answer, and no solution is
SECOND = re.compile(rf"[.):]?(?:,? ?(?i:or|and|and/or) |[,/&] ?){_OPTION}{_LETTER}")
BOXED = re.compile(rf"\s*(?:\\(?:text|textbf|mathrm|mathbf) ?\{{\s?)?{_OPTION}{_LETTER}(?:[.):}}\s]|$)")


def judge(completion: str, solution: str) -> Verdict:
    """Returns the verdict on the letters. A completion that names none has no answer."""
    wanted = _solution_letter(solution)
    if wanted is None:
        return UNREADABLE_SOLUTION
    answer = chosen(end_of(completion))
    return NO_ANSWER if answer is None else compared(answer, wanted)


def chosen(text: str) -> str | None:
    """Returns the letter that a text names last, two of them joined by a comma if it hedges."""
    stated = deque(STATEMENT.finditer(text), maxlen=1)
    found = stated[0] if stated else None
    if found is None:
        box = last_box(text)
        text, pattern = (box, BOXED) if box is not None else (_last_line(text), LINE)
        found = pattern.match(text)
    if found is None:
        return None
    second = SECOND.match(text, found.end(2) if found[2] else found.end())
    letters = [_letter(one) for one in (found, second) if one is not None]
    return ",".join(letters)


def _letter(found: re.Match[str]) -> str:
    return (found[1] or found[2]).upper()


def _last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2][:1_000]


def _solution_letter(solution: str) -> str | None:
    """A solution may be a letter alone, in either case, or a text that names one."""
    bare = solution.strip(" \n.()")
    if len(bare) == 1 and bare.upper() in "ABCDE":
        return bare.upper()
    return chosen(solution)
