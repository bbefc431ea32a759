"""
TRL's log-prob head as a pass calls it: on the CPU all columns through PyTorch, on a GPU completions through Triton.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

from trl_dapo.host.host_names import HEAD_MODULE, HEAD_TILE_ROWS, HEAD_TILES, TESTED


class NoTracedHead(RuntimeError):
    """The installed TRL has no log-prob head that can be traced."""


# Columns of the vocabulary in a tile, as `add_fused_lm_head` sets them
TILE = 2**15

# What a trainer asks of the head; DPO logs more of it
_DPO = ("log_probs", "entropy", "mean_logits", "is_top1")
_ONLINE = ("log_probs", "entropy")


def fuse_head(model: Any, algorithm: str) -> None:
    """
    Gives a model the head that its trainer gives it, in place.

    Raises:
        [`NoTracedHead`]: If the installed TRL has no such head.
    """
    try:
        from trl.trainer.utils import add_fused_lm_head
    except ImportError as error:
        raise _missing() from error
    add_fused_lm_head(model, outputs=_DPO if algorithm == "dpo" else _ONLINE)


def completion_log_probs(model: Any, hidden: torch.Tensor, ids: torch.Tensor, prompt: int) -> torch.Tensor:
    """
    Returns log-probs of the completions, as where Triton runs: no other column goes to the head.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Without adapter's wrapper.
        hidden (`torch.Tensor`):
            Of the last layer, shape `(B, P + T, H)`.
        ids (`torch.Tensor`):
            Tokens, shape `(B, P + T)`.
        prompt (`int`):
            P, in tokens.
    """
    chunked = _chunked()
    scored = hidden[:, prompt - 1 : -1].reshape(-1, hidden.size(-1))
    head = model.get_output_embeddings()
    targets = ids[:, prompt:].reshape(-1)
    function = chunked.ChunkedLogProbFunction
    return function.apply(scored, head.weight, head.bias, targets, 1.0, TILE, None, 1.0, _ONLINE)[0]


def tile_rows() -> int:
    """Returns how many tokens a tile of the head has."""
    return getattr(_chunked(), HEAD_TILE_ROWS)


@contextmanager
def tiles_of(rows: int) -> Generator[None]:
    """Lets a tile of the head have that many tokens."""
    with patch.object(_chunked(), HEAD_TILE_ROWS, rows):
        yield


@contextmanager
def as_on_a_gpu() -> Generator[None]:
    """Lets the head work as on a GPU: Triton folds a tile in place, and cuBLAS adds in float32 without copies."""

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    with ExitStack() as stack:
        for name in HEAD_TILES:
            stack.enter_context(patch.object(_chunked(), name, nothing))
        yield


def _chunked() -> ModuleType:
    try:
        return import_module(HEAD_MODULE)
    except ImportError as error:
        raise _missing() from error


def _missing() -> NoTracedHead:
    return NoTracedHead(
        f"a plan of memory traces TRL's log-prob head, and TRL {version('trl')} has none in {HEAD_MODULE}. "
        f"TRL {TESTED['trl'].highest} has: pip install 'trl=={TESTED['trl'].highest}'"
    )


__all__ = ["NoTracedHead", "as_on_a_gpu", "completion_log_probs", "fuse_head"]
