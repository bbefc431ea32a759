"""All rounds of a rollout as one table of groups: every chosen row comes from the rank and the round that made it."""

import pickle
from itertools import chain
from math import gcd

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_dapo.dapo.sampling import rollouts
from trl_dapo.dapo.sampling.candidates import Candidates
from trl_dapo.dapo.sampling.groups import Selection, Verdicts, select_groups
from trl_dapo.dapo.sampling.rollouts import Round, Row


def row(number: int) -> Row:
    """The row of this number over all rounds and ranks; every field says so."""
    return Row(
        inputs={"answer": number},
        prompt=f"p{number}",
        prompt_ids=[number],
        completion_ids=[number, number],
        completion=f"c{number}",
        tool_mask=None,
        logprobs=None,
        images=None,
        tool_images=[],
        environment=object(),
    )


def verdicts(letters: str) -> Verdicts:
    """`I`nformative, all `C`orrect, all `W`rong, or `-`: one letter per group."""
    return Verdicts(*(torch.tensor([letter == kind for letter in letters]) for kind in "ICW"))


def world(rounds: list[str], generations: int, ranks: int = 1, carried: bool = False) -> list[Candidates]:
    """
    One table per rank, of rounds such as "IWC" with one letter per group, the first one `carried` or not. Over all
    rounds and ranks rows are numbered in order; the reward, the length and the prompt of a row are its number, and its
    step and the epoch of its group's prompt the number of its round.
    """
    tables = [Candidates(generations, ranks) for _ in range(ranks)]
    first = 0
    for index, letters in enumerate(rounds):
        count = len(letters) * generations
        numbers = list(range(first, first + count))
        share = count // ranks
        for rank, table in enumerate(tables):
            table.add(
                Round(
                    keeps_going=False,
                    rows=[row(number) for number in numbers[rank * share : (rank + 1) * share]],
                    rewards=torch.tensor(numbers, dtype=torch.float32).unsqueeze(1),
                    lengths=torch.tensor(numbers),
                    truncated=torch.tensor([number % 2 == 1 for number in numbers]),
                    steps=torch.full((count,), index),
                    prompts=[(f"prompt of {first + group * generations}", index) for group in range(len(letters))],
                    carried=carried and index == 0,
                ),
                verdicts(letters),
            )
        first += count
    return tables


def numbers_of(rows: list[Row]) -> list[int]:
    return [one.prompt_ids[0] for one in rows]


class _Sent(Exception):
    pass


def trained(tables: list[Candidates], groups: list[int]) -> list[list[Row]]:
    """What each rank trains on; `gather_object` is replaced by a collection of what the ranks send."""
    parcels = []

    def record(parcel):
        parcels.append(pickle.dumps(parcel))
        raise _Sent

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(rollouts, "gather_object", record)
        for rank, table in enumerate(tables):
            try:
                table.own_rows(groups, rank)
            except _Sent:
                continue
        assert len(parcels) in (0, len(tables))
        received = list(chain(*map(pickle.loads, parcels)))
        monkeypatch.setattr(rollouts, "gather_object", lambda own: received)
        return [table.own_rows(groups, rank) for rank, table in enumerate(tables)]


def test_an_empty_table_has_no_informative_group():
    assert Candidates(num_generations=4, num_processes=1).informative == []


def test_groups_are_numbered_over_all_rounds():
    (table,) = world(["IW", "C", "-II"], generations=2)
    assert table.informative == [True, False, False, False, True, True]
    assert table.verdicts.all_wrong_P.tolist() == [False, True, False, False, False, False]
    assert table.verdicts.all_correct_P.tolist() == [False, False, True, False, False, False]
    assert table.refill_rounds == 2


def test_one_round_is_no_refill():
    assert world(["I"], generations=2)[0].refill_rounds == 0


def test_columns_run_over_all_rounds():
    (table,) = world(["IW", "C"], generations=2)
    assert table.column("rewards").tolist() == [[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]
    assert table.column("lengths").tolist() == [0, 1, 2, 3, 4, 5]
    assert table.column("truncated").tolist() == [False, True] * 3
    assert table.column("steps").tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("carried", [False, True])
def test_prompts_run_over_all_rounds_group_by_group(carried):
    (table,) = world(["IW", "C"], generations=2, carried=carried)
    assert table.prompts == [("prompt of 0", 0), ("prompt of 2", 0), ("prompt of 4", 1)]


def test_row_numbers_are_whole_groups_in_the_order_asked_for():
    (table,) = world(["IW", "C"], generations=3)
    # Group g has the rows 3g, 3g + 1, 3g + 2
    assert table.row_numbers([2, 0]) == [6, 7, 8, 0, 1, 2]
    assert table.row_numbers([]) == []


def test_kept_shares_count_the_rows_of_each_round():
    (table,) = world(["IWI", "C", "II"], generations=2)
    # Groups 0 and 2 are of round 0, none is of round 1, group 5 of round 2
    assert table.kept_shares([0, 2, 5]) == [4, 0, 2]
    assert table.kept_shares([]) == [0, 0, 0]


# ------------------------------------------------------------------------------------------------- carried and surplus


def test_without_a_carried_round_all_rows_are_new():
    (table,) = world(["IW", "C"], generations=2)
    assert (table.generation_rounds, table.refill_rounds, table.carried_groups) == (2, 1, 0)
    assert table.column("lengths")[table.new_rows].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_carried_round_was_not_generated_for_this_batch():
    # 2 groups of 3 rows are carried, 1 and 3 were generated
    (table,) = world(["II", "W", "CIW"], generations=3, carried=True)
    assert (table.generation_rounds, table.refill_rounds, table.carried_groups) == (2, 1, 2)
    assert table.column("lengths")[table.new_rows].tolist() == list(range(6, 18))
    assert table.informative == [True, True, False, False, True, False]


def test_a_carried_round_alone_is_no_round_of_generation():
    # As before the first round is sized: a batch that carried groups alone cannot fill
    (table,) = world(["II"], generations=2, carried=True)
    assert (table.generation_rounds, table.refill_rounds, table.carried_groups) == (0, 0, 2)
    assert table.column("lengths")[table.new_rows].tolist() == []


def test_an_empty_table_has_no_rounds():
    table = Candidates(num_generations=4, num_processes=1)
    assert (table.generation_rounds, table.refill_rounds, table.carried_groups) == (0, 0, 0)
    assert table.prompts == []


def test_carried_groups_are_counted_over_all_ranks():
    # 4 groups of 2 rows, 4 rows on each rank
    for table in world(["IIII", "W" * 4], generations=2, ranks=2, carried=True):
        assert table.carried_groups == 4
        assert table.new_rows == slice(8, None)


def test_carried_groups_are_chosen_before_new_ones():
    (table,) = world(["II", "IWII"], generations=2, carried=True)
    assert select_groups(table.informative, 4).groups == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("rounds", "wanted", "surplus"),
    [
        (["IWI", "II"], 2, [4, 3]),
        (["IWI", "II"], 1, [4, 3, 2]),
        (["IWI", "II"], 4, []),
        (["IW", "CW"], 1, []),
        # A batch that is not full has no surplus
        (["IW", "CI"], 3, []),
    ],
)
def test_surplus_groups_are_the_informative_ones_without_a_place_the_latest_first(rounds, wanted, surplus):
    (table,) = world(rounds, generations=2)
    assert table.surplus(select_groups(table.informative, wanted)) == surplus


def test_surplus_groups_do_not_hang_on_the_order_of_the_selection():
    (table,) = world(["IIWI", "II"], generations=2)
    assert table.surplus(Selection([4, 0], [False, False])) == [5, 3, 1]


def test_carried_groups_without_a_place_are_surplus_again():
    (table,) = world(["III", "I"], generations=2, carried=True)
    assert table.surplus(Selection([0, 3], [False, False])) == [2, 1]


# --------------------------------------------------------------------------------------------------------------- ranks


def test_one_rank_trains_on_the_chosen_rows_and_copies_none():
    (table,) = world(["IW", "CI"], generations=2)
    rows = table.own_rows([0, 3], rank=0)
    assert rows == [table.rounds[0].rows[0], table.rounds[0].rows[1], table.rounds[1].rows[2], table.rounds[1].rows[3]]
    assert rows[0] is table.rounds[0].rows[0]
    assert numbers_of(rows) == [0, 1, 6, 7]


def test_two_ranks_train_on_equal_shares_of_the_chosen_rows():
    # Rank 0 generated the groups 0, 1 and 4; rank 1 the groups 2, 3 and 5
    tables = world(["WWII", "II"], generations=2, ranks=2)
    # 2, 3, 4, 5 in this order: rank 0 trains on 2, 3, both of rank 1; rank 1 on 4 of rank 0 and on its own 5
    rows = trained(tables, [2, 3, 4, 5])
    assert [numbers_of(one) for one in rows] == [[4, 5, 6, 7], [8, 9, 10, 11]]
    # What came from elsewhere has left its environment there
    assert [one.environment is None for one in rows[0]] == [True] * 4
    assert [one.environment is None for one in rows[1]] == [True, True, False, False]


def test_groups_that_straddle_ranks_are_put_together():
    # One round of 3 groups of 4 rows on 2 ranks: 6 rows each, so that group 1 has rows 4, 5 on rank 0 and 6, 7 on 1
    tables = world(["WIW", "IWW"], generations=4, ranks=2)
    # Groups 1 and 3: rows 4 to 7 and 12 to 15, of which each rank trains on 4
    rows = trained(tables, [1, 3])
    assert [numbers_of(one) for one in rows] == [[4, 5, 6, 7], [12, 13, 14, 15]]
    assert [one.environment is None for one in rows[0]] == [False, False, True, True]


def test_a_chosen_group_may_straddle_the_ranks_that_train():
    # 1 group of 4 rows for 2 ranks, generated by rank 1
    tables = world(["WI"], generations=4, ranks=2)
    assert [numbers_of(one) for one in trained(tables, [1])] == [[4, 5], [6, 7]]


def test_chosen_groups_are_ordered_by_the_rank_that_generated_them():
    # Round 0: groups 0, 1 on rank 0, groups 2, 3 on rank 1; round 1: group 4 on rank 0, group 5 on rank 1
    table = world(["IWIW", "II"], generations=2, ranks=2)[0]
    selection = Selection(groups=[0, 2, 3, 4], filler=[False, False, True, False])
    assert table.in_rank_order(selection) == Selection(groups=[0, 4, 2, 3], filler=[False, False, False, True])


def test_in_rank_order_no_row_has_to_move_where_each_rank_has_its_share():
    tables = world(["IWWI", "II"], generations=2, ranks=2)
    selection = tables[0].in_rank_order(select_groups(tables[0].informative, 4))
    # Groups 0 and 4 are of rank 0, groups 3 and 5 of rank 1
    assert selection.groups == [0, 4, 3, 5]
    assert all(one.environment is not None for one in chain(*trained(tables, selection.groups)))


@st.composite
def rollout(draw) -> tuple[list[str], int, int]:
    """Rounds, generations and ranks, with rounds of as many groups as divide evenly over the ranks."""
    generations, ranks = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    granule = ranks // gcd(ranks, generations)
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    letters = [draw(st.text("ICW-", min_size=size * granule, max_size=size * granule)) for size in sizes]
    return letters, generations, ranks


@settings(deadline=None)
@given(rollout(), st.data())
def test_every_row_of_the_batch_comes_from_its_rank_and_index(rounds, data):
    letters, generations, ranks = rounds
    tables = world(letters, generations, ranks)
    granule = ranks // gcd(ranks, generations)
    groups = data.draw(st.permutations(range(len("".join(letters)))))
    groups = groups[: data.draw(st.integers(1, len(groups) // granule)) * granule]
    rows = trained(tables, groups)
    assert len({len(one) for one in rows}) == 1
    # Whole groups, in the order chosen, whichever ranks generated them
    assert numbers_of(chain(*rows)) == [group * generations + i for group in groups for i in range(generations)]
    # And with the fields that belong to them, the gathered columns included
    numbers = tables[0].row_numbers(groups)
    assert tables[0].column("lengths")[numbers].tolist() == numbers_of(chain(*rows))
    assert [one.inputs["answer"] for one in chain(*rows)] == numbers


@settings(deadline=None)
@given(rollout(), st.data())
def test_rank_order_moves_groups_and_their_filler_marks_together(rounds, data):
    letters, generations, ranks = rounds
    tables = world(letters, generations, ranks)
    selection = select_groups(tables[0].informative, data.draw(st.integers(1, len("".join(letters)))))
    ordered = tables[0].in_rank_order(selection)
    pairs = sorted(zip(selection.groups, selection.filler, strict=True))
    assert sorted(zip(ordered.groups, ordered.filler, strict=True)) == pairs
    # All ranks take the same branch
    assert all(table.in_rank_order(selection) == ordered for table in tables)


@settings(deadline=None)
@given(rollout(), st.data())
def test_rank_order_is_the_identity_for_one_rank(rounds, data):
    letters, generations, _ = rounds
    (table,) = world(letters, generations)
    selection = select_groups(table.informative, data.draw(st.integers(1, len("".join(letters)))))
    assert table.in_rank_order(selection) == selection


@settings(deadline=None)
@given(rollout())
def test_kept_shares_of_all_groups_are_the_sizes_of_the_rounds(rounds):
    letters, generations, ranks = rounds
    table = world(letters, generations, ranks)[0]
    everything = list(range(len(table.informative)))
    assert table.kept_shares(everything) == [len(one) * generations for one in letters]
    assert table.row_numbers(everything) == list(range(len(table.column("lengths"))))


@settings(deadline=None)
@given(rollout(), st.booleans(), st.data())
def test_an_informative_group_is_trained_on_or_surplus(rounds, carried, data):
    letters, generations, ranks = rounds
    table = world(letters, generations, ranks, carried)[0]
    selection = select_groups(table.informative, data.draw(st.integers(1, len("".join(letters)))))
    surplus = table.surplus(selection)
    assert surplus == sorted(surplus, reverse=True)
    kept = [group for group, filler in zip(selection.groups, selection.filler, strict=True) if not filler]
    informative = [group for group, letter in enumerate("".join(letters)) if letter == "I"]
    assert sorted(kept + surplus) == informative


@settings(deadline=None)
@given(rollout(), st.booleans())
def test_rows_are_carried_or_new(rounds, carried):
    letters, generations, ranks = rounds
    table = world(letters, generations, ranks, carried)[0]
    assert table.generation_rounds == len(letters) - carried
    assert table.carried_groups == (len(letters[0]) if carried else 0)
    new = "".join(letters[carried:])
    assert len(table.column("steps")[table.new_rows]) == len(new) * generations
    assert (table.column("steps")[table.new_rows] >= carried).all()
