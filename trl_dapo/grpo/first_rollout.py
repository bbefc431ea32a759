"""
What the first prompts and the first rollout say about a set-up: a chat model that is given plain text, and completions
that do not end.
"""

from collections.abc import Mapping
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset


logger = get_logger(__name__)

TRUNCATED = "completions/clipped_ratio"
MOST_TRUNCATED = 0.9


def warn_of_plain_prompts(processing_class: Any, dataset: Any) -> None:
    """Says once that an instruct model is given text in place of messages; rows that stream are not looked at."""
    if not isinstance(dataset, Dataset) or not len(dataset) or not getattr(processing_class, "chat_template", None):
        return
    if isinstance(dataset[0].get("prompt"), str):
        logger.warning(
            "The prompts are plain text, and the tokenizer has a chat template: the model sees no user's turn and may "
            'not end its own. For an instruct model, write them as [{"role": "user", "content": ...}].'
        )


class FirstTruncation:
    """Says once whether nearly all completions of the first rollout were truncated."""

    def __init__(self) -> None:
        self._is_known = False

    def look(self, metrics: Mapping[str, list[float]], max_completion_length: int | None) -> None:
        """
        Looks at the first rollout, once there is one.

        Args:
            metrics (`Mapping[str, list[float]]`):
                What the trainer logs, over all processes.
            max_completion_length (`int`):
                Tokens.
        """
        shares = metrics.get(TRUNCATED)
        if self._is_known or not shares:
            return
        self._is_known = True
        if shares[0] >= MOST_TRUNCATED:
            logger.warning(
                f"{shares[0]:.0%} of the first completions were truncated at max_completion_length="
                f"{max_completion_length}. Look at one: if it runs on after its answer, check chat template and end "
                "token (`eos_token_id`); if not, raise `max_completion_length`."
            )
