"""
What every trainer here does about checkpoints, whichever host of TRL's it extends: the layer right above the host.

A run resumes from a whole checkpoint, with the weights that are in it, and does nothing where it is over already.
Each method hands over to `checkpoints`, `resume`, `loaded` or `reference`; what the host does is reached through
`super()`.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..qlora.recorded import record_quantization
from .card_file import write_card
from .card_text import Section
from .checkpoints import clear
from .loaded import check_loaded, training_kept
from .model_card import Asked, basic_settings, card_of
from .output_folders import nothing_stale, patterns_of, saved_instead_of
from .reference import load_reference, save_reference
from .required import required
from .resume import checkpoint_to_resume
from .swapped import swapped
from .watch import watch_of


Host = Trainer if TYPE_CHECKING else object


class CheckpointSeams(Host):
    """The host's methods that save and load, for a class that extends one of TRL's trainers too."""

    # Whether checkpoints have the state file of `host.checkpoints`
    has_state_file: bool = False
    # Files that the trainer writes beside the host's
    own_files: tuple[str, ...] = ()
    # Folders of the models that training started from
    source_folders: tuple[str, ...] = ()
    # Task on the Hub, and the metrics of the trainer's own evaluation that a model card tells
    card_task: str = "text-generation"
    card_metrics: tuple[str, ...] = ()
    # The data set that the user named for the card, and the step of the best model once it is loaded
    _data_set_named: str | None = None
    _best_step: int | None = None
    _metrics: dict[str, Any]

    # Hooks

    def run_begins(self, checkpoint: str | None) -> None:
        """Called by `train`, with the checkpoint that it resumes from."""
        self._best_step = None
        # What a run of the same trainer that was interrupted did not come to log
        self._metrics["train"].clear()
        if checkpoint is not None and hasattr(self, "ref_model"):
            load_reference(self, Path(checkpoint))

    def checkpoint_begins(self, folder: Path) -> None:
        """Called before the host writes a checkpoint, on every process."""
        if self.args.should_save:
            clear(folder)
        self.accelerator.wait_for_everyone()

    def also_trained(self) -> list[nn.Parameter]:
        """Returns the parameters of the model that are trained, though frozen while the policy's adapter is active."""
        return []

    def folder_to_save(self, output_dir: str | None) -> str:
        """Returns where a model is saved, which is not a folder that training started from."""
        return saved_instead_of(str(output_dir or self.args.output_dir), self.source_folders)

    def best_is_loaded(self, checkpoint: str) -> None:
        """Called at the end of a run, once the model is that of the best checkpoint."""
        number = Path(checkpoint).name.rpartition("-")[2]
        self._best_step = int(number) if number.isdecimal() else None

    def card_settings(self) -> dict[str, Any]:
        """Returns the settings that a model card tells, by name."""
        return basic_settings(self)

    def card_sections(self) -> list[Section]:
        """Returns what else a model card tells of the trainer."""
        return []

    @property
    def weights_step(self) -> int:
        """The optimizer updates that the model has had."""
        return self.state.global_step if self._best_step is None else self._best_step

    # The host's methods

    def train(self, resume_from_checkpoint: str | bool | None = None, *rest: Any, **kwargs: Any) -> TrainOutput:
        """
        Trains, as the trainer of TRL does.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                Folder of a checkpoint, or `True` for the newest in `output_dir`. Where it is not whole, because the
                run was killed while it was written, the newest whole one before it is taken, and the log says so.
                Where the run was killed in its first checkpoint, `True` starts anew; what is there of it is renamed.
            *rest, **kwargs:
                As for [`~transformers.Trainer`].

        Raises:
            `ValueError`: Where no checkpoint is whole, or the one asked for was not written by this package; where
                weights of the run are not in it.
        """
        checkpoint = None
        if resume_from_checkpoint:
            folder = required(self.args.output_dir)
            checkpoint = checkpoint_to_resume(resume_from_checkpoint, folder, self.has_state_file)
        self.run_begins(checkpoint)
        with watch_of(self).training(self):
            return super().train(checkpoint, *rest, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            # The host trains a step before it looks
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model, trial) -> None:
        # Ours first: the host ends with its own state and then removes older checkpoints
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self.checkpoint_begins(folder)
        if hasattr(self, "ref_model"):
            save_reference(self, folder)
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        folder = self.folder_to_save(output_dir)
        if not self.args.should_save:
            super()._save(folder, *args, **kwargs)
            return
        model = self.accelerator.unwrap_model(self.model)
        is_adapter = isinstance(model, PeftModel)
        patterns = patterns_of(is_adapter, self.processing_class is not None, self.own_files)
        # PEFT writes a card with nothing in it, also into one that a person wrote
        cards = swapped(model, create_or_update_model_card=_no_card) if is_adapter else nullcontext()
        with nothing_stale(Path(folder), patterns), cards:
            super()._save(folder, *args, **kwargs)
            if is_adapter:
                record_quantization(Path(folder), model.get_base_model())
        self._write_card(Path(folder), Asked(dataset_name=self._data_set_named))

    def create_model_card(  # ty: ignore[incompatible-method-override]
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """
        Writes the model card of the run into `output_dir`, unless there is one that a person has written.

        Args:
            model_name (`str`, *optional*):
                Name of the model. Defaults to the last part of `hub_model_id` or of `output_dir`.
            dataset_name (`str`, *optional*):
                Name of the data set, on the Hub or of a file. Later cards of the run keep it.
            tags (`str` or `list[str]`, *optional*):
                Further tags.
        """
        self._data_set_named = dataset_name or self._data_set_named
        if self.is_world_process_zero():
            self._write_card(Path(self.folder_to_save(None)), Asked(model_name, self._data_set_named, tags))

    def _write_card(self, folder: Path, asked: Asked) -> None:
        render = super().create_model_card
        if self.is_world_process_zero():
            write_card(folder, lambda: card_of(self, render, asked))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Every process has written its files before the main one ends the checkpoint and removes an older one
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            # Sharded by the names of the modules, and all of them are asked for
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        loaded = self.model if model is None else model
        with training_kept(loaded):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            check_loaded(loaded, Path(resume_from_checkpoint), self.also_trained())

    def _load_best_model(self) -> None:
        best, model = Path(str(self.state.best_model_checkpoint)), self.model
        if not best.is_dir():
            raise ValueError(
                f"load_best_model_at_end=True, and there is no folder {best} any more. The model is that of the last "
                "step, which is in the last checkpoint."
            )
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        elif isinstance(model, PeftModel) and list(model.active_adapters) != ["default"]:
            # As the best one, the host knows the adapter `default` alone
            self._load_from_checkpoint(str(best))
        else:
            with training_kept(model):
                super()._load_best_model()
                check_loaded(model, best, self.also_trained())
        self.best_is_loaded(str(best))


def _no_card(*args: Any, **kwargs: Any) -> None:
    """Takes the place of PEFT's."""
