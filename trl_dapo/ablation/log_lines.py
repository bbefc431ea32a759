"""
What the log of a run says about its end. The text is untrusted: control characters are left out, the rest is plain.
"""

import re
import signal
from pathlib import Path

from .launchers.process import LOG, START


TAIL = 65_536
LONGEST = 300
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)")
# The last line of a traceback, with or without a prefix such as `[rank0]: `
ERROR = re.compile(r"^(\[rank\d+\]: ?)?([A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit|NotFound|Timeout))(:|$)")
# Of launchers, about the process whose own error is further up
ABOUT_OTHERS = ("CalledProcessError", "ChildFailedError", "SignalException")


def last_line(folder: Path) -> str | None:
    """
    Returns the line of a run's log that tells most about how its last start ended: the last error if there is one,
    else the last line that holds a letter. `None` if it printed nothing or there is no log.
    """
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    # A progress bar returns to the start of its line; what it shows last is the line
    lines = [shown(raw.rstrip("\r").rsplit("\r", 1)[-1]) for raw in text.split("\n")]
    starts = [number for number, line in enumerate(lines) if line.startswith(START)]
    said = [line for line in lines[starts[-1] + 1 if starts else 0 :] if re.search(r"[^\W\d_]", line)]
    errors = [line for line in said if (found := ERROR.match(line)) and not found[2].endswith(ABOUT_OTHERS)]
    chosen = (errors or said)[-1:]
    return chosen[0][:LONGEST] if chosen else None


def shown(text: str) -> str:
    """Returns text without what a terminal would act on."""
    plain = ESCAPES.sub("", text)
    return "".join(character for character in plain if character.isprintable()).strip()


def exit_words(code: int) -> str:
    """Returns an exit code in words, with the signal's name where it means one."""
    try:
        name = signal.Signals(code - 128).name if code > 128 else None
    except ValueError:
        name = None
    if name is None:
        return f"exit code {code}"
    hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
