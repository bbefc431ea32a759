"""
Text of models, data sets and users as one plain line: nothing in it is acted on by a terminal or taken for markup.
"""

import re
from typing import Any


# Sequences that a terminal acts on, the text of a title included
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?")
MORE = "…"


def plain(text: str) -> str:
    """
    Returns text on one line, without what a terminal acts on: escapes, control characters, marks that turn its
    direction. Line breaks become `⏎`, other white space a space.
    """
    text = ESCAPES.sub("", text).replace("\r\n", "\n").strip()
    text = re.sub(r"[^\S\n]+", " ", re.sub(r"\s*\n\s*", "⏎", text))
    return "".join(character for character in text if character.isprintable())


def head(text: str, length: int) -> str:
    """Returns the beginning of a plain text, with at most so many characters."""
    return text if len(text) <= length else text[: max(length - 1, 0)] + MORE


def tail(text: str, length: int) -> str:
    """Returns the end of a plain text, with at most so many characters."""
    return text if len(text) <= length else MORE + text[len(text) - max(length - 1, 0) :]


def middle(text: str, length: int) -> str:
    """Returns the beginning and the end of a plain text, with at most so many characters: an answer is at its end."""
    if len(text) <= length:
        return text
    ends = max(length - 3, 0)
    return f"{text[: ends - ends // 2]} {MORE} {text[len(text) - ends // 2 :]}"[: max(length, 0)]


def text_of(entry: Any, longest: int = 2000) -> str:
    """
    Returns a prompt or a completion as plain text.

    Args:
        entry (`Any`):
            Text, or messages: of these, what they say.
        longest (`int`, *optional*, defaults to `2000`):
            Characters that are kept of its end for messages, and of either end for text.
    """
    if isinstance(entry, str):
        return plain(entry if len(entry) <= 2 * longest else entry[:longest] + MORE + entry[-longest:])
    if isinstance(entry, (list, tuple)):
        return plain(" ".join(_said(message)[-longest:] for message in entry[-4:]))
    return plain(str(entry)[:longest])


def _said(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, (list, tuple)):  # of a model that sees images
        return " ".join(str(part.get("text", "[image]")) if isinstance(part, dict) else str(part) for part in content)
    return "" if content is None else str(content)
