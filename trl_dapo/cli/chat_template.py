"""
Whether the model's tokenizer can render prompts that are messages.
"""

from collections.abc import Mapping
from typing import Any

from transformers import AutoProcessor

from .errors import UsageError


def check_chat_template(rows: Any, model_args: Any, trusted: bool) -> None:
    """Raises [`UsageError`] if prompts are messages and the tokenizer has no chat template for them."""
    first: Mapping[str, Any] = next(iter(rows), {})
    if isinstance(first.get("prompt"), str) or "prompt" not in first:
        return
    name = model_args.model_name_or_path
    try:
        tokenizer = AutoProcessor.from_pretrained(name, revision=model_args.model_revision, trust_remote_code=trusted)
    except Exception:
        # The trainer loads it in its own way, and says what is wrong
        return
    if getattr(tokenizer, "chat_template", None) is None:
        raise UsageError(
            f"model_name_or_path={name}: its tokenizer has no chat template, and the prompts are messages. Give a "
            "model that has one, or save one into the folder as chat_template.jinja."
        )
