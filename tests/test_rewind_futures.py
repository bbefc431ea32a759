"""What a future is called and what is told of it."""

from types import SimpleNamespace

import pytest

from trl_dapo.rewind.branch import AS_IT_WAS, LONGEST_NAME, Branch
from trl_dapo.rewind.futures import findings_in


def named(**changes) -> str:
    return Branch("dapo", {}, changes, tuple(changes), "checkpoint-3", 3, 8).folder_name


def test_folders_of_different_changes_are_different_ones():
    assert named() == f"3-{AS_IT_WAS.replace(' ', '-')}"
    assert named(epsilon_high=0.2) == "3-epsilon_high=0.2"
    # What a file system may not take becomes an underscore, and a digest keeps both apart
    names = [named(chat="a:b"), named(chat="a;b")]
    assert len(set(names)) == 2
    assert all(name.startswith("3-chat=a_b-") for name in names)
    long = [named(**{"generation_kwargs": {"a" * 80: value}}) for value in (1, 2)]
    assert len(set(long)) == 2
    assert all(len(name) <= LONGEST_NAME + len("3-") + len("-01234567") for name in long)


@pytest.mark.parametrize(("told", "found"), [(3, ()), (4, ("kl_runaway (step 2)",))])
def test_a_finding_that_the_run_told_before_is_none_of_a_future(told, found):
    def judge(log):
        return [SimpleNamespace(rule="kl_runaway", onset=2, step=told)]

    assert findings_in([], judge, base=3) == found
