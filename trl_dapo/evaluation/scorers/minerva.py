r"""
The rule of the DAPO paper: the last line of the form `Answer: ...`, normalised as for Minerva, must be the solution.

The recipe that was published with the paper scores +1 and -1 by it. It is strict: `Answer: 34.` is not 34. The
normalisation is Listing 1 in Appendix D of the Minerva paper (https://huggingface.co/papers/2206.14858), with what the
recipe adds: boxes are opened.
"""

import functools
import re

from .verdicts import NO_ANSWER, Verdict, compared


# The recipe reads no more of a completion
LAST_CHARACTERS = 300

# The line's text may be bold: then the asterisks are part of the answer, and it is wrong
ANSWER_LINE = re.compile(r"answer\s*:\s*([^\n]+)", re.IGNORECASE)

# Applied in this order, each to what the one before has left
REPLACED = {
    "an ": "",
    "a ": "",
    ".$": "$",
    r"\$": "",
    r"\ ": "",
    " ": "",
    "mbox": "text",
    r",\text{and}": ",",
    r"\text{and}": ",",
    r"\text{m}": r"\text{}",
}
# Parts of words go too: the list is the paper's. Spaces are gone by now
WORDS = [
    *("square", "ways", "integers", "dollars", "mph", "inches", "hours", "km", "units", r"\ldots", "sue", "points"),
    *("feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students"),
    *("childrentickets", "multiples"),
]
MARKS = [
    *(rf"\text{{{inner}}}" for inner in ("s", ".", "\ns")),
    r"\text{}^2",
    r"\text{}^3",
    "\\text{\n}",
    r"\text{}",
    r"\mathrm{th}",
    r"^\circ",
    r"^{\circ}",
    r"\;",
    r",\!",
    "{,}",
    '"',
    r"\dots",
]

# Between dollars stands the answer, what is around it goes
MATHEMATICS = re.compile(r".*?\$(.*?)\$.*")
WRAPPERS = (
    re.compile(r"\\text\{(.*?)\}"),
    re.compile(r"\\textbf\{(.*?)\}"),
    re.compile(r"\\overline\{(.*?)\}"),
    re.compile(r"\\boxed\{(.*)\}"),
)
# \frac12 and \sqrt3, which TeX reads by the single character
SHORT_FRACTION = re.compile(r"frac([^{])(.)")
SHORT_ROOT = re.compile(r"sqrt([^{])")


def judge(completion: str, solution: str) -> Verdict:
    """Returns the verdict of the paper's rule. No line of the form `Answer: ...` is no answer."""
    lines = ANSWER_LINE.findall(completion[-LAST_CHARACTERS:])
    return compared(normalised(lines[-1]), normalised(solution)) if lines else NO_ANSWER


# Every completion of a group has the same solution
@functools.lru_cache(maxsize=1024)
def normalised(answer: str) -> str:
    """Returns the normal form of an answer; two answers are equal if their normal forms are."""
    answer = answer.rpartition("=")[2]
    for before, after in REPLACED.items():
        answer = answer.replace(before, after)
    for expression in (*WORDS, *MARKS):
        answer = answer.replace(expression, "")
    answer = MATHEMATICS.sub(r"$\1$", answer)
    for wrapper in WRAPPERS:
        answer = wrapper.sub(r"\1", answer)
    answer = SHORT_FRACTION.sub(r"frac{\1}{\2}", answer)
    answer = SHORT_ROOT.sub(r"sqrt{\1}", answer).replace("$", "")
    without_commas = answer.replace(",", "")
    return without_commas if without_commas.isdigit() else answer.strip()
