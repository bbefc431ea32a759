"""
Not finite: loss or gradient is NaN or infinite.
"""

import math

from ..observations import Observations
from ..rule import Rule, Symptom
from ..settings import Settings


KEYS = ("grad_norm", "loss")
SCALING = 10  # logs in which float16 looks for its loss scale


def _watches(seen: Observations) -> str | None:
    # Also before there was any finite value, which is all that `keys` knows
    return next((key for key in KEYS if key in seen.row.values), None)


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    wrong = [key for key in KEYS if not math.isfinite(seen.row.values.get(key, 0.0))]
    if not wrong or (settings.get("fp16") and len(seen.series("loss")) < SCALING):
        return None
    return Symptom(
        seen.row.step,
        f"{wrong[0]} is {seen.row.values[wrong[0]]}.",
        {"finite_before": float(len(seen.series(wrong[0])))},
        ("bf16=True", "learning_rate=a third"),
    )


RULE = Rule(
    name="not_finite",
    watches=_watches,
    needs="`grad_norm` or `loss`",
    look=_look,
    minimum=1,
    patience=2,
    advice="Resume from the checkpoint before it, in bfloat16 or float32, with a lower learning rate: weights that "
    "were updated with NaN are lost.",
    reference="docs/diagnosis.md",
    of_rollouts=False,
)
