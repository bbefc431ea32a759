"""
What is sampled: the protocol of an evaluation, its batches, and the seed of each draw.
"""

import hashlib
import math
from dataclasses import dataclass
from itertools import pairwise


# As in the paper (section 4.1): avg@32 at temperature 1.0 and top-p 0.7
K, TEMPERATURE, TOP_P = 32, 1.0, 0.7
# The paper's 20,480 tokens are hours for a small model; a share of truncated completions tells when more are needed
MAX_NEW_TOKENS = 4096
BATCH_SIZE = 64
VLLM_BATCH_SIZE = 1024  # vLLM makes batches of its own, as its memory allows
SEEDS = 2**52  # exact in every reader of JSON


@dataclass(frozen=True)
class Protocol:
    """
    How completions are sampled.

    Args:
        k (`int`, *optional*, defaults to `32`):
            Completions per question.
        temperature (`float`, *optional*, defaults to `1.0`):
            Sampling temperature; 0 is greedy, and then k must be 1.
        top_p (`float`, *optional*, defaults to `0.7`):
            Share of the probability that is sampled from. Top-k is not applied.
        max_new_tokens (`int`, *optional*, defaults to `4096`):
            Most tokens per completion.
        seed (`int`, *optional*, defaults to `0`):
            Seed of all draws.
        batch_size (`int`, *optional*, defaults to `64`):
            Completions sampled at once. With transformers, the draws depend on it.

    Raises:
        `ValueError`: If a value cannot be sampled with.
    """

    k: int = K
    temperature: float = TEMPERATURE
    top_p: float = TOP_P
    max_new_tokens: int = MAX_NEW_TOKENS
    seed: int = 0
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        for name in ("k", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is needed.")
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature}: a finite number of at least 0 is needed.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p={self.top_p}: a share above 0, at most 1, is needed. 1 samples from all tokens.")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed}: a number of at least 0 is needed.")
        if self.temperature == 0.0 and self.k > 1:
            raise ValueError(
                f"temperature=0 with k={self.k}: greedy decoding gives the same completion {self.k} times. Set k "
                "to 1, or temperature above 0."
            )


@dataclass(frozen=True)
class Batch:
    """What is sampled at once: some samples of some questions, by position."""

    questions: range
    samples: range

    @property
    def rows(self) -> list[tuple[int, int]]:
        """Question and sample of each row; the samples of a question lie together."""
        return [(question, sample) for question in self.questions for sample in self.samples]


def plan(questions: int, k: int, batch_size: int) -> list[Batch]:
    """
    Returns the batches that hold k samples of each question, of about equal size and none above `batch_size`.

    A batch holds whole questions, or a part of the samples of one. It depends on these three numbers alone, so a run
    that is taken up again, or shared among processes, has the same batches.
    """
    if k > batch_size:
        return [Batch(range(one, one + 1), part) for one in range(questions) for part in _parts(k, batch_size)]
    return [Batch(part, range(k)) for part in _parts(questions, batch_size // k)]


def _parts(total: int, largest: int) -> list[range]:
    count = -(-total // largest)
    bounds = [total * part // count for part in range(count + 1)] if count else [0]
    return [range(start, end) for start, end in pairwise(bounds)]


def seed_of(seed: int, data_set: str, question_id: str, sample: int) -> int:
    """Returns the seed of a draw, a function of these four alone."""
    text = "\0".join((str(seed), data_set, question_id, str(sample)))
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") % SEEDS
