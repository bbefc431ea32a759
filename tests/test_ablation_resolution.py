"""When more seeds are asked for, which tables a folder is for, and what the checks are made of."""

import json

import pytest

from trl_dapo.ablation.designs import Design, Row, make_design
from trl_dapo.ablation.manifest import Manifest, merged_manifest, read_manifest, write_manifest
from trl_dapo.ablation.manipulation import MEASURES, means
from trl_dapo.ablation.resolution import state_of
from trl_dapo.ablation.results import DataSet, End, Question, RowOfRun, RunResult
from trl_dapo.dapo.toggles import TOGGLES


ROWS = (Row("a", {"beta": 0}), Row("b", {"beta": 1}), Row("c", {"beta": 2}))


def result(row: Row, seed: int, right: int, match: str = "samples") -> RunResult:
    """A run with so many of 1,000 samples right."""
    end = End(100, 1, 100, 1.0, {"set": DataSet("exact", (Question("0", 1000, right),))})
    return RunResult(RowOfRun(row.key, row.name), seed, {match: end})


def runs(seeds: int) -> list[RunResult]:
    """b is 0.1 better than a with a spread of 0.01; c is as good as b with a spread of 0.002."""
    found = []
    for seed in range(seeds):
        sign = 1 if seed % 2 else -1
        found += [result(ROWS[0], seed, 500), result(ROWS[1], seed, 600 + 10 * sign)]
        found.append(result(ROWS[2], seed, 600 + 10 * sign + 2 * sign))
    return found


def test_differences_are_open_at_first_then_resolved_or_hopeless():
    design = Design("rows", ROWS, is_cumulative=True)
    first = state_of(runs(3), [design], ["samples"], margin=0.02)
    assert first.is_open
    assert first.lines[0] == "samples: b minus a: open, too few seeds for an interval"
    last = state_of(runs(12), [design], ["samples"], margin=0.02)
    assert not last.is_open
    assert last.lines[0].startswith("samples: b minus a: resolved, +0.0")
    assert last.lines[1].startswith("samples: c minus b: hopeless, -0.0")


def test_rows_that_do_not_build_on_each_other_are_compared_with_the_first():
    lines = state_of(runs(12), [Design("rows", ROWS)], ["samples"], margin=0.02).lines
    assert [line.split(":")[1] for line in lines] == [" b minus a", " c minus a"]


def test_each_kind_of_budget_has_its_own_differences():
    found = [*runs(12), *(result(row, 100, 1, "steps") for row in ROWS)]
    state = state_of(found, [Design("rows", ROWS)], ["samples", "steps"], margin=0.02)
    assert [line.split(":")[0] for line in state.lines] == ["samples"] * 2 + ["steps"] * 2
    assert state.is_open


def test_seeds_that_one_row_lacks_take_no_part():
    found = [one for one in runs(12) if one.row.name != "b" or one.seed > 9]
    assert "too few seeds" in state_of(found, [Design("rows", ROWS)], ["samples"], margin=0.02).lines[0]


def test_a_manifest_is_read_as_it_was_written_and_takes_designs_in(tmp_path):
    ladder, vary = make_design("ladder"), Design("vary", ROWS)
    write_manifest(tmp_path, Manifest((ladder,), ("samples",)))
    assert read_manifest(tmp_path) == Manifest((ladder,), ("samples",))
    both = merged_manifest(tmp_path, Manifest((vary,), ("steps",)))
    assert both == Manifest((ladder, vary), ("steps",))
    write_manifest(tmp_path, both)
    other = Design("vary", ROWS[:2])
    assert merged_manifest(tmp_path, Manifest((other,), ("steps",))).designs == (ladder, other)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", json.dumps({"schema": 9, "designs": [], "matches": ["x"]})])
def test_a_file_that_is_no_manifest_says_nothing(tmp_path, content):
    (tmp_path / "ablation.json").write_text(content)
    assert read_manifest(tmp_path) == Manifest()


def test_a_check_is_the_mean_over_the_logs_that_have_it():
    curve = [{"dapo/weight_moved": 0.1}, {"dapo/weight_moved": 0.3, "entropy": 1.0}, {"loss": 2.0}]
    assert means(curve) == {"dapo/weight_moved": pytest.approx(0.2)}


def test_each_toggle_has_a_measure_of_its_own():
    assert set(MEASURES) == set(TOGGLES)
    assert len({measure.metric for measure in MEASURES.values()}) == len(TOGGLES)
    assert MEASURES["soft_overlong_punishment"].says_acted(-0.2)
    assert not MEASURES["soft_overlong_punishment"].says_acted(0.0)
    assert MEASURES["clip_higher"].says_acted(0.02)
