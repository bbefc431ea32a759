"""
A reference model that follows the policy (`sync_ref_model=True`), in a checkpoint.

The host saves the policy alone, so that a resumed run would measure the KL to the initial reference again.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model

from .checkpoints import REFERENCE_FOLDER
from .resume import steps_behind


_FILE = "model.safetensors"


def save_reference(trainer: Any, folder: Path) -> None:
    """Writes the reference into a checkpoint folder, under the names of its modules, where it moves."""
    if trainer.args.should_save and _moves(trainer) and not _is_sharded(trainer):
        path = folder / REFERENCE_FOLDER / _FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        save_model(trainer.accelerator.unwrap_model(trainer.ref_model), str(path))


def load_reference(trainer: Any, folder: Path) -> None:
    """
    Gives the reference of a trainer the weights that a checkpoint holds of it.

    Raises:
        `ValueError`: Where it has moved by then, and the checkpoint does not hold it.
    """
    path = folder / REFERENCE_FOLDER / _FILE
    if trainer.ref_model is None:
        return
    if path.is_file() and not _is_sharded(trainer):
        load_model(trainer.accelerator.unwrap_model(trainer.ref_model), str(path))
    elif path.is_file() or (_moves(trainer) and steps_behind(folder) >= trainer.args.ref_model_sync_steps):
        raise ValueError(
            f"sync_ref_model={trainer.args.sync_ref_model}, and the reference of {folder} cannot be resumed: it is "
            "saved neither by TRL's trainers nor where models are sharded (FSDP, ZeRO-3). Resume without sharding "
            "from a checkpoint with a folder `reference`, or start anew: pass the checkpoint as `model`."
        )


def _moves(trainer: Any) -> bool:
    return trainer.args.sync_ref_model and trainer.ref_model is not None


def _is_sharded(trainer: Any) -> bool:
    plugin = trainer.args.deepspeed_plugin
    return trainer.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
