"""
Prompts as the model will read them: through a chat template where it has one, and within its context.
"""

from collections.abc import Mapping
from typing import Any

from .findings import Finding, skipped
from .setup import Setup, is_conversation, spread


TEMPLATE, CONTEXT = "chat_template", "context"
ROWS_TOKENIZED = 256


def check_prompts(setup: Setup) -> list[Finding]:
    """Returns whether prompts go through the chat template, and whether they fit into the context."""
    why = setup.no_tokenizer if setup.tokenizer is None else None
    if why is not None or not setup.sample.rows:
        return [skipped(name, why or setup.sample.missing) for name in (TEMPLATE, CONTEXT)]
    rows = [row for row in spread(setup.sample.rows, ROWS_TOKENIZED) if row.get("prompt")]
    if not rows:
        return [skipped(name, "the rows have no prompt") for name in (TEMPLATE, CONTEXT)]
    template = _template(setup, rows)
    return [template, skipped(CONTEXT, f"see {TEMPLATE}") if template.status == "fail" else _context(setup, rows)]


def prompt_length(tokenizer: Any, row: Mapping[str, Any]) -> int:
    """Returns the tokens of a prompt, as TRL gives it to the model."""
    prompt = row["prompt"]
    if not is_conversation(prompt):
        return len(tokenizer(text=prompt)["input_ids"])
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)
    return len(ids["input_ids"])


def _template(setup: Setup, rows: list[dict[str, Any]]) -> Finding:
    tokenizer: Any = getattr(setup.tokenizer, "tokenizer", setup.tokenizer)
    has_template = bool(getattr(setup.tokenizer, "chat_template", None) or getattr(tokenizer, "chat_template", None))
    plain = sum(not is_conversation(row["prompt"]) for row in rows)
    numbers = {"plain": plain / len(rows)}
    if not has_template and plain < len(rows):
        message = f"{len(rows) - plain} of {len(rows)} prompts are messages, and the tokenizer has no chat template"
        return Finding(TEMPLATE, "fail", message, numbers, "model_name_or_path: a model with a chat template")
    if has_template and plain:
        return Finding(
            TEMPLATE,
            "warn",
            f"{plain} of {len(rows)} prompts are plain text, and the tokenizer has a chat template, so the model sees "
            "no user's turn and may not end its own",
            numbers,
            'prompt: [{"role": "user", "content": ...}]',
        )
    how = "messages, through the chat template" if has_template else "plain text, and there is no chat template"
    return Finding(TEMPLATE, "pass", f"prompts are {how}", numbers)


def _context(setup: Setup, rows: list[dict[str, Any]]) -> Finding:
    if hasattr(setup.tokenizer, "tokenizer"):
        return skipped(CONTEXT, "prompts with images are not measured")
    if setup.context is None:
        return skipped(CONTEXT, "the model's config is not on this machine, or names no number of positions")
    lengths = [prompt_length(setup.tokenizer, row) for row in rows]
    longest = max(lengths)
    written: int = (getattr(setup.args, "max_completion_length", None) or 0) if setup.generates else 0
    room = setup.context - written
    over, with_completion = sum(one > setup.context for one in lengths), sum(one > room for one in lengths)
    numbers = {"longest": float(longest), "context": float(setup.context), "over": over / len(rows)}
    numbers["over_with_completion"] = with_completion / len(rows)
    if over:
        message = (
            f"{over} of {len(rows)} prompts are longer than the context of {setup.context} tokens, up to {longest}"
        )
        return Finding(CONTEXT, "fail", message, numbers, "dataset_name: one without these prompts")
    if with_completion:
        status = "fail" if room < min(lengths) else "warn"
        message = (
            f"prompt and completion of {with_completion} of {len(rows)} rows can be longer than the context of "
            f"{setup.context} tokens: prompts have up to {longest}, completions up to {written}"
        )
        setting = f"max_completion_length: {setup.context - longest}"
        return Finding(CONTEXT, status, message, numbers, setting)
    message = f"prompts have up to {longest} tokens, completions up to {written}, and the context is {setup.context}"
    return Finding(CONTEXT, "pass", message, numbers)
