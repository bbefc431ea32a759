"""
A worker: judges one answer after the other, and ends when its time or its parent does.

The system's own timer ends the process when an answer takes too long. This needs no thread, no handler and no help of
the parent, and it works while a library computes 9**9**9 in C. When the parent ends, in whatever way, the worker
reads the end of its input, or the timer finds it busy.
"""

import json
import os
import signal
import sys
from typing import IO, Any

from .guard import close_doors
from .verdicts import Verdict
from .worker_rules import Rule, load


def main(rule_name: str) -> None:
    """Announces itself, then answers each line of rows on standard input with one line per row."""
    # What libraries print must not reach the parent, which reads verdicts there
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    rule = load(rule_name)
    _send(replies, {"ready": True})
    os.dup2(nothing, 2)
    close_doors()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        for text, solution, entry in request["rows"]:
            signal.setitimer(signal.ITIMER_REAL, request["time_limit"])
            reply = _judged(rule, text, solution, entry)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _send(replies, reply)


def _judged(rule: Rule, text: str, solution: str, entry: Any) -> dict[str, Any]:
    try:
        verdict = rule(text, solution, entry)
    except Exception as error:
        # The text made the library fail: no answer that it can read. MemoryError and RecursionError are such
        verdict = Verdict()
        return vars(verdict) | {"error": f"{type(error).__name__}: {error}"[:200]}
    return vars(verdict)


def _send(replies: IO[str], reply: dict[str, Any]) -> None:
    replies.write(f"{json.dumps(reply)}\n")
    replies.flush()
