"""
No chat template: the tokenizer has one, prompts are plain text, and completions do not end.

TRL applies the template to messages alone. A model that was trained on turns sees none then, and does not end its own.
"""

from ..observations import Observations
from ..prompts import PLAIN
from ..rule import Rule, Symptom
from ..settings import Settings
from ..signals import truncation


SHARE, TRUNCATED = 0.5, 0.5


def _watches(seen: Observations) -> str | None:
    return truncation(seen) if PLAIN in seen.keys else None


def _look(seen: Observations, settings: Settings) -> Symptom | None:
    cut = seen.rollouts(str(truncation(seen)))
    plain = seen.series(PLAIN).values[-1]
    # A base model may have a template that it has never seen: only where it does not end is it missed
    if plain < SHARE or cut.values[-1] < TRUNCATED:
        return None
    return Symptom(
        cut.steps[-1],
        f"{plain:.0%} of the prompts are plain text although the tokenizer has a chat template, and "
        f"{cut.values[-1]:.0%} of the completions do not end.",
        {"plain_prompts": plain, "truncated": cut.values[-1]},
        ('prompt=[{"role": "user", "content": ...}]',),
    )


RULE = Rule(
    name="no_chat_template",
    watches=_watches,
    needs=f"`{PLAIN}`, which DiagnosisCallback logs",
    look=_look,
    minimum=1,
    patience=2,
    advice="Give prompts as messages, so that the chat template is applied and the model ends its turn.",
    reference="docs/datasets.md",
)
