"""
`trl-dapo merge`: an adapter merged into its base for serving, and what that loses.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from .errors import UsageError, one_line
from .grouped_help import GroupedHelp


def make_parser(prog: str = "trl-dapo merge") -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = GroupedHelp(
        prog=prog,
        allow_abbrev=False,
        description="Merge the adapter of a run into its base, and say how much of it the rounding keeps and how far "
        "the merged model is from the one that was trained. Packed 4-bit weights are never merged into.",
    )
    parser.error = _refuse
    parser.add_argument("run", metavar="RUN", help="Folder of a run, a checkpoint or an adapter.")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="Folder of the merged model.")
    parser.add_argument(
        "--base",
        choices=("dequantized", "original"),
        help="Of a base that was in 4 bits: its 4-bit weights written out, or the original ones (default: those that "
        "agree better with the trained model).",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="What the weights are stored as (default: bfloat16 where it keeps 90 %% of the moved entries, else "
        "float32).",
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="Text file with a prompt per line to compare on.")
    parser.add_argument(
        "--load_in_4bit",
        action="store_true",
        help="The base was in 4 bits (NF4, double quantization), and the folder does not say so.",
    )
    return parser


def main(argv: list[str]) -> int:
    """
    Merges and prints the report. Returns 0.

    Raises:
        [`UsageError`]: If there is nothing to merge, or no room for it; nothing is written then.
    """
    options = make_parser().parse_args(argv)
    prompts = _prompts(options.prompts)
    import torch
    from transformers import BitsAndBytesConfig
    from transformers.utils.logging import disable_progress_bar

    from trl_dapo.export.choice import choose
    from trl_dapo.export.folder import bytes_to_write, check_space, check_target, save_merged
    from trl_dapo.export.merging import tokenizer_of, without_weights
    from trl_dapo.export.report import lines, model_card
    from trl_dapo.export.source import find_source

    disable_progress_bar()
    assumed = None
    if options.load_in_4bit:
        assumed = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    try:
        check_target(options.to)
        source = find_source(options.run, assumed)
        smallest = options.dtype or "bfloat16"
        # Now, and not only after a long computation
        check_space(options.to, bytes_to_write(without_weights(source), getattr(torch, smallest)), smallest)
        tokenizer = tokenizer_of(source)
        choice = choose(source, tokenizer, options.base, options.dtype, **prompts)
        stored = choice.taken.dtype
        check_space(options.to, bytes_to_write(choice.merged.model, getattr(torch, stored)), stored)
        report = lines(source, choice)
        save_merged(choice.merged.model, tokenizer, model_card(source, choice), stored, options.to)
    except (ValueError, OSError) as error:
        raise UsageError(one_line(error)) from error
    print("\n".join(report))
    print(f"merged model in {options.to}")
    return 0


def _prompts(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--prompts {path}: {one_line(error)}") from error
    if path.suffix == ".jsonl":
        try:
            found = [json.loads(line)["prompt"] for line in text.splitlines() if line.strip()]
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"--prompts {path}: a line is no JSON object with `prompt`: {one_line(error)}") from error
        found = [_text(path, one) for one in found]
    else:
        found = [line for line in text.splitlines() if line.strip()]
    if not found:
        raise UsageError(f"--prompts {path}: there is no prompt in the file.")
    return {"prompts": found}


def _text(path: Path, prompt: Any) -> str:
    """A prompt that is text, or the last message of one that is a conversation."""
    try:
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    except (LookupError, TypeError):
        text = None
    if not isinstance(text, str):
        raise UsageError(
            f"--prompts {path}: `prompt` must be text, or messages of which the last has a text as `content`, got "
            f"{repr(prompt)[:80]}."
        )
    return text


def _refuse(message: str) -> NoReturn:
    raise UsageError(message)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
