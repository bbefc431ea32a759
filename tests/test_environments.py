"""Environments of kept rows leave the pool and come back, by name, without a reset."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from trl_dapo.dapo.sampling.environments import FinishedEpisode, finished, merged, set_aside


class Same:
    """Instances that are all equal: what counts is which one it is."""

    def __eq__(self, other):
        return isinstance(other, Same)

    __hash__ = None


def test_a_finished_episode_adds_nothing_to_the_prompt():
    assert FinishedEpisode().reset(seed=3, task="any", answer=None) is None


def test_a_finished_episode_has_no_tools():
    public = [name for name in dir(FinishedEpisode()) if not name.startswith("_")]
    assert public == ["reset"]


def test_kept_instances_are_set_aside_by_name():
    a, b, c, d = (Same() for _ in range(4))
    free, kept = set_aside({"x": [a, b], None: [c, d]}, [d, a])
    assert [*map(id, free["x"]), *map(id, free[None])] == [id(b), id(c)]
    assert [*map(id, kept["x"]), *map(id, kept[None])] == [id(a), id(d)]


def test_setting_nothing_aside_leaves_all_names():
    a = Same()
    assert set_aside({"x": [a], "y": []}, []) == ({"x": [a], "y": []}, {"x": [], "y": []})


def test_instances_that_are_not_in_the_pool_are_ignored():
    a = Same()
    free, kept = set_aside({"x": [a]}, [Same()])
    assert free["x"][0] is a
    assert kept == {"x": []}


def test_pools_are_merged_by_name_with_the_first_in_front():
    assert merged({"x": [1, 2], "y": [3]}, {"x": [4], None: [5]}) == {"x": [1, 2, 4], "y": [3], None: [5]}
    assert merged({}, {}) == {}


def test_merging_leaves_both_pools_alone():
    first, second = {"x": [1]}, {"x": [2]}
    merged(first, second)["x"].append(3)
    assert (first, second) == ({"x": [1]}, {"x": [2]})


def test_stand_ins_last_for_the_rows():
    pool = finished(["x", None, "x", "y"])
    assert {name: len(members) for name, members in pool.items()} == {"x": 2, None: 1, "y": 1}
    instances = [one for members in pool.values() for one in members]
    assert all(isinstance(one, FinishedEpisode) for one in instances)
    assert len({id(one) for one in instances}) == 4
    assert finished([]) == {}


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["x", "y", None]), st.integers(0, 4)), st.data())
def test_setting_aside_then_merging_loses_no_instance(sizes, data):
    pool = {name: [Same() for _ in range(size)] for name, size in sizes.items()}
    everything = [one for members in pool.values() for one in members]
    chosen = [one for one in everything if data.draw(st.booleans())]
    free, kept = set_aside(pool, chosen)
    assert Counter(id(one) for members in kept.values() for one in members) == Counter(map(id, chosen))
    together = merged(free, kept)
    assert {name: Counter(map(id, members)) for name, members in together.items()} == {
        name: Counter(map(id, members)) for name, members in pool.items()
    }
