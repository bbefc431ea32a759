"""
Prompts that ask for the answer in the format that a scorer reads. Pure functions on text and messages.

Text of a data set is never a format string: placeholders are looked for in the template alone, once.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .files import ProblemError


# What stands around every problem of DAPO-Math-17k
WRAPPER = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n",
    '\n\nRemember to put your answer on its own line after "Answer:".',
)

QUESTION, ANSWER_FORMAT = "{question}", "{answer_format}"
_PLACEHOLDER = re.compile(r"\{question\}|\{answer_format\}")

# How a text asks for an answer that can be read. A box that is part of a problem asks for nothing
_ASKS = {
    "\\boxed{}": re.compile(r"\\boxed\s*\{\s*\}|\b(?:in|within|inside|into|with|using)\s+(?:a\s+)?[`$\"']*\\boxed"),
    "Answer:": re.compile(r"\banswer:[\"'`*]*\s*\S", re.IGNORECASE),
    "####": re.compile(r"####"),
    "<answer>": re.compile(r"<answer>", re.IGNORECASE),
}


def asked_formats(text: str) -> set[str]:
    """Returns the formats in which a text asks for the answer, by the mark that they carry."""
    return {mark for mark, pattern in _ASKS.items() if pattern.search(text)}


def bare_problem(text: str) -> str | None:
    """Returns the problem inside DAPO-Math-17k's instruction, or `None` where a text has no such instruction."""
    before, after = (part.strip() for part in WRAPPER)
    text = text.strip()
    if not (text.startswith(before) and text.endswith(after) and len(text) > len(before) + len(after)):
        return None
    return text[len(before) : -len(after)].strip()


@dataclass(frozen=True)
class PromptStyle:
    """
    How a question becomes a prompt.

    Args:
        answer_format (`str`, *optional*):
            What asks for the answer in the format that is read. It is put behind a question that asks for none.
        template (`str`, *optional*):
            Text of the prompt instead, with `{question}` and, where wanted, `{answer_format}` in it.
    """

    answer_format: str | None = None
    template: str | None = None

    def __post_init__(self) -> None:
        if self.template is not None and QUESTION not in self.template:
            raise ProblemError(
                f"prompt_template={self.template!r} has no {QUESTION} in it, so no prompt would have its question. "
                f"Write {QUESTION} where the question goes."
            )

    def prompt_text(self, text: str) -> str:
        """Returns the prompt of a question."""
        inside = bare_problem(text)
        if self.template is not None:
            values = {QUESTION: text if inside is None else inside, ANSWER_FORMAT: self.answer_format or ""}
            return _PLACEHOLDER.sub(lambda found: values[found.group()], self.template)
        if self.answer_format is None:
            return text
        if inside is not None and not asked_formats(text) & asked_formats(self.answer_format):
            text = inside
        if self.answer_format in text or asked_formats(text):
            return text
        return f"{text.rstrip()}\n\n{self.answer_format}"

    def contradicted_by(self, text: str) -> bool:
        """Returns whether a finished prompt asks for another format than the one that is read."""
        if self.answer_format is None or self.answer_format in text:
            return False
        asked = asked_formats(text)
        return bool(asked) and not asked & asked_formats(self.answer_format)


def styled(prompt: Any, style: PromptStyle, conversational: bool) -> Any:
    """
    Returns a prompt in a style.

    Args:
        prompt (`str` or `list[dict]`):
            Text, or messages: of these the last turn of the user's is rewritten, and the others stay.
        style ([`PromptStyle`]):
            How.
        conversational (`bool`):
            Whether text becomes a message.
    """
    if isinstance(prompt, str):
        text = style.prompt_text(prompt)
        return [{"role": "user", "content": text}] if conversational else text
    messages = [dict(message) for message in prompt]
    for message in reversed(messages):
        if message.get("role") == "user":
            message["content"] = _styled_content(message["content"], style)
            break
    return messages


def user_text(prompt: Any) -> str:
    """Returns the text of the last turn of the user's, or a prompt that is text; "" where there is none."""
    if isinstance(prompt, str):
        return prompt
    for message in reversed(prompt if isinstance(prompt, list) else []):
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            return content if isinstance(content, str) else _joined(content)
    return ""


def _styled_content(content: Any, style: PromptStyle) -> Any:
    if isinstance(content, str):
        return style.prompt_text(content)
    parts = [dict(part) for part in content]
    for part in reversed(parts):
        if part.get("type") == "text":
            part["text"] = style.prompt_text(part["text"])
            break
    return parts


def _joined(content: Any) -> str:
    parts = content if isinstance(content, list) else []
    return "".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and part.get("text"))
