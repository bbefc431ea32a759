"""Rows of a rollout: a row's fields travel together, from the host into rows, between ranks, and back to the host."""

import copy
import io
import pickle
from dataclasses import fields
from datetime import date
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_dapo.dapo.sampling import rollouts
from trl_dapo.dapo.sampling.rollouts import (
    Round,
    Row,
    images_in,
    merged_extra_logs,
    merged_generation,
    own_rows,
    weighted_means,
)


def row(number: int, **values) -> Row:
    """A row whose every field says `number`, with `number % 3 + 1` tokens."""
    length = number % 3 + 1
    defaults = {
        "inputs": {"prompt": f"p{number}", "answer": number},
        "prompt": f"p{number}",
        "prompt_ids": [number],
        "completion_ids": [number] * length,
        "completion": f"c{number}",
        "tool_mask": None,
        "logprobs": [-float(number)] * length,
        "images": None,
        "tool_images": [],
    }
    return Row(**{**defaults, **values})


# -------------------------------------------------------------------------------------------------------- a single row


def test_trained_length_counts_the_tokens_of_the_policy():
    assert row(0, completion_ids=[5, 6, 7]).trained_length == 3
    assert row(0, completion_ids=[5, 6, 7, 8], tool_mask=[1, 0, 0, 1]).trained_length == 2
    assert row(0, completion_ids=[]).trained_length == 0


def test_replay_inputs_hold_the_prompt_as_it_went_into_generation():
    inputs = {"prompt": "before", "image": "i", "images": ["j"], "answer": 3}
    replayed = row(0, inputs=inputs, prompt="with what the environment added").replay_inputs()
    assert replayed == {"prompt": "with what the environment added", "answer": 3}
    assert inputs == {"prompt": "before", "image": "i", "images": ["j"], "answer": 3}


# ----------------------------------------------------------------------------------------------------------- recording


def test_what_the_host_generated_is_split_into_rows():
    finished = Round(keeps_going=False)
    generation = (
        [[1], [2, 2]],
        [[3], [4, 4]],
        [[1], [1, 0]],
        ["c", "d"],
        [[-0.1], [-0.2, -0.3]],
        {"ignored": [8, 9]},
        [["i"], None],
        [[], ["t"]],
    )
    finished.record_generation(["p", "q"], generation)
    assert finished.rows == [
        Row({}, "p", [1], [3], "c", [1], [-0.1], ["i"], []),
        Row({}, "q", [2, 2], [4, 4], "d", [1, 0], [-0.2, -0.3], None, ["t"]),
    ]


def test_what_the_host_left_out_stays_out():
    finished = Round(keeps_going=False)
    finished.record_generation(["p"], ([[1]], [[3]], None, ["c"], None, {}, None, []))
    assert finished.rows == [Row({}, "p", [1], [3], "c", None, None, None, [])]


def test_inputs_and_environments_are_attached_row_by_row():
    finished = Round(keeps_going=False, rows=[row(0), row(1)])
    environments = [object(), object()]
    finished.record_inputs([{"prompt": "p0", "x": 1}, {"prompt": "p1", "x": 2}], environments)
    assert [one.inputs["x"] for one in finished.rows] == [1, 2]
    assert [one.environment for one in finished.rows] == environments
    finished.record_inputs([{"prompt": "p0"}, {"prompt": "p1"}], None)
    assert [one.environment for one in finished.rows] == [None, None]


def conversation(*images: str) -> list[dict]:
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}]


@pytest.mark.parametrize("column", ["image", "images"])
def test_images_of_the_dataset_are_found_where_the_host_returns_none(column):
    finished = Round(keeps_going=False, rows=[row(0, prompt=conversation("i", "j"), images=None)])
    finished.record_inputs([{column: "whatever", "prompt": "?"}], None)
    assert finished.rows[0].images == ["i", "j"]


def test_images_of_the_host_stay():
    finished = Round(keeps_going=False, rows=[row(0, prompt=conversation("i"), images=["from the host"])])
    finished.record_inputs([{"image": "i", "prompt": "?"}], None)
    assert finished.rows[0].images == ["from the host"]


def test_a_row_without_image_columns_has_no_images():
    finished = Round(keeps_going=False, rows=[row(0, prompt=conversation("i"), images=None)])
    finished.record_inputs([{"prompt": "?"}], None)
    assert finished.rows[0].images is None


@pytest.mark.parametrize(
    ("prompt", "images"),
    [
        ("text", None),
        ([{"role": "user", "content": "text"}], None),
        ([{"role": "user"}], None),
        (conversation(), None),
        (conversation("i"), ["i"]),
        ([*conversation("i", "j"), {"role": "assistant", "content": "text"}, *conversation("k")], ["i", "j", "k"]),
    ],
)
def test_images_inside_a_prompt_are_found_in_order(prompt, images):
    assert images_in(prompt) == images


def test_extra_logs_are_attached_where_they_fit_the_rows():
    finished = Round(keeps_going=False, rows=[row(0), row(1)])
    left_out = finished.record_extra_logs({"a": [1, 2], "short": [1], "long": [1, 2, 3], "b": ["x", None]})
    assert left_out == ["long", "short"]
    assert [one.extra_logs for one in finished.rows] == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


def test_rounds_do_not_share_their_containers():
    first, second = Round(keeps_going=False), Round(keeps_going=False)
    first.rows.append(row(0))
    first.host_metrics["a"] = [1.0]
    first.user_metrics["a"] = [1.0]
    assert (second.rows, second.host_metrics, second.user_metrics) == ([], {}, {})


# ----------------------------------------------------------------------------------------------------- in a checkpoint


def saved_and_loaded(finished: Round) -> Round:
    file = io.BytesIO()
    torch.save(finished.state_dict(), file)
    file.seek(0)
    return Round.from_state_dict(torch.load(file, weights_only=True))


TENSORS = ("rewards", "lengths", "truncated", "steps")


def assert_same(loaded: Round, finished: Round) -> None:
    assert type(loaded) is Round
    assert loaded.rows == finished.rows
    for name in TENSORS:
        torch.testing.assert_close(getattr(loaded, name), getattr(finished, name), rtol=0, atol=0, equal_nan=True)
    for one in fields(Round):
        if one.name not in ("rows", *TENSORS):
            assert getattr(loaded, one.name) == getattr(finished, one.name)


def test_a_round_is_the_same_after_a_checkpoint():
    # Every field differs from its default
    finished = Round(
        keeps_going=True,
        rows=[
            row(1, tool_mask=[1, 0], extra_logs={"note": "x", "score": 0.5}, behaviour_logps=[-0.25, -1.5]),
            row(2, prompt=[{"role": "user", "content": "?"}], images=["i"], logprobs=None),
        ],
        rewards=torch.tensor([[1.0, float("nan")], [0.1, -0.5]]),
        lengths=torch.tensor([1, 3]),
        truncated=torch.tensor([False, True]),
        steps=torch.tensor([12, 14]),
        prompts=[(7, 0), ("0f3a", 2)],
        carried=True,
        host_metrics={"tools/call_frequency": [0.5]},
        user_metrics={"formatted": [1.0, 0.0]},
    )
    loaded = saved_and_loaded(finished)
    assert_same(loaded, finished)
    assert all(type(one) is Row for one in loaded.rows)
    assert loaded.rows[0].behaviour_logps == [-0.25, -1.5]


def test_a_round_without_rows_is_the_same_after_a_checkpoint():
    assert_same(saved_and_loaded(Round(keeps_going=False)), Round(keeps_going=False))


def test_a_loaded_round_shares_no_row_with_the_saved_one():
    finished = Round(keeps_going=False, rows=[row(0)])
    state = finished.state_dict()
    loaded = Round.from_state_dict(state)
    loaded.rows[0].behaviour_logps = [-1.0]
    assert finished.rows[0].behaviour_logps is None
    # A state can be loaded again
    assert_same(Round.from_state_dict(state), finished)


def test_rows_of_text_are_plain():
    conversation_row = row(
        1,
        inputs={
            "prompt": [{"role": "user", "content": "?"}],
            "answer": 3,
            "weights": [0.5, None],
            "tensor": torch.ones(2),
        },
        extra_logs={"note": "x"},
        behaviour_logps=[-0.5, -0.5],
    )
    assert row(0).is_plain
    assert conversation_row.is_plain


@pytest.mark.parametrize(
    "values",
    [
        {"environment": object()},
        {"images": [object()]},
        {"tool_images": ["even one that could be saved"]},
        {"inputs": {"prompt": "p", "when": date(2025, 3, 1)}},
        {"prompt": [{"role": "user", "content": [{"type": "image", "image": object()}]}]},
        {"extra_logs": {"note": object()}},
    ],
    ids=lambda values: next(iter(values)),
)
def test_rows_with_other_objects_are_not_plain(values):
    assert not row(0, **values).is_plain


# --------------------------------------------------------------------------------------------------------------- merge


def test_merged_rows_are_what_generation_would_have_returned():
    rows = [row(1), row(3)]
    assert merged_generation(rows, [False, False]) == (
        [[1], [3]],
        [[1, 1], [3]],
        None,
        ["c1", "c3"],
        [[-1.0, -1.0], [-3.0]],
        {},
        None,
        [[], []],
    )


def test_tokens_of_fillers_are_marked_as_not_generated():
    generation = merged_generation([row(1), row(2), row(3)], [False, True, False])
    assert generation[2] == [[1, 1], [0, 0, 0], [1]]
    assert generation[1] == [[1, 1], [2, 2, 2], [3]]


def test_a_tool_mask_of_some_rows_gives_all_rows_one():
    # A round without a tool call has no mask, a round with one has; a filler loses even its own tokens
    rows = [row(2, tool_mask=[1, 0, 1]), row(1), row(2, tool_mask=[1, 1, 0])]
    assert merged_generation(rows, [False, False, False])[2] == [[1, 0, 1], [1, 1], [1, 1, 0]]
    assert merged_generation(rows, [False, False, True])[2] == [[1, 0, 1], [1, 1], [0, 0, 0]]


def test_logprobs_are_returned_where_every_row_has_them():
    assert merged_generation([row(1), row(2, logprobs=None)], [False, False])[4] is None
    assert merged_generation([row(1), row(2)], [False, True])[4] == [[-1.0, -1.0], [-2.0, -2.0, -2.0]]


def test_images_of_some_rows_give_all_rows_an_entry():
    rows = [row(1), row(2, images=["i"]), row(3)]
    assert merged_generation(rows, [False] * 3)[6] == [None, ["i"], None]


def test_images_of_tools_stay_with_their_rows():
    assert merged_generation([row(1, tool_images=["t"]), row(2)], [False] * 2)[7] == [["t"], []]


def test_merging_needs_a_verdict_for_each_row():
    with pytest.raises(ValueError, match="zip"):
        merged_generation([row(1), row(2)], [True])


def test_merging_leaves_the_rows_alone():
    rows = [row(2, tool_mask=[1, 0, 1]), row(1)]
    before = copy.deepcopy(rows)
    merged_generation(rows, [True, True])
    assert rows == before


def optional(strategy):
    return st.none() | strategy


@st.composite
def generated_rows(draw) -> list[Row]:
    """Rows as the host can return them: a field is there for all rows of a round or for none, images row by row."""
    masked, scored, imaged = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    rows = []
    for number in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, 4))
        ids = st.lists(st.integers(0, 9), min_size=length, max_size=length)
        mask = draw(st.lists(st.integers(0, 1), min_size=length, max_size=length))
        rows.append(
            row(
                number,
                inputs={},
                prompt_ids=draw(st.lists(st.integers(0, 9), max_size=3)),
                completion_ids=draw(ids),
                tool_mask=mask if masked else None,
                logprobs=[-0.5] * length if scored else None,
                images=["i"] if imaged and (number == 0 or draw(st.booleans())) else None,
                tool_images=["t"] * draw(st.integers(0, 2)),
            )
        )
    return rows


@settings(deadline=None)
@given(generated_rows())
def test_merge_then_slice_is_identity(rows):
    finished = Round(keeps_going=False)
    finished.record_generation([one.prompt for one in rows], merged_generation(rows, [False] * len(rows)))
    assert finished.rows == rows


@settings(deadline=None)
@given(generated_rows())
def test_generated_rows_are_the_same_after_a_checkpoint(rows):
    finished = Round(keeps_going=False, rows=rows, rewards=torch.ones(len(rows), 1))
    assert_same(saved_and_loaded(finished), finished)


@settings(deadline=None)
@given(generated_rows(), st.data())
def test_merging_chosen_rows_is_choosing_from_all(rows, data):
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
    some = merged_generation([rows[number] for number in chosen], [False] * len(chosen))
    for part, whole in zip(some, merged_generation(rows, [False] * len(rows)), strict=True):
        if isinstance(part, list) and part is not some[6]:
            assert part == [whole[number] for number in chosen]


def test_extra_logs_of_all_rounds_have_all_columns():
    rows = [row(0, extra_logs={"b": 1}), row(1, extra_logs={"a": 2, "b": 3}), row(2)]
    merged = merged_extra_logs(rows)
    assert merged == {"a": [None, 2, None], "b": [1, 3, None]}
    assert list(merged) == ["a", "b"]
    assert merged_extra_logs([row(0)]) == {}


# --------------------------------------------------------------------------------------------------------------- ranks


class _Sent(Exception):
    pass


def exchange(monkeypatch, calls: list) -> list:
    """Calls one function per rank with `gather_object` between them; what is sent goes through pickle."""
    parcels = []

    def record(parcel):
        parcels.append(pickle.dumps(parcel))
        raise _Sent

    monkeypatch.setattr(rollouts, "gather_object", record)
    for call in calls:
        try:
            call()
        except _Sent:
            continue
    # A rank that does not take part would leave the others waiting for ever
    assert len(parcels) in (0, len(calls))
    monkeypatch.setattr(rollouts, "gather_object", lambda own: [one for p in parcels for one in pickle.loads(p)])
    return [call() for call in calls]


def spread(sources: list[tuple[int, int]], ranks: int) -> list[list[Row | None]]:
    """For each rank, the rows of a batch that it generated; row `n` says `n`."""
    return [[row(n) if source == rank else None for n, (source, _) in enumerate(sources)] for rank in range(ranks)]


def test_rows_that_stay_are_neither_sent_nor_copied(monkeypatch):
    def forbidden(parcel):
        raise AssertionError("nothing has to move")

    monkeypatch.setattr(rollouts, "gather_object", forbidden)
    environment = object()
    rows = [row(0, environment=environment), row(1)]
    mine = own_rows([*rows, None], [(0, 0), (0, 0), (1, 1)], rank=0)
    assert mine[0] is rows[0]
    assert mine[1] is rows[1]
    assert mine[0].environment is environment


def test_rows_move_to_the_rank_that_trains_on_them(monkeypatch):
    sources = [(0, 0), (1, 0), (0, 1), (1, 1)]
    held = spread(sources, 2)
    calls = [lambda rank=rank: own_rows(held[rank], sources, rank) for rank in range(2)]
    assert exchange(monkeypatch, calls) == [[row(0), row(1)], [row(2), row(3)]]


def test_environments_do_not_travel(monkeypatch):
    sources = [(0, 1), (1, 0)]
    held = [[row(0, environment=lambda: "cannot be pickled"), None], [None, row(1, environment=lambda: None)]]
    first, second = exchange(monkeypatch, [lambda rank=rank: own_rows(held[rank], sources, rank) for rank in range(2)])
    assert first == [row(1)]
    assert second == [row(0)]
    assert held[0][0].environment() == "cannot be pickled"


def test_a_rank_with_nothing_to_send_takes_part(monkeypatch):
    # Rank 2 generated nothing that moves, and receives nothing
    sources = [(0, 1), (1, 0), (2, 2)]
    held = spread(sources, 3)
    calls = [lambda rank=rank: own_rows(held[rank], sources, rank) for rank in range(3)]
    assert exchange(monkeypatch, calls) == [[row(1)], [row(0)], [row(2)]]


@settings(deadline=None)
@given(st.integers(1, 3), st.data())
def test_every_row_arrives_where_it_is_trained_on(ranks, data):
    ends = st.tuples(st.integers(0, ranks - 1), st.integers(0, ranks - 1))
    sources = data.draw(st.lists(ends, max_size=12))
    held = spread(sources, ranks)
    with pytest.MonkeyPatch.context() as monkeypatch:
        calls = [lambda rank=rank: own_rows(held[rank], sources, rank) for rank in range(ranks)]
        arrived = exchange(monkeypatch, calls)
    for rank in range(ranks):
        assert arrived[rank] == [row(n) for n, (_, target) in enumerate(sources) if target == rank]
    assert sorted(one.prompt_ids[0] for one in chain(*arrived)) == list(range(len(sources)))


# ------------------------------------------------------------------------------------------------------------- metrics


def test_weighted_means_weigh_each_rounds_mean():
    # (1 + 3) / 2 = 2 with weight 6, and 5 with weight 2: (12 + 10) / 8
    assert weighted_means([({"a": [1.0, 3.0]}, 6), ({"a": [5.0]}, 2)]) == {"a": 2.75}


def test_a_name_is_averaged_over_the_rounds_that_logged_it():
    # a: round 1 alone; b: (2 * 1 + 6 * 3) / 4
    means = weighted_means([({"a": [1.0], "b": [2.0]}, 1), ({"b": [6.0], "c": []}, 3)])
    assert means == {"a": 1.0, "b": 5.0}


def test_a_round_of_weight_zero_does_not_count():
    assert weighted_means([({"a": [1.0]}, 0), ({"a": [5.0]}, 2)]) == {"a": 5.0}


def test_rounds_count_alike_where_all_weights_are_zero():
    # Nothing of either round was kept; the number is still reported
    assert weighted_means([({"a": [1.0]}, 0), ({"a": [4.0]}, 0)]) == {"a": 2.5}


def test_no_rounds_have_no_means():
    assert weighted_means([]) == {}
    assert weighted_means([({}, 1)]) == {}


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 9)), min_size=1, max_size=5))
def test_a_mean_lies_between_the_rounds(pairs):
    mean = weighted_means([({"a": [value]}, weight) for value, weight in pairs])["a"]
    values = [value for value, _ in pairs]
    assert min(values) - 1e-9 <= mean <= max(values) + 1e-9
