"""
The rule of equal texts: the whole completion is the solution. For tasks whose answer is all that the model writes.
"""

from .texts import SOLUTION_CHARACTERS
from .verdicts import NO_ANSWER, Verdict, compared


def judge(completion: str, solution: str) -> Verdict:
    """Returns the verdict on the whole texts, without the white space around them. An empty text is no answer."""
    # A text that is longer than any solution is wrong, however much white space stands around it
    answer = completion.strip()[: SOLUTION_CHARACTERS + 1]
    return compared(answer, solution.strip()) if answer else NO_ANSWER
