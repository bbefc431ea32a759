"""
The coefficient of the KL penalty, fixed or adapted to hold a divergence.
"""

from typing import Any

from .estimation import adapted_kl_coef


class KLCoefficient:
    """
    Coefficient of the KL divergence in the reward.

    Args:
        start (`float`):
            First value.
        target (`float`, *optional*):
            KL divergence per completion to hold. By default the coefficient stays what it is.
        horizon (`int`):
            Completions over which it can change by a factor of about `e^0.2`.

    Attributes:
        value (`float`):
            What it is now.
    """

    def __init__(self, start: float, target: float | None, horizon: int) -> None:
        self.value, self._target, self._horizon = start, target, horizon

    def adapt(self, kl: float, completions: int) -> None:
        """Moves the coefficient after a rollout of so many completions, of which `kl` is the mean divergence."""
        if self._target is not None:
            self.value = adapted_kl_coef(self.value, kl, self._target, completions, self._horizon)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]
