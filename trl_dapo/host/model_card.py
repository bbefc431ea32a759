"""
The model card of a run: TRL's, with what was on, what was measured and what was found.

TRL renders its card, and this adds to the text. Where another TRL words it otherwise, the parts are at the end. Not in
here: which file it may replace (`card_file`), and what each trainer tells (`card_settings` and `card_sections`).
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from peft import PeftModel

from .card_base import Base, base_of
from .card_file import README
from .card_findings import diagnosed
from .card_results import for_hub, newest_results, results_section
from .card_text import Section, as_code, as_name, table
from .swapped import swapped


TAG = "trl_dapo"
# Beside those that TRL names
PACKAGES = ("trl_dapo", "peft", "accelerate", "bitsandbytes", "vllm")
WITH_TRL = "It has been trained using [TRL](https://github.com/huggingface/trl)"
INTRODUCTION = "This model is a fine-tuned version of "
CITATION = """\
Cite trl_dapo as:

```bibtex
@software{{trl_dapo,
  title   = {{{{trl\\_dapo: DAPO for Hugging Face TRL}}}},
  license = {{Apache-2.0}},
  version = {{{version}}},
}}
```"""


@dataclass(frozen=True)
class Asked:
    """
    What `create_model_card` is called with.

    Args:
        model_name, dataset_name (`str`, *optional*):
            Names.
        tags (`str` or `list[str]`, *optional*):
            Tags of the user's.
    """

    model_name: str | None = None
    dataset_name: str | None = None
    tags: Any = None


def card_of(trainer: Any, render: Callable[..., None], asked: Asked) -> str:
    """
    Returns the card of a trainer's model as it is now.

    Args:
        trainer ([`~host.checkpoint_seams.CheckpointSeams`]):
            Whose model is saved.
        render (`Callable`):
            TRL's `create_model_card`, which writes into `args.output_dir`.
        asked ([`Asked`]):
            What the user gave.
    """
    name = as_name(asked.model_name or _name_of(trainer))
    data_set = None if asked.dataset_name is None else base_of(asked.dataset_name)
    with tempfile.TemporaryDirectory() as folder:
        with swapped(trainer.args, output_dir=folder):
            named = None if data_set is None else data_set.hub_id
            render(model_name=name, dataset_name=named, tags=asked.tags)
        card = ModelCard.load(Path(folder) / README)
    base = base_of(getattr(trainer.model.config, "_name_or_path", None))
    results = newest_results(
        trainer.callback_handler.callbacks, trainer.state.log_history, trainer.card_metrics, trainer.weights_step
    )
    _set_data(card, trainer, base, name)
    card.data.eval_results = for_hub(results, trainer.weights_step, trainer.card_task) or None
    sections = [
        Section("Settings", settings_table(trainer.card_settings())),
        *trainer.card_sections(),
        results_section(results, trainer.weights_step),
        diagnosed(trainer.callback_handler.callbacks),
    ]
    introduction = _introduction(trainer.model, base, data_set)
    return completed(str(card), name, introduction, [one for one in sections if one is not None])


def completed(card: str, name: str, introduction: str, sections: Sequence[Section]) -> str:
    """
    Returns a card of TRL's with its first sentence replaced, and with sections before its citations.

    Args:
        card (`str`):
            TRL's.
        name (`str`):
            Name of the model, for the example.
        introduction (`str`):
            The first sentence.
        sections (`Sequence[Section]`):
            Further sections.
    """
    lines = card.rstrip().splitlines()
    place = next((number for number, line in enumerate(lines) if line.startswith(INTRODUCTION)), None)
    if place is not None:
        lines[place] = introduction
        lines = [f"{WITH_TRL} and trl_dapo." if line == f"{WITH_TRL}." else line for line in lines]
    else:
        sections = [Section("Origin", introduction), *sections]
    # TRL names no folder where the model is not on the Hub
    lines = [line.replace('model="None"', f'model="path/to/{name}"') for line in lines]
    added = "\n".join(str(one) for one in sections).splitlines()
    versions = [number for number, line in enumerate(lines) if line.startswith("- Tokenizers:")]
    if versions:
        lines[versions[-1] + 1 : versions[-1] + 1] = package_lines()
    else:
        added += ["", "### Framework versions", "", *package_lines()]
    end = lines.index("## Citations") if "## Citations" in lines else len(lines)
    lines[end:end] = [*added, ""]
    return "\n".join(lines) + "\n\n" + CITATION.format(version=version("trl_dapo")) + "\n"


def package_lines() -> list[str]:
    """Returns the versions of the packages that TRL's card does not name."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"- {name}: {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def settings_table(settings: dict[str, Any]) -> str:
    """Returns settings as a table."""
    return table(("setting", "value"), [(as_code(name), as_code(value)) for name, value in settings.items()])


def fields(args: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns fields of a config by name; members of an enum as their values."""
    return {name: getattr(getattr(args, name), "value", getattr(args, name)) for name in names}


def basic_settings(trainer: Any) -> dict[str, Any]:
    """Returns what every trainer tells."""
    args = trainer.args
    named = ("learning_rate", "lr_scheduler_type", "optim", "per_device_train_batch_size")
    values = {"step": trainer.weights_step, **fields(args, named)}
    values["gradient_accumulation_steps"] = args.gradient_accumulation_steps
    values["processes"] = trainer.accelerator.num_processes
    precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    return {**values, "mixed precision": precision, "seed": args.seed}


def _name_of(trainer: Any) -> str:
    hub_id = trainer.args.hub_model_id
    return Path(trainer.args.output_dir).resolve().name if hub_id is None else hub_id.split("/")[-1]


def _set_data(card: ModelCard, trainer: Any, base: Base, name: str) -> None:
    data, tags = card.data, {TAG, *(card.data.get("tags") or ())}
    data["base_model"], data["model_name"], data["pipeline_tag"] = base.hub_id, name, trainer.card_task
    if isinstance(trainer.model, PeftModel):
        data["library_name"] = "peft"
        tags.add(_adapter(trainer.model).peft_type.value.lower())
        if base.hub_id is not None:
            tags.add(f"base_model:adapter:{base.hub_id}")
    # In an order that does not depend on the process
    data["tags"] = sorted(tags)


def _introduction(model: Any, base: Base, data_set: Base | None) -> str:
    text = f"This model is a fine-tuned version of {base}"
    if isinstance(model, PeftModel):
        config = _adapter(model)
        rank = f" of rank {config.r}" if getattr(config, "r", None) is not None else ""
        kind = {"LORA": "LoRA"}.get(config.peft_type.value, config.peft_type.value)
        text = f"This is a {kind} adapter{rank} for {base}"
        quantized = getattr(model.get_base_model().config, "quantization_config", None)
        if quantized is not None:
            values = quantized if isinstance(quantized, dict) else quantized.to_dict()
            bits = 4 if values.get("load_in_4bit") else 8 if values.get("load_in_8bit") else None
            text += f". In training, the base was quantized{f' to {bits} bits' if bits else ''}"
    if data_set is not None:
        of = f"[{data_set.name}](https://huggingface.co/datasets/{data_set.name})"
        text += f". It was trained on the data set {of if data_set.on_hub else as_code(data_set.name)}"
    return f"{text}."


def _adapter(model: PeftModel) -> Any:
    return model.peft_config[str(model.active_adapters[0])]
