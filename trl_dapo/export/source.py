"""
What a run has left to merge: an adapter, the base that it stands on, and how that was quantized. Reads no weights.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, TaskType
from transformers import AutoConfig, BitsAndBytesConfig

from ..host.adapter_folders import adapter_config, check_base, is_adapter
from ..host.checkpoints import numbered
from ..qlora.recorded import recorded_quantization


# Modules whose weights a model may have twice
TIED = ("embed_tokens", "lm_head", "wte", "embed_out", "word_embeddings")
BEFORE_TIED = ("", "model.", "model.decoder.", "model.language_model.", "transformer.", "gpt_neox.")


@dataclass(frozen=True)
class MergeSource:
    """
    An adapter and its base.

    Args:
        folder (`Path`):
            Of the adapter.
        base (`str`):
            Folder or name on the Hub.
        adapter ([`~peft.LoraConfig`]):
            As it was saved.
        quantization ([`~transformers.BitsAndBytesConfig`], *optional*):
            How the base was quantized in training.
        scores (`bool`):
            Whether it is a reward model.
    """

    folder: Path
    base: str
    adapter: LoraConfig
    quantization: BitsAndBytesConfig | None
    scores: bool

    @property
    def base_called(self) -> str:
        """The base as others can know it: its name on the Hub, or the last part of a path."""
        name = Path(self.base).name if Path(self.base).exists() else self.base
        # It stands in a model card, and a folder's name can hold any text
        return re.sub(r"[^\w./+-]+", "_", name)


def find_source(run: str, assumed: BitsAndBytesConfig | None = None) -> MergeSource:
    """
    Returns the adapter of a run, of a checkpoint, or of any folder that PEFT has saved one to.

    Args:
        run (`str`):
            The folder. Where it has checkpoints and no model yet, its last one is taken.
        assumed ([`~transformers.BitsAndBytesConfig`], *optional*):
            How the base was quantized, where the folder does not say it.

    Raises:
        `ValueError`: Where there is nothing to merge, its base is missing, or PEFT cannot merge it.
    """
    folder = _adapter_folder(Path(run))
    config = adapter_config(str(folder))
    if not isinstance(config, LoraConfig):
        raise ValueError(f"The adapter {str(folder)!r} is of type {config.peft_type!s}; only LoRA is merged here.")
    if config.task_type not in (TaskType.CAUSAL_LM, TaskType.SEQ_CLS, None):
        raise ValueError(
            f"The adapter {str(folder)!r} has task_type={config.task_type!r}; adapters of causal language models and "
            "of reward models (SEQ_CLS) are merged here."
        )
    base = check_base(
        config.base_model_name_or_path,
        f"The adapter {str(folder)!r}",
        "Put it there, or write its path into the config.",
    )
    described: Any = AutoConfig.from_pretrained(base)
    if getattr(described, "quantization_config", None) is not None:
        raise ValueError(
            f"The base {base!r} is saved with quantized weights, and nothing can be merged into them. Write the name "
            f"of the model that it was made from into {folder / 'adapter_config.json'} (base_model_name_or_path)."
        )
    _check_not_tied(config, described)
    quantization = recorded_quantization(folder) or assumed
    return MergeSource(folder, base, config, quantization, config.task_type == TaskType.SEQ_CLS)


def _adapter_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise ValueError(f"RUN={folder}: there is no such folder. Give that of a run, a checkpoint or an adapter.")
    if is_adapter(str(folder)):
        return folder
    if (folder / "config.json").is_file():
        raise ValueError(
            f"RUN={folder} holds a whole model and no adapter: there is nothing to merge, it can be served as it is."
        )
    checkpoints = numbered(folder)
    if not checkpoints:
        raise ValueError(f"RUN={folder} holds no adapter and no checkpoint. Give the folder of a run or an adapter.")
    last = checkpoints[0]
    if not is_adapter(str(last)):
        raise ValueError(
            f"RUN={folder}: its last checkpoint {last.name} holds a whole model: there is nothing to merge."
        )
    return last


def _check_not_tied(config: LoraConfig, described: Any) -> None:
    """Raises where weights that the model uses twice are adapted: one of the two uses would be changed by merging."""
    if not getattr(described.get_text_config(), "tie_word_embeddings", False):
        return
    for field in ("target_modules", "modules_to_save", "trainable_token_indices"):
        names = getattr(config, field, None)
        found = [name for name in TIED if _has(names, name)]
        if found:
            raise ValueError(
                f"`{field}` of the adapter has {found[0]!r}, and this model uses the same weights for its embeddings "
                "and its head: merged, the adapter would change both. Serve it unmerged."
            )


def _has(names: Any, name: str) -> bool:
    """Whether a module is among names, or its path matches a pattern, as PEFT reads them."""
    if isinstance(names, str):
        return any(re.fullmatch(names, f"{path}{name}") is not None for path in BEFORE_TIED)
    return isinstance(names, (list, set, tuple, dict)) and name in names
