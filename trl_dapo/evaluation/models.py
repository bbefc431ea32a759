"""
The policy that is evaluated: adapter folders, merged models, names on the Hub, and what tells two of them apart.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from peft import TaskType
from transformers import AutoConfig, AutoTokenizer, BitsAndBytesConfig

from ..host.adapter_folders import adapter_config, check_base, is_adapter, load_adapter, load_base
from ..host.checkpoints import numbered
from ..host.new_weights import refuse_new
from ..qlora.one_kernel import keep_one_kernel
from ..qlora.recorded import FILE as RECORD
from ..qlora.recorded import recorded_quantization


# Of each file, so that two models are told apart without reading gigabytes: training moves every part of the weights
SAMPLE_BYTES, SAMPLES = 1 << 16, 8
DIGEST = 16


@dataclass(frozen=True)
class PolicySource:
    """
    Where a policy is loaded from.

    Args:
        name (`str`):
            Folder, or name on the Hub.
        base (`str`, *optional*):
            Base of the adapter, `None` for a whole model.
        revision (`str`, *optional*, defaults to `"main"`):
            Revision on the Hub.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code of the model's own may run.
    """

    name: str
    base: str | None = None
    revision: str = "main"
    trust_remote_code: bool = False

    @property
    def where(self) -> dict[str, Any]:
        """What `from_pretrained` is given beside the name."""
        return {} if Path(self.name).is_dir() else {"revision": self.revision}

    @property
    def whole(self) -> str:
        """The model that has the weights of its own: the base of an adapter."""
        return self.base or self.name

    def fingerprint(self) -> str:
        """Returns what changes with the weights in a folder; of a model on the Hub, its name and revision."""
        parts = [f"{self.name}@{self.revision}"] if not Path(self.name).is_dir() else [_of_folder(Path(self.name))]
        if self.base is not None:
            parts.append(_of_folder(Path(self.base)) if Path(self.base).is_dir() else self.base)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:DIGEST]


def find_policy(name: str, revision: str = "main", trust_remote_code: bool = False) -> PolicySource:
    """
    Returns where a policy is loaded from. Nothing is loaded.

    Raises:
        `ValueError`: If a folder holds none, or an adapter is for another task or has no base.
    """
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        checkpoints = numbered(folder)
        hint = f"it has checkpoints; give one of them, such as {checkpoints[0]}" if checkpoints else "give a saved one"
        raise ValueError(f"model_name_or_path={name}: there is no model in the folder; {hint}.")
    where = {} if folder.is_dir() else {"revision": revision}
    if not is_adapter(name, **where):
        return PolicySource(name, None, revision, trust_remote_code)
    config = adapter_config(name, **where)
    if config.task_type not in (TaskType.CAUSAL_LM, None):
        raise ValueError(
            f"model_name_or_path={name} is an adapter with task_type={config.task_type!r}, which generates no text. "
            "Give an adapter of a policy."
        )
    fix = "Put the base there, or write its path into adapter_config.json."
    base = check_base(config.base_model_name_or_path, f"model_name_or_path={name}: the adapter", fix)
    return PolicySource(name, base, revision, trust_remote_code)


def load_tokenizer(source: PolicySource) -> Any:
    """
    Returns the tokenizer of a policy, or of its base where an adapter has none.

    Raises:
        `ValueError`: If there is none.
    """
    code = {"trust_remote_code": source.trust_remote_code}
    try:
        return AutoTokenizer.from_pretrained(source.name, **code, **source.where)
    except (OSError, ValueError) as error:
        if source.base is None:
            raise ValueError(f"model_name_or_path={source.name} has no tokenizer that can be loaded.") from error
        return AutoTokenizer.from_pretrained(source.base, **code)


def quantization_of(source: PolicySource, load_in_4bit: bool | None = None) -> BitsAndBytesConfig | None:
    """
    Returns how the weights of a policy are quantized when it is loaded, `None` for not at all.

    An adapter belongs to the base that it was trained on, so a base that was quantized then is quantized again.

    Args:
        source ([`PolicySource`]):
            Where the policy is.
        load_in_4bit (`bool`, *optional*):
            `True` for NF4 where nothing says how the base was quantized, `False` for the weights as they are saved.

    Raises:
        `ValueError`: If the file beside an adapter, which says how its base was quantized, cannot be read.
    """
    if load_in_4bit is False:
        return None
    recorded = recorded_quantization(_folder_of_record(source)) if source.base is not None else None
    if recorded is not None or not load_in_4bit:
        return recorded
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)


def _folder_of_record(source: PolicySource) -> Path:
    """Returns the folder of an adapter; of one on the Hub, that of the record, if it has one."""
    folder = Path(source.name)
    if folder.is_dir():
        return folder
    try:
        return Path(hf_hub_download(source.name, RECORD, revision=source.revision)).parent
    except EntryNotFoundError:
        return folder


def load_policy(
    source: PolicySource,
    tokenizer: Any,
    dtype: str = "auto",
    device: str = "auto",
    load_in_4bit: bool | None = None,
) -> Any:
    """
    Returns the model in eval mode.

    Args:
        source ([`PolicySource`]):
            Where it is.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Precision of the weights: `"auto"` as they were saved, `"float32"`, `"bfloat16"` or `"float16"`.
        device (`str`, *optional*, defaults to `"auto"`):
            A device of torch; `"auto"` is the GPU if there is one.
        load_in_4bit (`bool`, *optional*):
            Whether the weights are quantized; without, as the base of an adapter was in training
            ([`quantization_of`]).

    Raises:
        `ValueError`: If adapter and base do not fit, or a parameter would stay new and random.
    """
    place = device_of(device)
    arguments: dict[str, Any] = {"dtype": dtype, "device_map": None, "trust_remote_code": source.trust_remote_code}
    quantization = quantization_of(source, load_in_4bit)
    if quantization is not None:
        arguments |= {"quantization_config": quantization, "device_map": {"": place}}
    if source.base is None:
        arguments |= source.where
    loaded = load_base(source.whole, **arguments)
    if source.base is None:
        refuse_new(loaded)
        model = loaded.model
    else:
        model = load_adapter(loaded, source.name, tokens=len(tokenizer))
    if quantization is None:
        return model.to(place).eval()
    # As trainers do, so that an evaluation finds what one during training finds
    keep_one_kernel(model)
    return model.eval()


def device_of(name: str) -> torch.device:
    """
    Returns a device by its name, `"auto"` being a GPU if there is one.

    Raises:
        `ValueError`: If torch does not know it, or this machine has none.
    """
    if name == "auto":
        # Of several processes, each has its own
        index = int(os.environ.get("LOCAL_RANK", "0"))
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else torch.device(accelerator.type, index)
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except Exception as error:
        raise ValueError(f"device={name}: this machine has no such device. Give auto, cpu or cuda.") from error
    return device


def context_length(source: PolicySource) -> int | None:
    """Returns how many tokens a model can hold, `None` where its config does not say."""
    try:
        config = AutoConfig.from_pretrained(
            source.whole, trust_remote_code=source.trust_remote_code, **({} if source.base else source.where)
        )
    except (OSError, ValueError):
        return None
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _of_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".bin", ".json", ".jinja", ".model", ".gguf"):
            digest.update(path.name.encode())
            _add_file(digest, path)
    return digest.hexdigest()


def _add_file(digest: Any, path: Path) -> None:
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as file:
        for part in range(SAMPLES):
            file.seek(part * max(0, size - SAMPLE_BYTES) // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
