"""
How a base was quantized, kept beside an adapter: PEFT saves the name of the base, and not that it was in 4 bits.
"""

import json
from pathlib import Path
from typing import Any

from transformers import BitsAndBytesConfig


FILE = "base_quantization.json"


def record_quantization(folder: Path, base: Any) -> None:
    """Writes how a base is quantized into the folder of an adapter on it; nothing where it is not."""
    config = getattr(base.config, "quantization_config", None)
    if config is None:
        return
    values = config if isinstance(config, dict) else config.to_dict()
    (folder / FILE).write_text(json.dumps(values, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")


def recorded_quantization(folder: Path) -> BitsAndBytesConfig | None:
    """
    Returns how the base of an adapter was quantized, `None` where nothing says that it was.

    Raises:
        `ValueError`: If the file cannot be read, or says something that bitsandbytes does not do.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        config = BitsAndBytesConfig.from_dict(values)
        if not (config.load_in_4bit or config.load_in_8bit):
            raise ValueError("neither load_in_4bit nor load_in_8bit is true")
        if config.bnb_4bit_quant_type not in ("nf4", "fp4"):
            raise ValueError(f"bnb_4bit_quant_type={config.bnb_4bit_quant_type!r} is neither 'nf4' nor 'fp4'")
        return config
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not say how the base was quantized: {error}") from error
