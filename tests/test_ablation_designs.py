"""Rows of designs: what changes, what they are called, and that tables share their runs."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_dapo.ablation.designs import DESIGNS, PAPER_LADDER, make_design, vary
from trl_dapo.dapo.toggles import LADDER, TOGGLES


def on(row) -> set[str]:
    return {toggle for toggle in TOGGLES if row.changes[toggle]}


def test_the_ladder_is_the_papers_table_1():
    # Naive, + overlong filtering, + clip-higher, + soft overlong punishment, + token-level loss, + dynamic sampling
    rows = make_design("ladder").rows
    assert [row.name for row in rows] == list(LADDER)
    assert [len(on(row)) for row in rows] == [0, 1, 2, 3, 4, 5]
    assert on(rows[2]) == {"overlong_filtering", "clip_higher"}
    assert on(rows[4]) == set(TOGGLES) - {"dynamic_sampling"}
    assert PAPER_LADDER == (30.0, 36.0, 38.0, 41.0, 42.0, 50.0)
    assert make_design("ladder").is_cumulative


def test_leave_one_out_takes_one_part_from_dapo():
    first, *others = make_design("leave-one-out").rows
    assert on(first) == set(TOGGLES)
    assert [set(TOGGLES) - on(row) for row in others] == [{toggle} for toggle in TOGGLES]


def test_one_at_a_time_adds_one_part_to_grpo():
    first, *others = make_design("one-at-a-time").rows
    assert on(first) == set()
    assert [on(row) for row in others] == [{toggle} for toggle in TOGGLES]


def test_factorial_has_each_combination_once():
    rows = make_design("factorial").rows
    assert len({frozenset(on(row)) for row in rows}) == len(rows) == 2 ** len(TOGGLES)
    assert (on(rows[0]), on(rows[-1])) == (set(), set(TOGGLES))


def test_equal_changes_have_one_key_in_all_designs_and_others_another():
    keys = {}
    for design in DESIGNS:
        for row in make_design(design).rows:
            keys.setdefault(frozenset(on(row)), set()).add(row.key)
    assert all(len(found) == 1 for found in keys.values())
    assert len({key for found in keys.values() for key in found}) == 32
    assert keys[frozenset(TOGGLES)] == {"dapo"}
    assert keys[frozenset()] == {"grpo-without-kl"}
    assert keys[frozenset(set(TOGGLES) - {"clip_higher"})] == {"dapo-without-clip-higher"}


def test_vary_has_a_row_for_each_combination():
    design = vary({"epsilon_high": [0.2, 0.28], "num_generations": [4, 8]})
    assert [dict(row.changes) for row in design.rows] == [
        {"epsilon_high": 0.2, "num_generations": 4},
        {"epsilon_high": 0.2, "num_generations": 8},
        {"epsilon_high": 0.28, "num_generations": 4},
        {"epsilon_high": 0.28, "num_generations": 8},
    ]
    assert design.rows[0].name == "epsilon_high=0.2, num_generations=4"


@given(st.lists(st.text(max_size=200), min_size=1, unique=True))
def test_keys_are_names_of_folders_whatever_the_values(values):
    keys = [row.key for row in vary({"run_name": values}).rows]
    assert len(set(keys)) == len(values)
    for key in keys:
        assert re.fullmatch(r"[A-Za-z0-9_.+-]+", key)
        assert len(key) < 200


def test_an_unknown_design_is_refused():
    with pytest.raises(ValueError, match=r"'tower' is not a design\. The designs are ladder, leave-one-out"):
        make_design("tower")
