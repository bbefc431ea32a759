"""
An adapter in a folder for as long as an engine reads it.
"""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from copy import copy
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file


@contextmanager
def saved_adapter(model: PeftModel, name: str) -> Generator[str]:
    """
    Gives a folder with one adapter of a model, in PEFT's format; afterwards it is gone.

    The folder gets its name once all is written. Other adapters of the model are not in it.
    """
    weights = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    with tempfile.TemporaryDirectory(prefix="trl-dapo-adapter-") as parent:
        unfinished, folder = Path(parent, "unfinished"), Path(parent, "adapter")
        unfinished.mkdir()
        save_file(
            {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()},
            unfinished / "adapter_model.safetensors",
        )
        config = copy(model.peft_config[name])
        config.inference_mode = True
        config.save_pretrained(str(unfinished))
        os.replace(unfinished, folder)
        yield str(folder)
