"""
What a trainer is constructed from, whichever command asks: model, tokenizer, datasets, adapter and quantization.
"""

from dataclasses import dataclass
from typing import Any, cast

from trl import get_peft_config, get_quantization_config

from .arguments import Arguments
from .data import Data
from .errors import UsageError, one_line


@dataclass(frozen=True)
class Source:
    """A model or its name, its tokenizer where it is not loaded by that name, and the datasets."""

    model: Any
    tokenizer: Any
    train: Any
    evaluation: Any


def named_source(arguments: Arguments, data: Data, **load_kwargs: Any) -> Source:
    """Returns the model that the arguments name beside `data`, and tells the config how to load the model."""
    training_args, model_args = arguments.training_args, arguments.model_args
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **load_kwargs,
        **cast(dict, training_args.model_init_kwargs or {}),
    }
    return Source(model_args.model_name_or_path, None, data.train, data.evaluation)


def trainer_arguments(arguments: Arguments, source: Source) -> dict[str, Any]:
    """Returns the keyword arguments that the constructors of all trainers take."""
    try:
        quantization, peft = get_quantization_config(arguments.model_args), get_peft_config(arguments.model_args)
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        raise UsageError(f"the adapter or the quantization cannot be made as asked: {one_line(error)}") from error
    return {
        "model": source.model,
        "args": arguments.training_args,
        "train_dataset": source.train,
        "eval_dataset": source.evaluation,
        "processing_class": source.tokenizer,
        "quantization_config": quantization,
        "peft_config": peft,
    }
