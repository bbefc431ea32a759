"""Two reports side by side."""

import json
import re
from dataclasses import replace

import pytest
from scipy.stats import ttest_ind

from ablation_runs import made_run, made_runs, with_scores
from trl_dapo.ablation import statistics
from trl_dapo.ablation.designs import make_design
from trl_dapo.ablation.report import write_report
from trl_dapo.ablation.report.archive import ArchiveError
from trl_dapo.ablation.report.compare import compare


def report(folder, scores, key="base", seeds=None, change=lambda run: run):
    run = made_run({}, key=key, name=f"the {key}", questions=1, points=0, matches=("samples",))
    runs = [
        change(replace(with_scores(run, right), seed=seed))
        for seed, right in zip(seeds or range(len(scores)), scores, strict=True)
    ]
    write_report(folder, runs, [], ["samples"], title=folder.name)
    return folder


def line_of(text, name="the base"):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_same_seeds_and_questions_are_paired(tmp_path):
    # Of 8 samples: A has 1, 3 and 5 right, B 2, 4 and 7, so B minus A is 1/8, 1/8 and 2/8: mean 1/6, standard
    # deviation 1/8 / sqrt(3) = 0.0722. Student's t is 4.3027: 1/6 ± 4.3027 * 0.0722 / sqrt(3) = ± 0.1793
    found = compare(report(tmp_path / "a", [[1], [3], [5]]), report(tmp_path / "b", [[2], [4], [7]]))
    assert line_of(found) == [
        "the base", "3", "3", "37.5", "54.2", "+16.7", "[−1.3, +34.6]", "seed and question", "not resolved",
    ]  # fmt: skip


@pytest.mark.parametrize("seeds", [None, [5, 6]])
def test_seeds_that_agree_have_no_interval(tmp_path, seeds):
    # Paired and not: two equal numbers do not say that their spread is 0
    found = compare(report(tmp_path / "a", [[2], [2]]), report(tmp_path / "b", [[3], [3]], seeds=seeds))
    assert line_of(found)[5:7] == ["+12.5", "–"]
    assert line_of(found)[8] == "equal seeds: no interval"


def test_rows_stand_in_the_order_of_the_tables_and_not_of_the_runs(tmp_path):
    ladder = make_design("ladder")
    write_report(tmp_path, made_runs(seeds=2, points=0)[::-1], [ladder], ["samples"], title="Ladder")
    found = [
        line.split(" | ")[0].strip("| ") for line in compare(tmp_path, tmp_path).splitlines() if line[:3] != "| -"
    ]
    assert [name for name in found if name in {row.name for row in ladder.rows}] == 2 * [
        row.name for row in ladder.rows
    ]


def test_other_seeds_have_welchs_interval(tmp_path):
    found = compare(report(tmp_path / "a", [[2], [4]]), report(tmp_path / "b", [[3], [5], [6]], seeds=[5, 6, 7]))
    ends = ttest_ind([3 / 8, 5 / 8, 6 / 8], [2 / 8, 4 / 8], equal_var=False).confidence_interval(0.95)
    shown = f"[−{abs(100 * ends.low):.1f}, +{100 * ends.high:.1f}]"
    # (3 + 5 + 6) / 24 - (2 + 4) / 16 = 0.5833 - 0.375
    assert line_of(found)[3:] == ["37.5", "58.3", "+20.8", shown, "none", "not resolved"]


def test_other_questions_are_said_and_never_paired(tmp_path):
    found = compare(report(tmp_path / "a", [[2, 4], [4, 4]]), report(tmp_path / "b", [[3], [5]]))
    assert line_of(found)[7] == "none: other questions"


def test_one_seed_has_no_interval(tmp_path):
    found = compare(report(tmp_path / "a", [[2]]), report(tmp_path / "b", [[3]]))
    assert line_of(found)[5:] == ["+12.5", "–", "seed and question", "one seed: no interval"]


def test_another_data_set_is_not_subtracted(tmp_path):
    def renamed(run):
        end = run.ends["samples"]
        return replace(run, ends={"samples": replace(end, data_sets={"aime": end.data_sets["held out"]})})

    found = compare(report(tmp_path / "a", [[2]]), report(tmp_path / "b", [[3]], change=renamed))
    assert line_of(found)[5:] == ["–", "–", "other data sets: held out, aime", "–"]


def test_what_differs_and_what_is_in_one_alone_is_said(tmp_path):
    def changed(run):
        end = replace(run.ends["samples"], budget=64.0)
        return replace(
            run,
            config={**run.config, "learning_rate": 0.5, "<b>": 1},
            environment={**run.environment, "torch": "3.0"},
            ends={"samples": end},
        )

    found = compare(report(tmp_path / "a", [[2]]), report(tmp_path / "b", [[3]], change=changed))
    assert "- learning\\_rate: 0.001 in A, 0.5 in B" in found
    assert "- torch: 2.9.0 in A, 3.0 in B" in found
    assert "- \\<b\\>: absent in A, 1 in B" in found
    assert "Budget: 12,288 in A, 64 in B." in found
    found = compare(tmp_path / "a", report(tmp_path / "c", [[3]], key="other"))
    assert "Only in A: the base." in found
    assert "Only in B: the other." in found


def test_regimes_that_one_report_lacks_are_said(tmp_path):
    other = report(tmp_path / "b", [[3]], change=lambda run: replace(run, regime="wide"))
    found = compare(report(tmp_path / "a", [[2]]), other)
    assert re.search(r"Only in A\.\n\n## Regime: wide\n\nOnly in B\.", found)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be read"),
        ('{"kind": "lm_eval"}', "no report's"),
        ('{"kind": "trl_dapo.ablation.report", "schema": 9}', "`schema` is 9; this version reads 1"),
        ('{"kind": "trl_dapo.ablation.report", "schema": 1}', "lacks what its schema has: KeyError"),
        (None, "has no results.json. Name the folder of a report."),
    ],
)
def test_what_is_no_report_is_an_error(tmp_path, content, reason):
    folder = tmp_path / "b"
    folder.mkdir()
    if content is not None:
        (folder / "results.json").write_text(content)
    with pytest.raises(ArchiveError, match=re.escape(reason)):
        compare(report(tmp_path / "a", [[2]]), folder)


@pytest.mark.parametrize(
    ("name", "value"), [("right", [float("nan")]), ("right", [9]), ("samples", 0), ("right", [1, 2])]
)
def test_scores_that_cannot_be_are_an_error(tmp_path, name, value):
    a, b = report(tmp_path / "a", [[2], [3]]), report(tmp_path / "b", [[3], [3]])
    content = json.loads((b / "results.json").read_text())
    content["sections"][0]["runs"][0]["ends"]["samples"]["data_sets"]["held out"][name] = value
    (b / "results.json").write_text(json.dumps(content))
    with pytest.raises(ArchiveError, match=r"results\.json"):
        compare(a, b)


def test_fields_of_a_later_schema_are_passed_over(tmp_path):
    a, b = report(tmp_path / "a", [[2]]), report(tmp_path / "b", [[3]])
    content = json.loads((b / "results.json").read_text())
    content["sections"][0]["runs"][0]["later"] = 1
    (b / "results.json").write_text(json.dumps(content))
    assert line_of(compare(a, b))[5] == "+12.5"


def test_questions_are_paired_by_id_whatever_their_order(tmp_path, monkeypatch):
    def turned(run):
        end = run.ends["samples"]
        own = end.data_sets["held out"]
        return replace(
            run, ends={"samples": replace(end, data_sets={"held out": replace(own, questions=own.questions[::-1])})}
        )

    seen, real = [], statistics.table_statistics
    monkeypatch.setattr(statistics, "table_statistics", lambda rows: seen.extend(rows) or real(rows))
    a = report(tmp_path / "a", [[1, 4, 7]])
    b = report(tmp_path / "b", [[1, 4, 7]], change=turned)
    seen.clear()
    compare(a, b)
    assert [list(row.by_seed[0]) for row in seen] == [[1 / 8, 4 / 8, 7 / 8]] * 2
