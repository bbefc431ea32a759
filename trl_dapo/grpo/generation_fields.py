"""
What `generation_kwargs`, which TRL puts over its own settings of generation, asks for that cannot be meant: what
contradicts a field of the config, and what has no effect.

TRL computes log-probabilities, truncation and length penalties from the fields, whatever was generated with.
"""

from typing import Any

from transformers import GenerationConfig


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
    "stop_strings": (None, "TRL gives `generate` no tokenizer, which these need, and the first rollout fails"),
    "stop": (None, "a completion that ends so has no end token and counts as truncated"),
}

# How many completions or beams there are
COUNTS = ("num_beams", "num_return_sequences", "n")

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
    # vLLM has settings of its own, and refuses those that it does not know
    known: Any = args.generation_kwargs if args.use_vllm else vars(GenerationConfig())
    unknown = [name for name in args.generation_kwargs or {} if name not in {*known, *SAME, *ALONE}]
    return lines + [
        f"generation_kwargs[{name!r}] has no effect: transformers' GenerationConfig has no such field. Leave it out."
        for name in unknown
    ]


def check_counts(generation_kwargs: Any) -> None:
    """Raises `ValueError` for a number of beams or completions that is not a whole number of at least 1."""
    for name in COUNTS:
        value = (generation_kwargs or {}).get(name)
        if value is not None and not (type(value) is int and value >= 1):
            raise ValueError(f"generation_kwargs[{name!r}] must be an integer of at least 1, got {value!r}.")
