"""
Reward models as reward functions, for any of TRL's online trainers.

TRL scores the whole generation batch at once, with a full model beside the policy. Here it is scored in chunks, with
4-bit weights or adapters if you like, by one reward model or several; rewards can be normalised and clipped. The
reward of a completion depends on its prompt and its text alone, not on what else is in the batch.
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from peft import PeftModel
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..host.adapter_folders import check_base
from .folders import adapter_base, folder_tokenizer
from .loading import Loaded, LoadSettings, load
from .scoring import Text, padded, padding_id, rewards_in_chunks, rows_of_token_ids
from .statistics import STATISTICS_FILE, RewardStatistics


logger = get_logger(__name__)

RewardModel = str | Path | PreTrainedModel | PeftModel


class RewardModelFunction:
    r"""
    A reward function that asks one or more reward models: `mean - uncertainty_penalty * std` (population) over them.

    Pass it as one of `reward_funcs`. Each reward model reads the text with its own tokenizer and chat template, as in
    [`RewardTrainer`], so its tokenizer may differ from the policy's. Weights are read at the first call. The function
    can be pickled; afterwards, weights from folders are read again.

    Args:
        model (`str`, `Path`, [`~transformers.PreTrainedModel`], [`~peft.PeftModel`] or a list of them):
            Reward models: folders or names on the Hub, of whole models or of adapters, or loaded models. Several form
            an ensemble.
        processing_class ([`~transformers.PreTrainedTokenizerBase`] or a list, *optional*):
            Tokenizers. Defaults to that of each folder; needed for loaded models.
        base (`str` or [`~transformers.PreTrainedModel`], *optional*):
            Base of the adapters. Defaults to the one that each was trained on. Adapters with the same base share it.
        quantization_config ([`~transformers.BitsAndBytesConfig`], *optional*):
            How the weights are quantized when they are read.
        model_init_kwargs (`dict[str, Any]`, *optional*):
            Arguments of `from_pretrained`. `dtype` defaults to float32.
        chunk_size (`int`, *optional*, defaults to `8`):
            Rows that go through a model at once.
        max_length (`int`, *optional*, defaults to `1024`):
            Longest row, in tokens; longer rows keep their last tokens. `None` for no limit.
        normalize (`bool`, *optional*, defaults to `False`):
            Return `(r - mean) / std`, with the statistics saved beside each model.
        statistics ([`RewardStatistics`] or a list, *optional*):
            Statistics to normalise with, instead of the saved ones.
        clip (`float`, *optional*):
            Clip each model's (normalised) rewards to `[-clip, clip]`.
        uncertainty_penalty (`float`, *optional*, defaults to `0.0`):
            Number of standard deviations over the ensemble that are subtracted from its mean.
        device (`str` or `torch.device`, *optional*):
            Device of the models. Defaults to that of the process.
        name (`str`, *optional*):
            Name in the logs. Defaults to that of the folder, or to `"reward_ensemble"` for several.

    Raises:
        `ValueError`: If an argument is out of range, a folder holds no reward model, or a tokenizer or saved
            statistics are missing.
    """

    def __init__(
        self,
        model: RewardModel | Sequence[RewardModel],
        processing_class: PreTrainedTokenizerBase | Sequence[PreTrainedTokenizerBase] | None = None,
        *,
        base: str | PreTrainedModel | None = None,
        quantization_config: BitsAndBytesConfig | None = None,
        model_init_kwargs: dict[str, Any] | None = None,
        chunk_size: int = 8,
        max_length: int | None = 1024,
        normalize: bool = False,
        statistics: RewardStatistics | Sequence[RewardStatistics] | None = None,
        clip: float | None = None,
        uncertainty_penalty: float = 0.0,
        device: str | torch.device | None = None,
        name: str | None = None,
    ) -> None:
        self._models = [
            str(one) if isinstance(one, (str, Path)) else one
            for one in (model if isinstance(model, (list, tuple)) else [model])
        ]
        self._base, self._settings = base, LoadSettings(quantization_config, model_init_kwargs, device)
        self.chunk_size, self.max_length = chunk_size, max_length
        self.clip, self.uncertainty_penalty = clip, uncertainty_penalty
        self._check_numbers()
        for one in self._models:
            if isinstance(one, str) and (found := adapter_base(one)) is not None and not isinstance(base, nn.Module):
                check_base(base or found, f"The adapter {one!r}", "Pass its base, or where it is now, as `base=`.")
        self._tokenizers = self._one_each(processing_class, "processing_class", self._tokenizer)
        self._statistics = self._one_each(statistics, "statistics", self._saved) if normalize else None
        self._loaded: list[Loaded] | None = None
        self.__name__ = name or self._default_name()

    def __call__(
        self,
        prompts: list[Text],
        completions: list[Text],
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        """
        Returns the rewards of completions, in order.

        Args:
            prompts (`list`):
                Text or messages.
            completions (`list`):
                Text or messages, one for each prompt.
            log_metric (`Callable`, *optional*):
                TRL's; receives the standard deviation over the ensemble, averaged over rows.
            **kwargs:
                Other columns that TRL passes to reward functions. `tools` and `chat_template_kwargs` go to the chat
                template, as in training.

        Raises:
            `ValueError`: If a reward is not finite, prompt and completion are not of one kind, or messages meet a
                tokenizer without a chat template.
        """
        if not completions:
            return []
        rewards_MB = torch.stack([self._scores(i, prompts, completions, kwargs) for i in range(len(self._models))])
        std_B = rewards_MB.std(dim=0, correction=0)
        if log_metric is not None and len(self._models) > 1:
            log_metric(f"{self.__name__}/std", std_B.mean().item())
        return (rewards_MB.mean(dim=0) - self.uncertainty_penalty * std_B).tolist()

    @property
    def folders(self) -> list[str]:
        """The reward models that are given by name."""
        return [one for one in self._models if isinstance(one, str)]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}

    # Scoring

    def _scores(self, index: int, prompts: list[Text], completions: list[Text], columns: dict) -> torch.Tensor:
        """Rewards of one model, normalised and clipped, shape `(B,)`, float64 on the CPU."""
        rows = self._token_ids(index, prompts, completions, columns)
        rewards_B = rewards_in_chunks(rows, self.chunk_size, partial(self._forward, index))
        wrong = (~rewards_B.isfinite()).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(
                f"The reward model {self.__name__!r} gave {rewards_B[wrong[0]].item()} for {len(wrong)} of "
                f"{len(rows)} completions, first for row {wrong[0]}. Check its weights, and `dtype` in "
                "`model_init_kwargs`."
            )
        if self._statistics is not None:
            rewards_B = self._statistics[index].normalized(rewards_B)
        return rewards_B if self.clip is None else rewards_B.clamp(-self.clip, self.clip)

    def _token_ids(self, index: int, prompts: list, completions: list, columns: dict) -> list[list[int]]:
        """The last `max_length` of the token ids that the model read in its training, for each row."""
        called = f"the reward model {self.__name__!r}"
        rows = rows_of_token_ids(self._tokenizers[index], prompts, completions, called, columns)
        if self.max_length is not None and max(map(len, rows)) > self.max_length:
            logger.warning_once(
                f"The reward model {self.__name__!r} sees only the last max_length={self.max_length} tokens of longer "
                "rows."
            )
            rows = [ids[-self.max_length :] for ids in rows]
        return rows

    @torch.inference_mode()
    def _forward(self, index: int, rows: list[list[int]]) -> torch.Tensor:
        loaded = self._models_loaded()[index]
        model, pad_id = loaded.model, padding_id(self._tokenizers[index])
        if loaded.adapter is not None:
            model.set_adapter(loaded.adapter)
        model.config.get_text_config().pad_token_id = pad_id  # the model looks for it to find each row's last token
        batch = padded(rows, pad_id, next(model.parameters()).device)
        logits = model.eval()(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        if logits.shape != (len(rows), 1):
            raise ValueError(
                f"The reward model {self.__name__!r} gave logits of shape {tuple(logits.shape)} for {len(rows)} rows, "
                "and a reward is one number per row. Use a model with num_labels=1."
            )
        return logits[:, 0]

    def _models_loaded(self) -> list[Loaded]:
        if self._loaded is None:
            named = [place for place, one in enumerate(self._models) if isinstance(one, str)]
            tokens = [len(self._tokenizers[place]) for place in named]
            read = iter(load(self.folders, tokens, self._base, self._settings))
            self._loaded = [
                next(read) if isinstance(one, str) else Loaded(self._settings.placed(one)) for one in self._models
            ]
        return self._loaded

    # Defaults of the arguments

    def _one_each(self, given: Any, name: str, default: Callable[[Any], Any]) -> list[Any]:
        if given is None:
            return [default(one) for one in self._models]
        result = list(given) if isinstance(given, (list, tuple)) else [given] * len(self._models)
        if len(result) != len(self._models):
            raise ValueError(
                f"`{name}` has {len(result)} values for {len(self._models)} reward models. Pass one value for all of "
                "them, or one for each."
            )
        return result

    def _tokenizer(self, model: Any) -> Any:
        if not isinstance(model, str):
            raise ValueError(
                "`processing_class` is needed for a reward model that is already loaded. Pass its tokenizer."
            )
        return folder_tokenizer(model)

    def _saved(self, model: Any) -> RewardStatistics:
        found = RewardStatistics.load(model) if isinstance(model, str) else None
        if found is None or found.std == 0:
            what = "none were saved" if found is None else "their std is 0"
            raise ValueError(
                f"normalize=True needs the statistics of the reward model {_label(model)!r}, and {what} "
                f"({STATISTICS_FILE}). Pass `statistics`, or train it with RewardTrainer."
            )
        return found

    def _default_name(self) -> str:
        if len(self._models) > 1:
            return "reward_ensemble"
        return re.sub(r"[^\w.-]", "_", _label(self._models[0]).rstrip("/").split("/")[-1]) or "reward_model"

    def _check_numbers(self) -> None:
        if not self._models:
            raise ValueError(
                "`model` is an empty list, so there is nothing to score with. Pass at least one reward model."
            )
        for name in ("chunk_size", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"`clip` must be above 0, got {self.clip}.")
        if not (self.uncertainty_penalty >= 0 and math.isfinite(self.uncertainty_penalty)):
            raise ValueError(f"`uncertainty_penalty` must not be negative, got {self.uncertainty_penalty}.")


def _label(model: Any) -> str:
    return model if isinstance(model, str) else str(model.config.name_or_path or type(model).__name__)
