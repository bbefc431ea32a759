"""
Errors that the user can fix: one line on stderr and exit code 2. All others keep their traceback.
"""

import os
import sys


USAGE = 2


class UsageError(Exception):
    """A mistake that the user can fix. Only its text is printed: the field, its value and what to do."""


def one_line(error: BaseException) -> str:
    """Returns the error's text without line breaks, or the name of its class if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def report(error: UsageError) -> int:
    """Prints the error as one line, once per machine, and returns the exit code."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"trl-dapo: error: {one_line(error)}", file=sys.stderr)
    return USAGE
