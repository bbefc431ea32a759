"""What is sampled: values that cannot be sampled with, batches, and seeds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_dapo.evaluation.settings import Batch, Protocol, plan, seed_of


def test_the_papers_protocol_is_the_default():
    assert (Protocol().k, Protocol().temperature, Protocol().top_p) == (32, 1.0, 0.7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "k=0: at least 1"),
        ({"top_p": 0.0}, r"top_p=0.0: a share above 0"),
        ({"top_p": 1.1}, r"top_p=1.1"),
        ({"top_p": math.nan}, r"top_p=nan"),
        ({"temperature": -1.0}, r"temperature=-1.0: a finite number"),
        ({"temperature": math.nan}, r"temperature=nan"),
        ({"temperature": math.inf}, r"temperature=inf"),
        ({"temperature": 0.0}, "greedy decoding gives the same completion 32 times"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_cannot_be_sampled_with_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**fields)


def test_a_batch_holds_whole_questions_or_a_part_of_one():
    # 5 questions of 4 samples, 10 at once: 2 questions a batch, so 3 batches, of about equal size
    assert plan(5, 4, 10) == [Batch(range(1), range(4)), Batch(range(1, 3), range(4)), Batch(range(3, 5), range(4))]
    # 5 samples, 3 at once: 2 and 3
    assert plan(2, 5, 3) == [
        Batch(range(1), range(2)),
        Batch(range(1), range(2, 5)),
        Batch(range(1, 2), range(2)),
        Batch(range(1, 2), range(2, 5)),
    ]
    assert plan(5, 4, 10)[1].rows == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 100))
def test_batches_hold_every_sample_once_and_none_is_too_large(questions, k, batch_size):
    batches = plan(questions, k, batch_size)
    rows = [row for batch in batches for row in batch.rows]
    assert rows == [(question, sample) for question in range(questions) for sample in range(k)]
    assert max(len(batch.rows) for batch in batches) <= batch_size


def test_a_seed_is_a_function_of_all_that_it_is_given():
    seeds = {
        seed_of(0, "a", "q", 0),
        seed_of(1, "a", "q", 0),
        seed_of(0, "b", "q", 0),
        seed_of(0, "a", "r", 0),
        seed_of(0, "a", "q", 1),
        seed_of(0, "aq", "", 0),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 2**52 for seed in seeds)
    # Of `printf '0\\0aime-2024\\00060\\0000' | sha256sum`, the first 8 bytes modulo 2^52
    assert seed_of(0, "aime-2024", "60", 0) == 1959751389801017
