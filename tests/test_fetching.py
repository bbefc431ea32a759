"""Rows of a rollout are fetched once, and not at all where a stream serves the prompts."""

import pytest
from datasets import Dataset
from trl import GRPOTrainer

from tiny import parity_reward, plain_dataset
from training import assert_same_run, dapo_args, host_args, train
from trl_dapo import DAPOTrainer
from trl_dapo.dapo.config import TOGGLES
from trl_dapo.host.fetching import EmptyRows, FetchedOnce


class Counted:
    """Rows by number, and the list of fetches."""

    def __init__(self):
        self.fetches = []

    def __len__(self):
        return 9

    def __getitem__(self, index):
        return {"number": index}

    def __getitems__(self, indices):
        self.fetches.append(list(indices))
        return [{"number": index} for index in indices]


def test_the_same_rows_are_fetched_once():
    source = Counted()
    dataset = FetchedOnce(source, times=3)
    for indices in ([1, 1, 2], [1, 1, 2], [1, 1, 2], [4, 0, 0]):
        assert [row["number"] for row in dataset.__getitems__(indices)] == indices
    assert source.fetches == [[1, 1, 2], [4, 0, 0]]
    assert len(dataset) == 9
    assert dataset[5] == {"number": 5}


def test_the_next_rollout_has_fresh_rows_even_if_they_are_the_same():
    source = Counted()
    dataset = FetchedOnce(source, times=2)
    first = dataset.__getitems__([1])
    first[0]["added"] = "by a reader"
    assert dataset.__getitems__([1]) == [{"number": 1}]
    assert dataset.__getitems__([1]) == [{"number": 1}]
    assert source.fetches == [[1], [1]]


def test_places_have_a_length_and_no_rows():
    assert len(EmptyRows(7)) == 7
    assert EmptyRows(7)[3] == {}


def count_rows(monkeypatch):
    """Counts the rows that are read from any dataset."""
    read = []
    host = Dataset.__getitems__
    monkeypatch.setattr(Dataset, "__getitems__", lambda self, keys: read.append(len(keys)) or host(self, keys))
    return read


@pytest.mark.parametrize("fields", [{}, {"num_iterations": 2}, {"gradient_accumulation_steps": 2}], ids=str)
def test_a_rollout_is_fetched_once_and_training_is_trls(tmp_path, monkeypatch, fields):
    config = dapo_args(tmp_path, **{**dict.fromkeys(TOGGLES, False), "max_steps": 8, **fields})
    counts, runs = [], []
    for cls, args in ((DAPOTrainer, config), (GRPOTrainer, host_args(config))):
        read = count_rows(monkeypatch)
        runs.append(train(cls, args, reward_funcs=parity_reward, train_dataset=plain_dataset(64)))
        counts.append(len(read))
        monkeypatch.undo()
    assert_same_run(*runs)
    steps = config.steps_per_generation * config.num_iterations
    # The loader reads one batch ahead
    assert counts == [runs[0].generations + 1, runs[0].generations * steps + 1]


def test_with_dynamic_sampling_the_loader_fetches_nothing(tmp_path, monkeypatch):
    read = count_rows(monkeypatch)
    run = train(
        DAPOTrainer, dapo_args(tmp_path, max_steps=4), reward_funcs=parity_reward, train_dataset=plain_dataset(64)
    )
    assert read == []
    assert run.generations > 1
    assert len(run.trainer.train_dataset) == 64
    assert run.trainer.train_dataset[0]["prompt"] == "0+1="
