"""
Values of the host's fields that no training can have. Knows the fields by name, and imports none of the host.

The host divides by some of them, hands others on to the optimizer, and notices others when it has generated for a
while, or never.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Range:
    """
    The numbers that a field can have.

    Args:
        least (`float`):
            Lower end.
        most (`float`, *optional*):
            Upper end; without, any finite number.
        whole (`bool`, *optional*, defaults to `False`):
            Integers only.
        above (`bool`, *optional*, defaults to `False`):
            The lower end is not one of them.
        below (`bool`, *optional*, defaults to `False`):
            The upper end is not one of them.
        none (`bool`, *optional*, defaults to `False`):
            `None` has a meaning although it is not the default.
        why (`str`, *optional*, defaults to `""`):
            What other values would do, for the message.
    """

    least: float
    most: float = math.inf
    whole: bool = False
    above: bool = False
    below: bool = False
    none: bool = False
    why: str = ""

    def holds(self, value: Any) -> bool:
        """Returns whether a value is one of them. NaN, infinity, text and truth values are not."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number = float(value)
        if not math.isfinite(number) or (self.above and number == self.least) or (self.below and number == self.most):
            return False
        return self.least <= number <= self.most

    def __str__(self) -> str:
        kind = "an integer" if self.whole else "a number"
        least = "" if self.least == -math.inf else f" {'above' if self.above else 'of at least'} {self.least:g}"
        most = "" if self.most == math.inf else f" and {'below' if self.below else 'at most'} {_plain(self.most)}"
        return kind + least + most + (f" ({self.why})" if self.why else "")


COUNT = Range(1, whole=True)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, above=True)
SHARE = Range(0, 1)
# What NumPy's generator takes, which is seeded beside torch's
SEED = Range(0, 2**32 - 1, whole=True)

TRAINING = {
    "per_device_train_batch_size": COUNT,
    "per_device_eval_batch_size": COUNT,
    "gradient_accumulation_steps": COUNT,
    "eval_accumulation_steps": COUNT,
    "learning_rate": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "center_rewards_coefficient": NOT_NEGATIVE,
    "router_aux_loss_coef": NOT_NEGATIVE,
    "warmup_steps": NOT_NEGATIVE,
    "adam_beta1": Range(0, 1, below=True),
    "adam_beta2": Range(0, 1, below=True),
    "adam_epsilon": NOT_NEGATIVE,
    "logging_steps": NOT_NEGATIVE,
    "eval_steps": NOT_NEGATIVE,
    "eval_delay": NOT_NEGATIVE,
    "save_steps": NOT_NEGATIVE,
    "neftune_noise_alpha": NOT_NEGATIVE,
    "seed": SEED,
    "data_seed": SEED,
    "dataloader_num_workers": Range(0, whole=True),
    "dataloader_prefetch_factor": COUNT,
    "dataset_num_proc": COUNT,
    "ref_model_sync_steps": COUNT,
    "ref_model_mixup_alpha": SHARE,
}
GENERATION = {
    "num_generations": COUNT,
    "num_generations_eval": COUNT,
    "num_iterations": COUNT,
    "steps_per_generation": COUNT,
    "generation_batch_size": COUNT,
    "max_completion_length": Range(1, whole=True, none=True),
    "temperature": POSITIVE,
    "top_p": Range(0, 1, above=True),
    "top_k": Range(0, whole=True, none=True),
    "min_p": SHARE,
    "repetition_penalty": POSITIVE,
    "beta": NOT_NEGATIVE,
    "epsilon": NOT_NEGATIVE,
    "epsilon_high": NOT_NEGATIVE,
    "delta": POSITIVE,
    "sapo_temperature_neg": POSITIVE,
    "sapo_temperature_pos": POSITIVE,
    "top_entropy_quantile": SHARE,
    "vllm_gpu_memory_utilization": Range(0, 1, above=True),
    "vllm_tensor_parallel_size": COUNT,
    "vllm_max_model_length": COUNT,
}
PREFERENCES = {"max_length": COUNT, "precompute_ref_batch_size": COUNT}
DPO = {
    "beta": Range(0, above=True, why="at 0 nothing is learnt, below it the rejected completion"),
    "label_smoothing": Range(
        0,
        0.5,
        below=True,
        why="a share of exchanged labels: at 0.5 nothing is learnt, above it the rejected completion",
    ),
    "discopop_tau": POSITIVE,
    "ld_alpha": SHARE,
}

GENERATION_CHOICES = {
    "loss_type": (None, "grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "scale_rewards": ("group", "batch", "none", True, False),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("server", "colocate"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}
DPO_LOSSES = (
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
)
DPO_CHOICES = {
    "loss_type": DPO_LOSSES,
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    "truncation_mode": ("keep_start", "keep_end"),
}


def check_generation_fields(config: Any) -> None:
    """Raises `ValueError`, naming field, value and range, for a config of an online trainer."""
    check_ranges(config, TRAINING | GENERATION)
    check_choices(config, GENERATION_CHOICES)
    _check_duration(config)


def check_preference_fields(config: Any) -> None:
    """Raises `ValueError`, naming field, value and range, for a config of DPO or of a reward model."""
    is_dpo = hasattr(config, "f_divergence_type")
    check_ranges(config, TRAINING | PREFERENCES | (DPO if is_dpo else {}))
    _check_duration(config)
    if is_dpo:
        check_choices(config, DPO_CHOICES)
        _check_loss_weights(config.loss_weights)


def check_ranges(config: Any, ranges: Mapping[str, Range]) -> None:
    """Raises `ValueError` for the first field outside its range; `None` is fine where it is the default."""
    for own in fields(config):
        if own.name not in ranges:
            continue
        value, allowed = getattr(config, own.name), ranges[own.name]
        if value is None and (own.default is None or allowed.none):
            continue
        if not allowed.holds(value):
            raise ValueError(f"`{own.name}` must be {allowed}, got {value!r}.")


def check_choices(config: Any, choices: Mapping[str, tuple]) -> None:
    """Raises `ValueError` for the first value that is none of its field's choices; of a list, each counts."""
    names = {own.name for own in fields(config)}
    for name, allowed in choices.items():
        if name not in names:
            continue
        value = getattr(config, name)
        wrong = [one for one in (value if isinstance(value, list) else [value]) if one not in allowed]
        if wrong:
            listed = [one for one in allowed if one is not None and not isinstance(one, bool)]
            raise ValueError(f"`{name}` must be one of {listed}, got {wrong[0]!r}.")


def _check_duration(config: Any) -> None:
    if config.max_steps <= 0 and not config.num_train_epochs > 0:
        raise ValueError(
            f"`num_train_epochs` must be above 0, got {config.num_train_epochs}: an untrained model would be saved. "
            "Set it, or `max_steps`."
        )


def _check_loss_weights(weights: Any) -> None:
    if weights is not None and not (all(math.isfinite(one) and one >= 0 for one in weights) and any(weights)):
        raise ValueError(f"`loss_weights` must not be negative, and one of them above 0, got {weights}.")


def _plain(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"
