"""
Errors that the user can mend: one line on stderr and exit code 2. All others keep their traceback.
"""

import os
import sys


USAGE = 2


class UsageError(Exception):
    """What the user must change. Its text is all that is printed: the field, its value and the fix."""


def one_line(error: BaseException) -> str:
    """Returns the error's text without its line breaks, or its name where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def report(error: UsageError) -> int:
    """Prints the line, once per machine, and returns the exit code."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"trl-dapo: error: {one_line(error)}", file=sys.stderr)
    return USAGE
