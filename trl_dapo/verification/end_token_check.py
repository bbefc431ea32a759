"""
The tokens that end a completion: do tokenizer, model and chat template name the same ones?

TRL stops at those of the tokenizer and of the generation config. A policy that was taught another end, that of its
chat template, then never stops, and every completion counts as truncated.
"""

from collections.abc import Iterable
from typing import Any

from .findings import Finding, skipped
from .setup import EndTokens, Setup


NAME = "end_tokens"


def end_tokens(tokenizer: Any, model: Any = None, generation: Iterable[int] | None = None) -> EndTokens:
    """
    Returns the end tokens of a tokenizer and, where it is given, of a model.

    Args:
        tokenizer (`Any`):
            The tokenizer, or a processor that has one.
        model (`Any`, *optional*):
            The model, with `config` and `generation_config`.
        generation (`Iterable[int]`, *optional*):
            Those at which generation stops, where it is known.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    said = {"tokenizer": _ids(tokenizer.eos_token_id)}
    for name in ("config", "generation_config"):
        ids = _ids(getattr(getattr(model, name, None), "eos_token_id", None))
        if ids:
            said[name] = ids
    stops = (
        said["tokenizer"] | said.get("generation_config", frozenset()) if generation is None else frozenset(generation)
    )
    return EndTokens(said, stops, tokenizer.pad_token_id)


def template_end(tokenizer: Any) -> int | None:
    """Returns the special token that the chat template writes behind an assistant's turn, or `None`."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    if not getattr(tokenizer, "chat_template", None):
        return None
    marker = "xyz"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": marker}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:
        return None  # a template of another kind of message
    behind = text.rpartition(marker)[2]
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((one for one in ids if one in special), None)


def check_end_tokens(setup: Setup) -> Finding:
    """Returns whether generation stops where the model was taught to."""
    if setup.tokenizer is None or setup.ends is None:
        return skipped(NAME, setup.no_tokenizer or "there is no tokenizer")
    ends, name = setup.ends, _namer(setup.tokenizer)
    numbers = {"ends": float(len(ends.generation))}
    details = {"said": {who: sorted(ids) for who, ids in ends.said.items()}, "generation": sorted(ends.generation)}
    if not ends.generation:
        return Finding(NAME, "fail", "no token ends a completion", numbers, "processing_class: set eos_token", details)
    of_template = template_end(setup.tokenizer)
    if of_template is not None and of_template not in ends.generation:
        message = (
            f"the chat template ends a turn with {name(of_template)}, and generation stops at {_names(name, ends)}"
        )
        setting = f"processing_class: eos_token={name(of_template)}"
        return Finding(NAME, "fail", message, numbers, setting, details)
    unheard = {who: ids - ends.generation for who, ids in ends.said.items() if ids - ends.generation}
    if unheard:
        who, ids = next(iter(unheard.items()))
        message = f"the {who} names {name(min(ids))} as an end, and generation stops at {_names(name, ends)}"
        setting = f"generation_config: eos_token_id={sorted(ends.generation | ids)}"
        return Finding(NAME, "warn", message, numbers, setting, details)
    message = f"generation stops at {_names(name, ends)}, all that are named"
    # Rows are masked behind their first end, so that an end which pads too is told from padding
    message += f"; {name(ends.pad)} pads too, which does no harm" if ends.pad in ends.said["tokenizer"] else ""
    return Finding(NAME, "pass", message, numbers, details=details)


def _ids(value: Any) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, list | tuple | set) else frozenset([value])


def _namer(tokenizer: Any) -> Any:
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    return lambda one: repr(tokenizer.convert_ids_to_tokens(int(one)))


def _names(name: Any, ends: EndTokens) -> str:
    return ", ".join(name(one) for one in sorted(ends.generation))
