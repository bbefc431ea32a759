"""
The code blocks of README and docs, the mark of those that are not run, and the commands in them.

A block that no test can run has a comment on the line above it, which readers do not see:

    <!-- not run: needs two GPUs -->
"""

import ast
import re
import shlex
import symtable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


ROOT = Path(__file__).parents[1]
# Generated pages have no blocks of their own, and neither do lists of the repository
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(
    r"(?:^ *<!-- not run: (?P<why>.*?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```",
    re.S | re.M,
)
# What a comment behind a statement says of it
RAISES = re.compile(r"#\s*(\w*Error)\b")


@dataclass(frozen=True)
class Block:
    """
    A code block of a page.

    Args:
        page (`str`):
            Path of the page in the repository.
        line (`int`):
            Its first line.
        language (`str`):
            What follows the fence; empty if nothing does.
        text (`str`):
            Its lines.
        why (`str` or `None`):
            Why it is not run, if it is marked.
    """

    page: str
    line: int
    language: str
    text: str
    why: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """Returns the blocks of a page, in their order."""
    return blocks_of(path.read_text(), path.relative_to(ROOT).as_posix())


def blocks_of(text: str, page: str) -> list[Block]:
    """Returns the blocks of the text of a page."""
    found = []
    for fence in FENCE.finditer(text):
        lines = [line.removeprefix(fence["indent"]) for line in fence["text"].splitlines()]
        number = text.count("\n", 0, fence.start("language")) + 1
        found.append(Block(page, number, fence["language"].strip(), "\n".join(lines) + "\n", fence["why"]))
    return found


def commands(text: str) -> list[list[str]]:
    """Returns the words of each command of a block; lines that end in a backslash go on."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@dataclass(frozen=True)
class Statement:
    """
    One statement of a Python block.

    Args:
        code (`str`):
            Its source.
        line (`int`):
            Its line in the block, from 1.
        error (`str` or `None`):
            Name of the error that the comment behind it promises.
        value (`str` or `None`):
            The literal that the comment behind an expression promises.
    """

    code: str
    line: int
    error: str | None
    value: str | None


def statements(text: str) -> Iterator[Statement]:
    """Yields the statements of a block, with what the comments behind them promise."""
    lines = text.splitlines()
    for node in ast.parse(text).body:
        code = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        comment = lines[node.end_lineno - 1][node.end_col_offset :].strip()
        error = RAISES.match(comment)
        value = comment.removeprefix("#").strip() if isinstance(node, ast.Expr) and comment else None
        yield Statement(code, node.lineno, error[1] if error else None, value if _is_literal(value) else None)


def _is_literal(text: str | None) -> bool:
    try:
        ast.literal_eval(text or "")
    except (ValueError, SyntaxError):
        return False
    return True


def names_needed(text: str) -> list[str]:
    """Returns the names that a block reads before it sets them, builtins included, in the order of their use."""
    known: set[str] = set()
    needed: dict[str, None] = {}
    for statement in statements(text):
        table = symtable.symtable(statement.code, "page", "exec")
        set_here = {one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()}
        needed |= dict.fromkeys(name for name in _read(table) if name not in known | set_here)
        known |= set_here
    return list(needed)


def _read(table: symtable.SymbolTable) -> list[str]:
    is_module = table.get_type() == "module"
    own = [one.get_name() for one in table.get_symbols() if one.is_referenced() and (is_module or one.is_global())]
    return own + [name for child in table.get_children() for name in _read(child)]
