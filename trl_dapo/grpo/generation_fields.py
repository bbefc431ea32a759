"""
Where `generation_kwargs`, which TRL puts over its own settings of generation, contradicts a field of the config.

TRL computes log-probabilities, truncation and length penalties from the fields, whatever was generated with.
"""

from typing import Any


# The field that says the same, by argument of `generate` or of vLLM's sampling
SAME = {
    "max_new_tokens": "max_completion_length",
    "max_tokens": "max_completion_length",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "cache_implementation": "cache_implementation",
}

# What a field cannot say, and what comes of it, by argument and the value that asks for nothing
ALONE = {
    "do_sample": (True, "completions of a group are all the same, and no group is informative"),
    "num_return_sequences": (1, "TRL expects one completion per row"),
    "n": (1, "TRL expects one completion per row"),
    "num_beams": (1, "completions are not samples of the policy, so that importance ratios are wrong"),
    "stop_strings": (None, "a completion that ends so has no end token and counts as truncated"),
    "stop": (None, "a completion that ends so has no end token and counts as truncated"),
}

CONSEQUENCES = {
    "max_completion_length": "the length penalty and truncation are measured from the field",
    "temperature": "log-probabilities are computed at the field's temperature",
}


def contradictions(args: Any) -> list[str]:
    """Returns one line for each entry of `generation_kwargs` that contradicts a field, or that TRL cannot follow."""
    lines = []
    for name, value in (args.generation_kwargs or {}).items():
        field = SAME.get(name)
        if field is not None and value != getattr(args, field):
            because = CONSEQUENCES.get(field, "the field has no effect")
            lines.append(
                f"generation_kwargs[{name!r}]={value!r} contradicts {field}={getattr(args, field)!r}: {because}. Set "
                f"`{field}` instead."
            )
        if name in ALONE and value != ALONE[name][0]:
            lines.append(f"generation_kwargs[{name!r}]={value!r}: {ALONE[name][1]}. Leave it out.")
    return lines
