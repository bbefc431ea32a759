"""
Checks text and messages of a row down to the leaves, before a chat template renders them.

A template renders whatever it is given: a message without a role, `None` as content, or the keys of another chat
format give a prompt without its text, and no error. Knows no dataset, tokenizer or trainer.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any


# With one of these, a message may have no content
_INSTEAD_OF_CONTENT = ("tool_calls", "thinking", "reasoning_content")


def flaw_of_text(field: str, value: Any) -> str | None:
    """
    Returns what is wrong with a column of text or messages, as a sentence that names the field, or `None`.

    Args:
        field (`str`):
            Name of the column.
        value (`Any`):
            What a row has there. An empty text is right.
    """
    if isinstance(value, str):
        return None
    if not isinstance(value, (list, tuple)):
        return f"{field!r} is {value!r}, and must be text or a list of messages. Fill it or remove the row."
    if len(value) == 0:
        return f"{field!r} is an empty list. Remove the row."
    for place, message in enumerate(value):
        if flaw := _flaw_of_message(f"'{field}[{place}]'", message):
            return flaw
    return None


def flaw_of_template_arguments(row: Mapping[str, Any]) -> str | None:
    """Returns what is wrong with the columns `tools` and `chat_template_kwargs` of a row, or `None`."""
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            return f"'tools' is not valid JSON ({error}). It must be a list of function schemas."
    if tools is not None and not isinstance(tools, list):
        return f"'tools' is {_short(tools)}, and must be a list of function schemas, or one as JSON text."
    for place, tool in enumerate(tools or []):
        if not isinstance(tool, Mapping) or not tool:
            return f"'tools[{place}]' is {_short(tool)}, and must be a function schema: a dictionary."
    arguments = row.get("chat_template_kwargs", {})
    if not isinstance(arguments, Mapping):
        return f"'chat_template_kwargs' is {_short(arguments)}, and must be a dictionary, which can be empty."
    return None


def tools_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments that a row gives the chat template, as TRL's trainers read them."""
    tools = row.get("tools")
    return {"tools": json.loads(tools) if isinstance(tools, str) else tools, **(row.get("chat_template_kwargs") or {})}


def null_keys(value: Any) -> set[str]:
    """
    Returns the keys that are `None` anywhere in messages or function schemas.

    Arrow gives all rows of a column the same keys, and fills those that a row does not have with nulls. Content that
    is `None` is not among them: where it may be, it is meant.
    """
    return set(_null_keys(value))


def _null_keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (key for key, item in value.items() if item is None and key != "content")
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for item in value:
        yield from _null_keys(item)


def _flaw_of_message(where: str, message: Any) -> str | None:
    if not isinstance(message, Mapping):
        return f"{where} is {_short(message)}, and must be a message with 'role' and 'content'."
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        if message.get("from") is not None and "value" in message:
            return (
                f"{where} has 'from' and 'value' in place of 'role' and 'content'. Rename them, and 'human' and 'gpt' "
                "to 'user' and 'assistant'."
            )
        what = f"has role {role!r}" if "role" in message else "has no 'role'"
        return f"{where} {what}; its keys are {sorted(map(str, message))}. A message has 'role' and 'content'."
    if isinstance(content, (list, tuple)):
        return next(
            filter(None, (_flaw_of_part(f"{where[:-1]}.content[{i}]'", p) for i, p in enumerate(content))), None
        )
    if content is None and any(message.get(name) for name in _INSTEAD_OF_CONTENT):
        return None
    if not isinstance(content, str):
        what = f"has content {_short(content)}" if "content" in message else "has no 'content'"
        return f"{where} {what}; its keys are {sorted(map(str, message))}. The content of a message is text."
    return None


def _flaw_of_part(where: str, part: Any) -> str | None:
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        return f"{where} is {_short(part)}, and must be a part with a 'type', such as 'text' or 'image'."
    if part["type"] == "text" and not isinstance(part.get("text"), str):
        return f"{where} is of type 'text', and its 'text' is {_short(part.get('text'))}."
    return None


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
