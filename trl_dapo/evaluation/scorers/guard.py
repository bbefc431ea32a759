"""
Keeps what libraries do with an answer from reaching anything outside the worker.

sympy's parser and some tasks of reasoning-gym call `eval` on the model's text. Here, Python's audit hooks refuse code
that names what a formula has no use for, and, whatever the code, every act that leaves a trace: files written,
processes started, connections. A hook cannot be taken away again. It is no prison for code that is free to run; none
is.
"""

import ast
import builtins
import os
import resource
import sys
from types import CodeType
from typing import Any


# Of the built-in functions, those that formulas and boards are written with
HARMLESS = frozenset({"abs", "bool", "complex", "divmod", "float", "int", "len", "max", "min", "pow", "round", "sum"})
FORBIDDEN_NAMES = frozenset(vars(builtins)) - HARMLESS - {"True", "False", "None", "list", "tuple", "dict", "set"}

ACTS = (
    *("os.", "shutil.", "socket.", "subprocess.", "ctypes.", "signal.", "pty.", "ftplib.", "smtplib.", "http."),
    *("urllib.", "tempfile.", "sqlite3.", "webbrowser.", "code.", "cpython.", "syslog.", "fcntl.", "resource."),
)
# Reading folders is what an import does
READING = frozenset({"os.listdir", "os.scandir", "os.walk", "os.fwalk"})
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# A text of 10,000 characters can stand for a matrix of any size
MEMORY = 4 * 2**30


class Refused(Exception):
    """The answer would do more than be read."""


def close_doors() -> None:
    """Refuses from now on, in this process, what no answer needs. To be called after the libraries are loaded."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory()
    sys.addaudithook(_audit)


def read_without_eval(modules: list[str]) -> None:
    """Gives the named modules, which call `eval` on answers, a reader of literals in its place."""
    for name in modules:
        vars(sys.modules[name])["eval"] = ast.literal_eval


def _limit_memory() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if most == resource.RLIM_INFINITY else min(MEMORY, most)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    except (ValueError, OSError):
        # macOS has no such limit
        return


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "exec":
        code = arguments[0]
        if isinstance(code, CodeType) and code.co_filename.startswith("<") and "frozen" not in code.co_filename:
            _check_names(code)
    elif event == "open":
        if isinstance(arguments[2], int) and arguments[2] & WRITING:
            raise Refused(event)
    elif event.startswith(ACTS) and event not in READING:
        raise Refused(event)


def _check_names(code: CodeType) -> None:
    """Raises [`Refused`] if code that was made from a text names an attribute or function that no formula has."""
    for name in (*code.co_names, *code.co_freevars):
        if name.startswith("_") or name in FORBIDDEN_NAMES:
            raise Refused(name)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _check_names(constant)
