"""
How long prompts are: the longest of the data where data and tokenizer are on this machine, else an assumption.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from trl_dapo.verification.setup import sample_rows

from .arguments import Arguments
from .data import load_data
from .data_files import are_local
from .problem_data import named


ASSUMED = 256
# Longest prompts in tokens of Qwen's tokenizer, rounded up, chat template and answer format included
KNOWN = {"gsm8k": 320, "dapo-math-17k": 768}
ROWS = 2000


@dataclass(frozen=True)
class Length:
    """Tokens of the longest prompt, and where the number is from."""

    tokens: int
    source: str


def prompt_length(arguments: Arguments, asked: int | None) -> Length:
    """Returns the length of the longest prompt: as asked, else of the data, else of a known set, else assumed."""
    script_args, _, model_args, dataset_args = arguments
    if asked is not None:
        return Length(asked, "as given")
    if model_args.model_name_or_path is None:
        return Length(32, "of the built-in task")
    name = str(script_args.dataset_name)
    local = are_local(dataset_args) if dataset_args.datasets else Path(name).exists()
    if local and (found := _measured(arguments)) is not None:
        return found
    if named(script_args, dataset_args) and name in KNOWN:
        return Length(KNOWN[name], f"about the longest of {name}; --prompt_length states another")
    return Length(ASSUMED, "assumed, the data is not on this machine; state it with --prompt_length")


def _measured(arguments: Arguments) -> Length | None:
    script_args, training_args, model_args, dataset_args = arguments
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model_args.model_name_or_path, revision=model_args.model_revision, local_files_only=True
        )
    except (OSError, ValueError):
        return None
    rows = load_data(script_args, training_args, dataset_args).train
    sample = sample_rows(rows, ROWS)
    # Text alone: what a chat template adds is a few dozen tokens, and a template may need more than a prompt
    longest = max((len(_ids(tokenizer, row["prompt"])) for row in sample.rows), default=0)
    whole = isinstance(rows, Dataset) and len(rows) <= len(sample.rows)
    return Length(
        max(1, longest), f"the longest of {'all' if whole else ''} {len(sample.rows)} prompts".replace("  ", " ")
    )


def _ids(tokenizer: Any, prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]
