"""
What every online trainer here shares: TRL's `GRPOTrainer`, resumed exactly, with reward functions that fail by name,
and with adapters on a quantized base that keep their precision.

TRL saves neither the completions that it has still to train on nor its place among them, so a run resumed inside a
rollout generates anew. Here a checkpoint holds both, what was counted since the last log, and its last file is written
before an older checkpoint is removed. The invariant: a run that was killed and resumed computes what it would have
computed.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import torch
import trl
from accelerate.logging import get_logger
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, get_last_checkpoint
from trl.trainer.utils import get_config_model_id

from ..host.checkpoints import choose, clear, rank_file, read_state, write_state
from ..host.compat import check_host
from ..host.fetching import FetchedOnce
from ..host.plain import is_plain
from ..host.promotion import promoted
from ..host.required import required
from ..packing.unfinished_rows import only_unfinished_rows
from ..packing.update_phase import CompactTrainer
from ..qlora.precision import adapters_kept, is_quantized, set_adapter_dtype
from .batch_size import check_dataset
from .config import GRPOConfig
from .reward_errors import named


logger = get_logger(__name__)


class GRPOTrainer(CompactTrainer):
    """
    [`~trl.GRPOTrainer`] that resumes anywhere, and whose errors name the reward function and the row.

    Takes what [`~trl.GRPOTrainer`] takes, in the same order. With `compact_microbatches=False` and without a quantized
    model, training is the host's, bit for bit.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Policy, as for [`~trl.GRPOTrainer`].
        reward_funcs (`RewardFunc | list[RewardFunc]`, *optional*):
            Reward functions, as for [`~trl.GRPOTrainer`].
        args ([`GRPOConfig`] or [`~trl.GRPOConfig`], *optional*):
            A [`~trl.GRPOConfig`] gets the defaults of the fields that [`GRPOConfig`] adds.
        *rest, **kwargs:
            All further arguments of [`~trl.GRPOTrainer`], from `train_dataset` to `environment_factory`.

    Raises:
        `ValueError`: Where a quantized model is to generate with vLLM, or prompts are too few for one batch.
    """

    args: GRPOConfig

    def __init__(self, model, reward_funcs=None, args=None, *rest: Any, **kwargs: Any) -> None:
        check_host()
        args = self._own_config(model, args)
        bound = inspect.signature(GRPOTrainer.__init__).bind(self, model, reward_funcs, args, *rest, **kwargs)
        check_dataset(bound.arguments.get("train_dataset"), args)
        loading: Any = args.model_init_kwargs or {}
        asked = bound.arguments.get("quantization_config") or loading.get("quantization_config")
        _check_vllm(args, is_quantized(model) or asked is not None)
        self._epochs_behind = 0
        self._unlogged: dict[str, Any] | None = None
        with adapters_kept(model):
            super().__init__(model, reward_funcs, args, *rest, **kwargs)
        # Whether a model is quantized, its name alone does not say
        _check_vllm(args, is_quantized(self.model))
        set_adapter_dtype(self.model, args.adapter_dtype)

    def train(self, resume_from_checkpoint: str | bool | None = None, *rest: Any, **kwargs: Any) -> TrainOutput:
        """
        Trains, as [`~trl.GRPOTrainer`] does.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                Folder of a checkpoint, or `True` for the newest in `output_dir`. Where it is not whole, because the
                run was killed while it was written, the newest whole one before it is taken, and the log says so.
            *rest, **kwargs:
                As for [`~transformers.Trainer`].

        Raises:
            `ValueError`: Where no checkpoint is whole, or the one asked for was not written by this package.
        """
        self._epochs_behind, self._unlogged = 0, None
        if resume_from_checkpoint:
            resume_from_checkpoint = self._whole_checkpoint(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *rest, **kwargs)

    def _get_dataloader(self, dataset, description, *args, is_training=False, **kwargs) -> DataLoader:
        if is_training and isinstance(dataset, Dataset):
            times = required(self.args.steps_per_generation) * self.num_iterations
            dataset = FetchedOnce(self._remove_unused_columns(dataset, description), times)
        return super()._get_dataloader(dataset, description, *args, is_training=is_training, **kwargs)

    def _get_train_sampler(self, dataset: Any = None) -> Sampler:
        sampler: Any = super()._get_train_sampler(dataset)
        # The host's sampler draws an order per epoch, and in a resumed run begins again with the first epoch's
        for _ in range(self._epochs_behind if sampler.shuffle else 0):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
        return sampler

    def _generate(self, prompts: list) -> Any:
        if not self._can_drop_finished_rows:
            return super()._generate(prompts)
        model: Any = self.accelerator.unwrap_model(self.model)
        causal_model = model.get_base_model() if is_peft_model(model) else model
        ends = self.generation_config.eos_token_id
        with only_unfinished_rows(causal_model, ends if isinstance(ends, list) else [ends]):
            return super()._generate(prompts)

    @property
    def _can_drop_finished_rows(self) -> bool:
        # Not where other code than `generate` may call the model, or its passes are shared with other processes, nor
        # where a model remembers something per row outside of its cache
        elsewhere = self.use_vllm or self.rollout_func is not None or self.is_fsdp_enabled or self.is_deepspeed_enabled
        if elsewhere or self._is_vlm or not self.args.drops_finished_rows:
            return False
        settings = self.generation_config
        return settings.eos_token_id is not None and (settings.num_beams or 1) == 1

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        given: list[Any] = self.reward_funcs
        self.reward_funcs = [
            named(function, name, self.args.reward_timeout)
            for function, name in zip(given, self.reward_func_names, strict=True)
        ]
        try:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        finally:
            self.reward_funcs = given

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        if self._unlogged is not None:
            # The host sets both to their start once it has loaded the checkpoint
            self._tr_loss += self._unlogged["loss"]
            self._globalstep_last_logged = self._unlogged["since"]
            self._unlogged = None
        return super().training_step(model, inputs, num_items_in_batch)

    @classmethod
    def _own_config(cls, model: Any, args: trl.GRPOConfig | None) -> GRPOConfig:
        if args is None:
            return GRPOConfig(f"{model_name(model)}-GRPO")
        return promoted(args, GRPOConfig)

    # Checkpoints

    def _save_checkpoint(self, model, trial) -> None:
        # Ours first: the host ends with its own state and then removes older checkpoints
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            clear(folder)
            write_state(folder, self._shared_state())
        self.accelerator.wait_for_everyone()
        folder.mkdir(parents=True, exist_ok=True)  # where nodes do not share their storage
        if not self.args.save_only_model:
            torch.save(self._rank_state(), folder / rank_file(self.accelerator.process_index))
        super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Every process has written its files before the main one ends the checkpoint and removes an older one
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = read_state(Path(checkpoint))
        self._load_shared_state(state)
        path = Path(checkpoint) / rank_file(self.accelerator.process_index)
        if state["processes"] == self.accelerator.num_processes:
            self._load_rank_state(torch.load(path, map_location="cpu", weights_only=True))
        else:
            self._check_other_layout(checkpoint, state)

    def _shared_state(self) -> dict[str, Any]:
        """Returns what is the same on every process, as plain JSON values."""
        return {
            "processes": 0 if self.args.save_only_model else self.accelerator.num_processes,
            "inside_rollout": self._is_inside_rollout,
            "steps_per_generation": self.args.steps_per_generation,
            "num_iterations": self.num_iterations,
        }

    def _load_shared_state(self, state: dict[str, Any]) -> None:
        for name in ("steps_per_generation", "num_iterations"):
            if state["inside_rollout"] and state[name] != getattr(self.args, name):
                raise ValueError(
                    f"the checkpoint was saved inside a rollout with {name}={state[name]}, and this run has "
                    f"{name}={getattr(self.args, name)}. Resume with the same value, or from a checkpoint saved at "
                    "the end of a rollout."
                )

    def _rank_state(self) -> dict[str, Any]:
        """Returns what each process has of its own: tensors and plain values."""
        return {
            "step": self._step,
            "buffered_inputs": self._buffered_inputs if self._is_inside_rollout else None,
            "unlogged": {"loss": self._tr_loss, "since": self._globalstep_last_logged},
            "metrics": {name: [float(value) for value in values] for name, values in self._metrics["train"].items()},
            "completions": self._completion_logs(),
        }

    def _load_rank_state(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self._buffered_inputs = _on_device(state["buffered_inputs"], self.accelerator.device)
        self._unlogged = {**state["unlogged"], "loss": state["unlogged"]["loss"].to(self.accelerator.device)}
        self._metrics["train"].clear()
        self._metrics["train"].update(state["metrics"])
        logs: dict[str, Any] = self._logs
        for name, rows in state["completions"].items():
            columns = {name: rows} if isinstance(rows, list) else rows
            for column, values in columns.items():
                (logs if isinstance(rows, list) else logs[name])[column].extend(values)

    def _check_other_layout(self, checkpoint: str, state: dict[str, Any]) -> None:
        if state["processes"] and state["inside_rollout"]:
            raise ValueError(
                f"{checkpoint} was saved inside a rollout by {state['processes']} processes, each with its own rows, "
                f"and this run has {self.accelerator.num_processes}. Resume with {state['processes']}, or from a "
                "checkpoint saved at the end of a rollout."
            )
        cause = (
            f"it was saved by {state['processes']} processes, and this run has {self.accelerator.num_processes}"
            if state["processes"]
            else "it was saved with save_only_model=True"
        )
        logger.warning(f"Resuming from {checkpoint} is not exact: {cause}.")

    def _completion_logs(self) -> dict[str, Any]:
        """Returns the rows of the completions table that the next log will hold; images are left out."""
        if not (self.log_completions and self._is_inside_rollout):
            return {}
        logs: dict[str, Any] = self._logs
        plain = {name: list(logs[name]) for name in ("prompt", "completion", "advantages")}
        columns = {
            name: {column: list(values) for column, values in logs[name].items()} for name in ("rewards", "extra")
        }
        return {name: rows for name, rows in {**plain, **columns}.items() if is_plain(rows)}

    @property
    def _is_inside_rollout(self) -> bool:
        return self._step % (required(self.args.steps_per_generation) * self.num_iterations) != 0

    def _whole_checkpoint(self, asked: str | bool) -> str:
        """Returns the checkpoint to resume from, the same on every process."""
        output_dir = required(self.args.output_dir)
        newest = get_last_checkpoint(output_dir) if asked is True and Path(output_dir).is_dir() else asked
        if newest is None or newest is True:
            raise ValueError(
                f"resume_from_checkpoint=True, and output_dir={output_dir!r} holds no checkpoint. Leave it out to "
                "start anew, or give the folder of a checkpoint."
            )
        folder, lines = choose(str(newest))
        found = sorted(set(gather_object([str(folder)])))
        if len(found) > 1:
            # Nodes without shared storage see their own files; what one process cannot read, none takes
            folder = min(found, key=lambda name: int(name.rsplit("-", 1)[-1]))
        for line in lines:
            logger.warning(line)
        state = json.loads((Path(folder) / TRAINER_STATE_NAME).read_text())
        self._epochs_behind = int(state["epoch"] or 0)
        return str(folder)


def model_name(model: Any) -> str:
    """Returns the name of a model, given as such or loaded, without its organisation."""
    name = model if isinstance(model, str) else get_config_model_id(model.config)
    return name.split("/")[-1]


def _check_vllm(args: GRPOConfig, quantized: bool) -> None:
    if args.use_vllm and quantized:
        raise ValueError(
            "use_vllm=True with a 4-bit or 8-bit model: TRL sends vLLM the packed integers of the base as if they "
            "were weights, after merging the adapter into them, which changes the base a little each time. Set "
            "use_vllm=False, or load the model without quantization."
        )


def _on_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _on_device(item, device) for key, item in value.items()}
    if isinstance(value, list):
        return [_on_device(item, device) for item in value]
    return value


# For `help()` and editors
setattr(GRPOTrainer.__init__, "__signature__", inspect.signature(trl.GRPOTrainer.__init__))  # noqa: B010
