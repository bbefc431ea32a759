"""
A reward function whose reward model is one more adapter on the policy's own base.

The adapter is for sequence classification with one label, trained by [`RewardTrainer`] on the same base. It takes the
memory of a LoRA instead of that of a second model. After a call, the adapter that was active before it is active
again.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils import load_peft_weights
from peft.utils.constants import SAFETENSORS_WEIGHTS_NAME
from torch import nn
from transformers import PreTrainedTokenizerBase
from trl.trainer.utils import use_adapter

from ..host.adapter_folders import check_adapter_loaded
from .folders import ADAPTER_CONFIG, check_adapter, tokenizer_on
from .scoring import padded, padding_id, rewards_in_chunks, rows_of_token_ids


REWARD_ADAPTER = "reward"

# What PPO's critic calls the head that it adds to the policy's base
_HEAD_NAME = "score"


class AdapterReward:
    """
    Reward function that scores completions with an adapter on the policy's base.

    Prompt and completion are put together and tokenized as [`RewardTrainer`] does it, with the tokenizer and the chat
    template that were saved with the adapter.

    Args:
        folder (`str`):
            What [`RewardTrainer`] saved.

    Raises:
        `ValueError`: If the folder holds no reward adapter with a head.
    """

    def __init__(self, folder: str) -> None:
        self.__name__ = "reward_adapter"
        self._folder, self._called = folder, f"reward_adapter={folder!r}"
        self._model: Any = None
        for name in (ADAPTER_CONFIG, SAFETENSORS_WEIGHTS_NAME):
            if not (Path(folder) / name).is_file():
                raise ValueError(
                    f"{self._called} has no {name}. Give the folder of an adapter that RewardTrainer saved."
                )
        check_adapter(folder, self._called, (_HEAD_NAME,))

    def attach(self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows_at_once: int) -> None:
        """
        Loads the adapter beside the policy's.

        Args:
            model ([`~peft.PeftModel`]):
                Policy, whose base has a head called `score`.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
                The policy's.
            rows_at_once (`int`):
                Rows that go through the model together.

        Raises:
            `ValueError`: If the adapter was trained with another tokenizer or base.
        """
        own = tokenizer_on(self._folder, self._called, tokenizer)
        training = model.training
        model.load_adapter(self._folder, REWARD_ADAPTER, is_trainable=False)
        saved = load_peft_weights(self._folder, device="cpu")
        check_adapter_loaded(model, REWARD_ADAPTER, saved, self._folder, "of the policy")
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and name.endswith(f".{REWARD_ADAPTER}"):
                module.p = 0.0  # the policy may be in training mode when rewards are computed
        model.train(training)
        self._model, self._tokenizer, self._rows_at_once = model, own, rows_at_once

    def __call__(self, prompts: list, completions: list, **kwargs: Any) -> list[float]:
        """Returns the reward of each completion, in order."""
        rows = rows_of_token_ids(self._tokenizer, prompts, completions, self._called, kwargs)
        with torch.no_grad(), use_adapter(self._model, REWARD_ADAPTER):
            return rewards_in_chunks(rows, self._rows_at_once, self._forward).tolist()

    def _forward(self, rows: list[list[int]]) -> torch.Tensor:
        base = self._model.get_base_model()
        batch = padded(rows, padding_id(self._tokenizer), self._model.device)
        # Not the model's own forward, which is that of a language model
        outputs = base.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        last_B = batch.attention_mask.sum(dim=1) - 1
        hidden = outputs.last_hidden_state[torch.arange(len(rows), device=last_B.device), last_B]
        return base.score(hidden.float()).squeeze(1)
