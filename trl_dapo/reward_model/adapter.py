"""
A reward model that is one more adapter on the policy's own base, as a reward function.

The adapter is one for sequence classification with one label, trained by [`RewardTrainer`] on the same base. It costs
the memory of a LoRA instead of that of a model. The invariant: after a call the active adapter is the one of before.
"""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils.constants import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl.trainer.utils import use_adapter

from ..packing.bins import chunks


REWARD_ADAPTER = "reward"


class AdapterReward:
    """
    Reward function that scores completions with an adapter on the policy's base.

    Text is put together and tokenized as [`RewardTrainer`] does it: prompt, completion and end token, or the chat
    template over both.

    Args:
        folder (`str`):
            What [`RewardTrainer`] saved.

    Raises:
        `ValueError`: Where the folder is no reward adapter with a head.
    """

    def __init__(self, folder: str) -> None:
        self.__name__ = "reward_adapter"
        self._folder = folder
        self._model: Any = None
        _check_folder(Path(folder))

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
            `ValueError`: Where the adapter was trained with another tokenizer.
        """
        if (Path(self._folder) / "tokenizer.json").is_file():
            own: Any = AutoTokenizer.from_pretrained(self._folder)
            _check_tokenizer(own, tokenizer, self._folder)
        training = model.training
        model.load_adapter(self._folder, REWARD_ADAPTER, is_trainable=False)
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and name.endswith(f".{REWARD_ADAPTER}"):
                module.p = 0.0  # the model stays in train mode
        model.train(training)
        self._model, self._tokenizer, self._rows_at_once = model, tokenizer, rows_at_once

    def __call__(self, prompts: list, completions: list, **kwargs: Any) -> list[float]:
        """Returns the reward of each completion, in order."""
        rows = [self._token_ids(*texts) for texts in zip(prompts, completions, strict=True)]
        rewards_B = torch.empty(len(rows))
        with torch.no_grad(), use_adapter(self._model, REWARD_ADAPTER):
            for chunk in chunks([len(row) for row in rows], self._rows_at_once):
                rewards_B[chunk] = self._scores([rows[row] for row in chunk])
        return rewards_B.tolist()

    def _token_ids(self, prompt: Any, completion: Any) -> list[int]:
        if isinstance(prompt, list):
            messages = [*prompt, *completion]
            found: Any = self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
            return found["input_ids"]
        text, end = f"{prompt}{completion}", str(self._tokenizer.eos_token)
        return self._tokenizer(text if text.endswith(end) else text + end)["input_ids"]

    def _scores(self, rows: list[list[int]]) -> torch.Tensor:
        base, longest, device = self._model.get_base_model(), max(map(len, rows)), self._model.device
        pad = self._tokenizer.pad_token_id
        # Padded on the right: the causal mask alone keeps padding out of sight of the last token
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        hidden = base.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        return base.score(hidden[torch.arange(len(rows), device=device), last].float()).squeeze(1).cpu()


def _check_folder(folder: Path) -> None:
    wanted = "Give the folder of an adapter that RewardTrainer saved."
    if not (folder / "adapter_config.json").is_file():
        raise ValueError(f"reward_adapter={str(folder)!r} has no adapter_config.json. {wanted}")
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("task_type") != "SEQ_CLS":
        raise ValueError(
            f"reward_adapter={str(folder)!r} has task_type={config.get('task_type')!r}, and a reward model has "
            f"'SEQ_CLS'. {wanted}"
        )
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise ValueError(f"reward_adapter={str(folder)!r} has no {SAFETENSORS_WEIGHTS_NAME}. {wanted}")
    with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, framework="pt") as file:
        heads = {name: file.get_slice(name).get_shape() for name in file.keys() if name.endswith("score.weight")}  # noqa: SIM118
    shapes = list(heads.values())
    if len(shapes) != 1 or shapes[0][0] != 1:
        found = "no head `score`" if not shapes else f"a head of {shapes[0][0]} labels"
        raise ValueError(
            f"reward_adapter={str(folder)!r} has {found}, and a reward is one number. Train it with num_labels=1 and "
            "a saved head, as RewardTrainer does."
        )


def _check_tokenizer(own: PreTrainedTokenizerBase, policys: PreTrainedTokenizerBase, folder: str) -> None:
    if own.get_vocab() != policys.get_vocab():
        raise ValueError(
            f"reward_adapter={folder!r} was trained with another tokenizer than the policy's: one base reads the same "
            "ids. Use it as a reward model of its own, with RewardModelFunction, or train one with this tokenizer."
        )
