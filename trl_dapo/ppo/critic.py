"""
PPO's critic: values of tokens, from an adapter on the policy's own base or from a model of its own.

An adapter is trainable only while it is selected, and each of its losses goes backward at once: PEFT freezes the
adapters that are not selected, and gradient checkpointing recomputes with the one that is. The critic's gradients wait
here, so that what the host clips, sends to other processes and logs are the policy's. Outside
[`Critic.selected`], model and gradients are as if there were no critic.
"""

import copy
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.utils.constants import SAFETENSORS_WEIGHTS_NAME as ADAPTER_WEIGHTS
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback
from trl.trainer.utils import use_adapter


VALUE_ADAPTER = "value"
# The folder below a checkpoint, which for an adapter is PEFT's doing
VALUE_FOLDER = "value"
HEAD = "score"
_WEIGHTS = "model.safetensors"


class ValueModel(nn.Module):
    """
    A backbone and a head that gives one number per token.

    Args:
        base_model (`nn.Module`):
            What comes before the head of a language model.
        hidden_size (`int`):
            Width of its last hidden state.
    """

    def __init__(self, base_model: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.base_model = base_model
        self.score = _zero_head(hidden_size)


class Critic:
    """
    Values of tokens, and the gradients of what they are learnt from.

    Args:
        model (`ValueModel` or [`~peft.PeftModel`]):
            Model with the head.
        adapter (`str`, *optional*):
            Adapter of a [`~peft.PeftModel`] that is the critic. By default it is the whole model.

    Attributes:
        parameters (`list[nn.Parameter]`):
            Everything that the critic trains, its head included.
    """

    def __init__(self, model: ValueModel | PeftModel, adapter: str | None = None) -> None:
        self.model = model
        self.adapter = adapter
        with self.selected():
            self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._gradients: list[torch.Tensor | None] = [None] * len(self.parameters)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Returns everything that the critic trains, by name, whether it is selected or not."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [(f"critic.{names[id(parameter)]}", parameter) for parameter in self.parameters]

    @property
    def _root(self) -> Any:
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @contextmanager
    def selected(self) -> Generator[None]:
        """Makes the critic's adapter the active and trainable one, and the former one so again."""
        if isinstance(self.model, PeftModel):
            with use_adapter(self.model, self.adapter):
                yield
        else:
            yield

    def values(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, tokens: int) -> torch.Tensor:
        """
        Returns the value before each of the last `tokens` tokens, shape `(B, tokens)`, float32. Call it while the
        critic is [`selected`].

        Args:
            input_ids (`torch.Tensor`):
                Prompts and completions, shape `(B, P + T)`.
            attention_mask (`torch.Tensor`):
                Of the same shape.
            tokens (`int`):
                T.
        """
        root = self._root
        output = root.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        hidden = output.last_hidden_state[:, -tokens - 1 : -1]
        # A value is off by its rounding, which in bfloat16 is more than most advantages
        with torch.autocast(hidden.device.type, enabled=False):
            return root.score(hidden.float()).squeeze(-1)

    def learn(self, compute_loss: Callable[[], torch.Tensor]) -> None:
        """Computes a loss while the critic is selected, and adds its gradients to those that wait."""
        with self.selected():
            loss = compute_loss()
            with torch.autocast(loss.device.type, enabled=False):
                loss.backward()
        for place, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                waiting = self._gradients[place]
                self._gradients[place] = parameter.grad if waiting is None else waiting.add_(parameter.grad)
                parameter.grad = None

    def hand_over(self, accelerator: Any, max_norm: float) -> torch.Tensor:
        """
        Gives the parameters the mean of the gradients of all processes, clipped; returns their norm before that.

        Args:
            accelerator (`accelerate.Accelerator`):
                Of the trainer.
            max_norm (`float`):
                Largest norm, or 0 for any.
        """
        for parameter, waiting in zip(self.parameters, self._gradients, strict=True):
            # A process without a row to learn from has to take part
            own = torch.zeros_like(parameter) if waiting is None else waiting
            parameter.grad = accelerator.reduce(own, reduction="mean")
        self._gradients = [None] * len(self.parameters)
        return nn.utils.clip_grad_norm_(self.parameters, max_norm or float("inf"))

    def zero_grad(self) -> None:
        """Forgets the gradients of the last update."""
        for parameter in self.parameters:
            parameter.grad = None

    def reset(self) -> None:
        """Forgets all gradients, those that wait for an update that did not end too."""
        self.zero_grad()
        self._gradients = [None] * len(self.parameters)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Returns the critic's groups of an optimizer: matrices with weight decay, norms and biases without."""
        matrices = [parameter for parameter in self.parameters if parameter.dim() > 1]
        others = [parameter for parameter in self.parameters if parameter.dim() <= 1]
        return [
            {"params": parameters, "lr": learning_rate, "weight_decay": decay}
            for parameters, decay in ((matrices, weight_decay), (others, 0.0))
            if parameters
        ]

    def save(self, folder: Path) -> None:
        """Writes the critic to a folder, unless it is an adapter, which is saved with its model."""
        if isinstance(self.model, ValueModel):
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.contiguous() for name, tensor in self.model.state_dict().items()}
            save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
            self._root.base_model.config.save_pretrained(folder)

    def load(self, folder: Path) -> None:
        """
        Takes the weights that [`save`] wrote, unless the critic is an adapter, which is loaded with its model.

        Raises:
            `ValueError`: Where the folder has no critic of this kind.
        """
        kind, file = ("a model", _WEIGHTS) if isinstance(self.model, ValueModel) else ("an adapter", ADAPTER_WEIGHTS)
        if not (folder / file).is_file():
            raise ValueError(
                f"{folder} holds no critic that is {kind}: the checkpoint was not written by PPOTrainer, or by a run "
                "of the other kind, with or without PEFT. Start a new run from its weights: pass the checkpoint as "
                "`model`."
            )
        if isinstance(self.model, ValueModel):
            self.model.load_state_dict(load_file(folder / file))


def value_adapter(model: PeftModel, config: PeftConfig | None, adapter_dtype: torch.dtype) -> Critic:
    """
    Returns the critic that is a LoRA beside the policy's, on the same base, with a head of its own in float32.

    Args:
        model ([`~peft.PeftModel`]):
            Policy; it gets the adapter `value`.
        config ([`~peft.LoraConfig`], *optional*):
            Of the adapter. Defaults to the policy's.
        adapter_dtype (`torch.dtype`):
            Precision of the adapter.
    """
    base: Any = model.get_base_model()
    base.score = _zero_head(base.config.get_text_config().hidden_size, SharedHead).to(model.device)
    model.add_adapter(VALUE_ADAPTER, _value_config(model.active_peft_config if config is None else config))
    # Made after PEFT had frozen the base; no adapter uses it
    base.score.original_module.requires_grad_(False)
    critic = Critic(model, VALUE_ADAPTER)
    head = {id(parameter) for parameter in base.score.parameters()}
    for parameter in critic.parameters:
        if id(parameter) not in head:
            parameter.data = parameter.data.to(adapter_dtype)
    return critic


def value_model(policy: Any, checkpointing: dict[str, Any] | None) -> Critic:
    """
    Returns the critic that is a copy of the policy's backbone, trained in full.

    Args:
        policy ([`~transformers.PreTrainedModel`]):
            What is copied, its weights included.
        checkpointing (`dict[str, Any]`, *optional*):
            Arguments of gradient checkpointing; by default there is none.
    """
    backbone = copy.deepcopy(policy.base_model)
    if checkpointing is not None:
        backbone.gradient_checkpointing_enable(checkpointing)
    model = ValueModel(backbone, policy.config.get_text_config().hidden_size)
    return Critic(model.to(policy.device).train())


class AtOptimizerStep(TrainerCallback):
    """Calls one function before the optimizer's step, once the policy's gradients are clipped, and one after it."""

    def __init__(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._before, self._after = before, after

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._before()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._after()


def _value_config(config: PeftConfig) -> PeftConfig:
    result: Any = copy.deepcopy(config)
    result.inference_mode = False
    result.modules_to_save = [HEAD]
    # Initialisations by name take weights out of the base, on which the policy stands
    if isinstance(result.init_lora_weights, str):
        result.init_lora_weights = True
    return result


class SharedHead(nn.Linear):
    """
    A head that stands on the policy's base and is no part of the policy: it is saved only as a module of an adapter.

    PEFT leaves a copy on the base when it takes adapters off, as in `merge_and_unload`. Such a copy, and the original
    that no adapter uses, are in no state dict, so that a saved policy has the weights of its architecture alone.
    """

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        if _is_of_adapter(prefix):
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict, prefix, *rest: Any, **kwargs: Any) -> None:
        if _is_of_adapter(prefix):
            super()._load_from_state_dict(state_dict, prefix, *rest, **kwargs)


def _is_of_adapter(prefix: str) -> bool:
    # PEFT asks the adapter's copy itself for its names, hence without a prefix
    return not prefix or ".modules_to_save." in f".{prefix}"


def _zero_head(hidden_size: int, kind: type[nn.Linear] = nn.Linear) -> nn.Linear:
    head = kind(hidden_size, 1, bias=False, dtype=torch.float32)
    nn.init.zeros_(head.weight)
    return head
