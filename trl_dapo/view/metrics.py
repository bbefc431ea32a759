"""
Which of a run's sixty numbers are looked at, by trainer: what it is about first, its loss last.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Literal


Form = Literal["share", "number", "whole", "power"]


@dataclass(frozen=True)
class Metric:
    """
    A number that is shown.

    Args:
        label (`str`):
            What it is called on the screen.
        names (`tuple[str, ...]`):
            Its names in the log; the first that is there counts.
        form (`str`, *optional*, defaults to `"number"`):
            `"share"` for three decimals, `"number"` for three significant digits, `"whole"` for no decimals, and
            `"power"` for a power of ten.
    """

    label: str
    names: tuple[str, ...]
    form: Form = "number"

    def of(self, entry: dict[str, Any]) -> float | None:
        """Returns its value in a log, `None` where there is none that is finite."""
        for name in self.names:
            value = entry.get(name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
        return None


ACCURACY = Metric("accuracy", ("dapo/accuracy_generated",), "share")
REWARD = Metric("reward", ("reward",))
INFORMATIVE = Metric("informative", ("dapo/frac_informative",), "share")
SAME_REWARD = Metric("same reward", ("frac_reward_zero_std",), "share")
SAMPLES = Metric("per group", ("dapo/samples_per_informative_group",))
ENTROPY = Metric("entropy", ("entropy",))
LENGTH = Metric("length", ("dapo/mean_length_generated", "completions/mean_length"), "whole")
TRUNCATED = Metric("truncated", ("dapo/overlong_frac", "completions/clipped_ratio"), "share")
CLIP_HIGH = Metric("clip high", ("clip_ratio/high_mean",))
CLIP_LOW = Metric("clip low", ("clip_ratio/low_mean",))
GRADIENT = Metric("gradient", ("grad_norm",))
RATE = Metric("lr", ("learning_rate",), "power")
LOSS = Metric("loss", ("loss",))

_END = (GRADIENT, RATE, LOSS)
_DAPO = (
    ACCURACY,
    REWARD,
    INFORMATIVE,
    SAMPLES,
    ENTROPY,
    LENGTH,
    TRUNCATED,
    CLIP_HIGH,
    CLIP_LOW,
    Metric("kl", ("kl",)),
    *_END,
)
_GRPO = (REWARD, SAME_REWARD, ENTROPY, LENGTH, TRUNCATED, CLIP_HIGH, CLIP_LOW, Metric("kl", ("kl",)), *_END)
_PPO = (
    REWARD,
    Metric("explained", ("value/explained_variance",)),
    Metric("value loss", ("loss/value",)),
    Metric("kl", ("objective/kl",)),
    ENTROPY,
    LENGTH,
    TRUNCATED,
    CLIP_HIGH,
    CLIP_LOW,
    *_END,
)
_DPO = (
    Metric("accuracy", ("rewards/accuracies",), "share"),
    Metric("margin", ("rewards/margins",)),
    Metric("chosen", ("rewards/chosen",)),
    Metric("rejected", ("rewards/rejected",)),
    Metric("advantage", ("implicit_advantage/mean",)),
    ENTROPY,
    *_END,
)
_REWARD = (
    Metric("accuracy", ("accuracy",), "share"),
    Metric("margin", ("margin",)),
    Metric("mean reward", ("mean_reward",)),
    Metric("lowest", ("min_reward",)),
    Metric("highest", ("max_reward",)),
    *_END,
)
_OTHER = (REWARD, ENTROPY, *_END)

_BY_CONFIG = {
    "DAPOConfig": ("DAPO", _DAPO),
    "PPOConfig": ("PPO", _PPO),
    "GRPOConfig": ("GRPO", _GRPO),
    "RLOOConfig": ("RLOO", _GRPO),
    "DPOConfig": ("DPO", _DPO),
    "RewardConfig": ("Reward model", _REWARD),
}


def metrics_of(args: Any) -> tuple[str, tuple[Metric, ...]]:
    """Returns what a run is called and which metrics it shows, from the class of its config."""
    for cls in type(args).__mro__:
        if cls.__name__ in _BY_CONFIG:
            return _BY_CONFIG[cls.__name__]
    return "Training", _OTHER


def held_out_metrics(entry: dict[str, Any]) -> list[Metric]:
    """Returns the metrics of an evaluation that are shown: avg@k and maj@k of each data set, reward and accuracy."""
    found = []
    for name in (name for name in entry if name.startswith("eval_")):
        asked = re.fullmatch(r"eval_(?:(.+)_)?((?:avg|maj)@\d+)", name)
        if asked is not None:
            label = " ".join(filter(None, (asked[1], asked[2])))
            found.append(Metric(label, (name,), "share"))
        elif name in ("eval_reward", "eval_accuracy", "eval_rewards/accuracies"):
            found.append(Metric(name.rpartition("/")[2].removeprefix("eval_") + ", held out", (name,), "share"))
    return found or ([Metric("loss, held out", ("eval_loss",))] if "eval_loss" in entry else [])


def shown(value: float, form: Form = "number") -> str:
    """
    Returns a number as it is shown.

    ```python
    >>> shown(0.53125, "share"), shown(0.0123), shown(1234.5), shown(141.6, "whole"), shown(1e-6, "power")
    ('0.531', '0.0123', '1230', '142', '1.0e-06')

    ```
    """
    if form == "share":
        return f"{value:.3f}"
    if form == "whole":
        return f"{value:.0f}"
    if form == "power" or (value and not 1e-4 <= abs(value) < 1e6):
        return f"{value:.1e}"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 2
    return f"{round(value, digits):.{max(digits, 0)}f}"
