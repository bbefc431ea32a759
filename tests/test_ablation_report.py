"""The report: which runs make a table, what is refused, and that all formats say the same."""

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation_runs import made_run, made_runs, with_metrics, with_scores
from trl_dapo.ablation import statistics
from trl_dapo.ablation.designs import make_design, vary
from trl_dapo.ablation.report import write_report
from trl_dapo.ablation.report.archive import read_archive
from trl_dapo.ablation.report.checks import checks_of
from trl_dapo.ablation.report.curve_figures import curve_sets
from trl_dapo.ablation.report.curves import mean_curve
from trl_dapo.ablation.report.escaping import as_csv, as_html, as_latex, as_markdown, as_markdown_line, visible
from trl_dapo.ablation.report.grids import difference_grids, matched
from trl_dapo.ablation.report.numbers import count, interval, p_value, percent, points, seeds_needed
from trl_dapo.ablation.report.sections import make_sections
from trl_dapo.ablation.report.settings import differing, settings_of
from trl_dapo.ablation.report.tables import make_table
from trl_dapo.ablation.results import DataSet, Question, SampleCompletion
from trl_dapo.ablation.statistics import Interval


LADDER = make_design("ladder")
TWO = vary({"lr": [1, 2]})


def scored(*scores, key="lr_1-4bd6e1ba", seeds=None, samples=4, **settings):
    """Runs of a row with so many right of 4 or other `samples` of each question, a run for each sequence."""
    run = made_run({}, key=key, questions=1, points=0, matches=("samples",), **settings)
    return [
        replace(with_scores(run, right, samples), seed=seed)
        for seed, right in zip(seeds or range(len(scores)), scores, strict=True)
    ]


def two_rows(first, second, **settings):
    keys = [row.key for row in TWO.rows]
    return [*scored(*first, key=keys[0], **settings), *scored(*second, key=keys[1], **settings)]


def texts(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()}


def report(folder, runs, designs=(), matches=("samples",), **settings):
    write_report(folder, runs, designs, matches, **{"title": "A table", **settings})
    return texts(folder)


def csv_lines(text):
    return list(csv.DictReader(io.StringIO(text)))


# ---------------------------------------------------------------------------------------------------- text and numbers


@pytest.mark.parametrize(
    ("escape", "text", "escaped"),
    [
        (as_html, '<b a="\'">&', "&lt;b a=&quot;&#x27;&quot;&gt;&amp;"),
        (as_markdown, "a|b *c* <i> `d` [e](f) @ann", r"a\|b \*c\* \<i\> \`d\` [e\](f) &#64;ann"),
        (as_markdown, "https://a.b www.c", r"https\://a.b www\.c"),
        (as_markdown, "avg@8 [1.0, 2.0]", "avg@8 [1.0, 2.0]"),
        (as_markdown_line, "# a", r"\# a"),
        (as_markdown_line, "- a", r"\- a"),
        (as_markdown_line, "1. a", r"1\. a"),
        (as_csv, "=1+1", "'=1+1"),
        (as_csv, "\t@SUM(A1)", "'@SUM(A1)"),
        (as_csv, "+ a", "'+ a"),
        (as_csv, "-1", "'-1"),
        (as_csv, "a=1", "a=1"),
        (as_latex, r"\input{a}_%$&#^~", r"\textbackslash{}input\{a\}\_\%\$\&\#\textasciicircum{}\textasciitilde{}"),
        (visible, "a\x00\x1b\ud800\u202e\tb\n", "a\\x00\\x1b\\ud800\\u202e\tb\n"),
    ],
)
def test_text_is_escaped(escape, text, escaped):
    assert escape(text) == escaped


@given(st.text(st.characters(codec=None)))
def test_any_text_can_be_written_in_any_format(text):
    for escape in (as_html, as_markdown, as_markdown_line, as_csv, as_latex, visible):
        escape(text).encode("utf-8")
    assert not set(as_html(text)) & set("<>\"'")
    # Each of what is left begins an escape or is led by a backslash
    assert not re.search(r"(?<!\\)[<>|*`]", as_markdown(text))
    assert not as_csv(text).startswith(("=", "+", "-", "@"))
    assert not re.search(r"(?<!\\)[%#&]", as_latex(text))


def test_numbers_are_written_as_one_reads_them():
    assert [percent(0.41251), percent(None), points(0.0307), points(-0.0307), points(-0.00001)] == [
        "41.3", "–", "+3.1", "−3.1", "0.0",
    ]  # fmt: skip
    assert [p_value(0.0004), p_value(0.0123), p_value(0.5)] == ["<0.001", "0.012", "0.50"]
    assert [count(12288.0), count(2.5), count(3.0), count(None)] == ["12,288", "2.5", "3", "–"]
    assert [seeds_needed(1000), seeds_needed(1001), seeds_needed(None)] == ["1,000", ">1,000", "–"]


# ------------------------------------------------------------------------------------------------------------- tables


def test_scores_of_a_table_are_worked_by_hand():
    # Shares right: row 1 has 1/4 and 3/4 (seed 0: mean 0.5), 2/4 and 2/4 (seed 1: 0.5); row 2 has 1 and 1, 1/2 and 1
    runs = two_rows([[1, 3], [2, 2]], [[4, 4], [2, 4]])
    table = make_table(runs, TWO, "samples")
    first, second = table.rows
    assert first.statistics.mean == 0.5
    assert second.statistics.mean == (1 + 0.75) / 2
    assert second.to_first.mean == pytest.approx(0.375)
    assert second.to_previous is None  # the design adds nothing row by row
    assert first.to_first is None
    assert table.problems == ()


def test_questions_are_matched_by_id_and_not_by_place(monkeypatch):
    runs = two_rows([[0, 4]], [[0, 4]])
    end = runs[1].ends["samples"]
    turned = replace(end.data_sets["held out"], questions=end.data_sets["held out"].questions[::-1])
    runs[1] = replace(runs[1], ends={"samples": replace(end, data_sets={"held out": turned})})
    seen = []
    real = statistics.table_statistics
    monkeypatch.setattr(statistics, "table_statistics", lambda rows: seen.extend(rows) or real(rows))
    make_table(runs, TWO, "samples")
    np.testing.assert_array_equal(seen[0].by_seed[0], seen[1].by_seed[0])


def test_rows_with_other_questions_are_refused_and_the_report_is_written(tmp_path):
    # Seed 0 of the second row has a third question
    runs = two_rows([[1, 2]], [[1, 2, 3]])
    table = make_table(runs, TWO, "samples")
    assert table.rows == ()
    assert table.problems[0].startswith(
        "Refused: lr=2, seed 0 has other questions of held out than lr=1, seed 0: 1 that are not there, and 0 fewer"
    )
    found = report(tmp_path, runs, [TWO])
    for name in ("table.md", "table.tex", "results.json", "index.html"):
        assert "has other questions of held out" in found[name], name
    assert csv_lines(found["table.csv"]) == []


def test_rows_that_were_evaluated_on_something_else_are_refused():
    runs = two_rows([[1]], [[1]])
    end = runs[1].ends["samples"]
    other = replace(end, data_sets={"train": end.data_sets["held out"]})
    runs[1] = replace(runs[1], ends={"samples": other})
    assert make_table(runs, TWO, "samples").problems == (
        "Refused: lr=2, seed 0 was not evaluated on held out, which the table is about.",
    )


def test_missing_rows_and_unpaired_seeds_are_said(tmp_path):
    runs = [run for run in made_runs(seeds=3, points=0) if run.row.key != LADDER.rows[2].key]
    runs = [run for run in runs if (run.row.key, run.seed) != (LADDER.rows[4].key, 1)]
    found = report(tmp_path, runs, [LADDER])
    for name in ("table.md", "table.tex", "index.html", "results.json"):
        assert "Incomplete: no run of + clip-higher." in found[name], name
        assert "+ token-level loss has no run of seed 1" in found[name], name


def test_no_difference_to_the_previous_row_is_shown_where_that_row_is_missing():
    runs = [run for run in made_runs(seeds=2, points=0) if run.row.key != LADDER.rows[2].key]
    rows = make_table(runs, LADDER, "samples").rows
    # "+ soft overlong punishment" follows "+ overlong filtering" here: two parts
    assert [row.to_previous is not None for row in rows] == [False, True, False, True, True]
    assert all(row.to_first is not None for row in rows[1:])


def test_no_difference_to_the_first_or_last_row_is_shown_where_that_row_is_missing():
    runs = [run for run in made_runs(seeds=2, points=0) if run.row.key != LADDER.rows[0].key]
    assert {row.to_first for row in make_table(runs, LADDER, "samples").rows} == {None}
    runs = [run for run in made_runs(seeds=2, points=0) if run.row.key != LADDER.rows[5].key]
    assert {row.to_last for row in make_table(runs, LADDER, "samples").rows} == {None}


def test_one_seed_has_no_interval_and_every_format_says_so(tmp_path):
    found = report(tmp_path, made_runs(seeds=1, points=0), [LADDER])
    for name in ("table.md", "table.tex", "index.html", "table.csv"):
        assert "one seed: no interval" in found[name], name
    rows = json.loads(found["results.json"])["sections"][0]["tables"][0]["rows"]
    assert {row["statistics"]["over_seeds"] for row in rows} == {None}
    assert "one seed, so no difference can be told from noise" in found["index.html"]


def test_a_difference_whose_interval_holds_zero_is_marked_in_every_format(tmp_path):
    # Differences of 1/4 and -1/4: the mean is 0
    found = report(tmp_path, two_rows([[2], [2]], [[3], [1]]), [TWO])
    for name in ("table.md", "table.tex", "table.csv", "index.html"):
        assert "not resolved" in found[name].replace("Not resolved", ""), name
    assert csv_lines(found["table.csv"])[1]["to_first_verdict"] == "not resolved"
    assert json.loads(found["results.json"])["sections"][0]["tables"][0]["rows"][1]["to_first"]["is_resolved"] is False
    assert "0 of 1 differences to the first row resolved." in found["index.html"]


def test_a_difference_whose_interval_leaves_zero_out_is_not_marked(tmp_path):
    # Differences of 2/4, 2/4, 2/4 and 3/4: mean 0.5625, standard deviation 1/8. Student's t with 3 degrees of freedom
    # is 3.1824, so the interval is 0.5625 ± 3.1824 * 0.125 / 2 = [0.3636, 0.7614]
    found = report(tmp_path, two_rows([[1]] * 4, [[3], [3], [3], [4]]), [TWO])
    assert "+56.2 [+36.4, +76.1]" in found["table.md"]
    assert csv_lines(found["table.csv"])[1]["to_first_verdict"] == "resolved"
    assert "not resolved" not in found["table.md"]
    assert "1 of 1 differences to the first row resolved: lr=2 (+56.2)." in found["index.html"]


def test_the_papers_row_stands_beside_the_ladder_alone(tmp_path):
    runs = made_runs(seeds=2, points=0)
    found = report(tmp_path / "ladder", runs, [LADDER])
    assert [line["paper_percent"] for line in csv_lines(found["table.csv"])] == [
        "30.0", "36.0", "38.0", "41.0", "42.0", "50.0",
    ]  # fmt: skip
    for name in ("table.md", "table.tex", "index.html"):
        assert "It is another task" in found[name], name
    other = report(tmp_path / "other", runs, [])
    assert all("another task" not in text for text in other.values())


def test_regimes_are_sections_that_share_nothing(tmp_path):
    runs = [*made_runs(TWO, seeds=2, points=0), *made_runs(TWO, seeds=2, points=0, regime="wide")]
    found = report(tmp_path, runs, [TWO])
    assert [line["regime"] for line in csv_lines(found["table.csv"])] == ["", "", "wide", "wide"]
    assert "## Regime: wide" in found["table.md"]
    assert {path.name for path in (tmp_path / "figures").glob("*-rows.svg")} == {
        "vary-samples-rows.svg",
        "wide-vary-samples-rows.svg",
    }


def test_without_a_design_rows_stand_by_position_and_name():
    runs = [
        made_run({}, key=key, name=name, position=position, questions=2, points=0)
        for key, name, position in (("x", "zebra", 1), ("y", "ape", 1), ("z", "last", 0), ("w", "ape", 1))
    ]
    (section,) = make_sections(runs, [], ["samples"])
    names = [row.row.name for row in section.tables[0].rows]
    assert names == ["last", "ape (w)", "ape (y)", "zebra"]
    assert [row.key for row in section.tables[0].rows] == ["z", "w", "y", "x"]


def test_what_takes_no_part_is_said():
    runs = [*made_runs(TWO, seeds=1, points=0), made_run({}, key="stranger", points=0)]
    (section,) = make_sections([*runs, runs[0]], [TWO, LADDER], ["samples", "seconds"])
    assert section.problems == (
        f"{runs[0].row.key}, seed 0, is there twice; the first takes part.",
        "No run of the design ladder.",
        "Rows that no table has: stranger.",
    )
    assert section.tables[1].problems == ("No run of this design was evaluated at a budget of seconds.",)


def test_a_design_that_has_only_rows_of_another_table_has_none():
    # Two rows of the ladder are rows of one-at-a-time too: the base, and overlong filtering alone
    (section,) = make_sections(made_runs(seeds=1, points=0), [LADDER, make_design("one-at-a-time")], ["samples"])
    assert [table.design.name for table in section.tables] == ["ladder"]
    assert section.problems == ("Of the design one-at-a-time there are 2 of 6 rows, which another table has too.",)


def test_different_scorers_and_samples_are_said():
    runs = two_rows([[1]], [[1]])
    end = runs[1].ends["samples"]
    data_set = DataSet("other judge", (Question("q0", 8, 1),))
    runs[1] = replace(runs[1], ends={"samples": replace(end, data_sets={"held out": data_set})})
    assert make_table(runs, TWO, "samples").problems == (
        "Answers were judged by different scorers: exact match, other judge.",
        "Questions have different numbers of samples, from 4 to 8.",
    )


def test_no_runs_and_no_budget_are_errors(tmp_path):
    with pytest.raises(ValueError, match="no finished runs"):
        report(tmp_path, [], [LADDER])
    with pytest.raises(ValueError, match="names no kind of budget"):
        report(tmp_path, made_runs(seeds=1), [LADDER], matches=[])
    with pytest.raises(ValueError, match="has a name twice"):
        report(tmp_path, made_runs(seeds=1), [LADDER, LADDER])


@pytest.mark.parametrize("right", [2, 3])
def test_seeds_that_agree_have_no_interval_and_are_not_called_one_seed(tmp_path, right):
    # Each of three seeds has the same difference, 0 or 1/4: their spread is unknown
    found = report(tmp_path, two_rows([[2]] * 3, [[right]] * 3), [TWO])
    for name in ("table.md", "table.tex", "table.csv", "index.html"):
        assert "equal seeds: no interval" in found[name], name
        assert "one seed" not in found[name].replace("one seed (Table 1)", ""), name
    assert "0 of 1 differences to the first row resolved." in found["index.html"]


def test_wild_intervals_are_cut_off_in_figures_alone(tmp_path):
    # 0.25 and 1: 0.625 ± 12.706 * 0.375 = [−4.14, 5.39]
    found = report(tmp_path, two_rows([[1], [4]], [[4], [1]]), [TWO])
    assert "62.5 [−414.0, 539.0]" in found["table.md"]
    assert found["index.html"].count("Arrowhead: the interval goes on beyond what a score can be.") == 4
    for name in ("rows", "differences"):
        ticks = re.findall(
            r"<text[^>]*>([−0-9]+)</text>", (tmp_path / "figures" / f"vary-samples-{name}.svg").read_text()
        )
        assert ticks
        assert all(-130 <= int(tick.replace("−", "-")) <= 130 for tick in ticks), name
    found = report(tmp_path, two_rows([[1]] * 4, [[3], [3], [3], [2]]), [TWO])
    assert "Arrowhead" not in found["index.html"]


def test_differences_to_each_row_have_a_table_of_their_own():
    table = make_table(made_runs(seeds=2, points=0), LADDER, "samples")
    found = difference_grids(table)
    assert [(heading, len(grid.rows)) for heading, grid in found] == [
        ("Differences to the previous row", 5),
        ("Differences to the first row", 5),
        ("Differences to the last row", 5),
    ]
    assert {grid.rows[0][1].text for _, grid in found[:2]} == {"GRPO without KL"}
    assert {row[1].text for row in found[2][1].rows} == {"+ dynamic sampling"}
    table = make_table(two_rows([[1], [2]], [[2], [2]]), TWO, "samples")
    assert [heading for heading, _ in difference_grids(table)] == [
        "Differences to the first row",
        "Differences to the last row",
    ]


def test_what_a_policy_had_spent_in_fact_is_said():
    runs = two_rows([[1]], [[1]])
    assert "once it has spent 12,288 completions. Not" in matched(make_table(runs, TWO, "samples"))
    end = replace(runs[1].ends["samples"], completions=12400)
    runs[1] = replace(runs[1], ends={"samples": end})
    said = matched(make_table(runs, TWO, "samples"))
    assert "once it has spent 12,288 completions (in fact 12,288 to 12,400). Not" in said


def test_an_end_that_is_hardly_off_zero_keeps_its_sign():
    assert interval(Interval(0.0004, 0.1), points) == "[+0.0, +10.0]"
    assert interval(Interval(-0.0004, 0.0), points) == "[−0.0, 0.0]"
    assert interval(Interval(-0.0004, 0.1)) == "[0.0, 10.0]"


# -------------------------------------------------------------------------------------------- settings, checks, curves


def test_what_differs_between_runs_is_said():
    runs = made_runs(TWO, seeds=2, points=0)
    runs[1] = replace(runs[1], environment={**runs[1].environment, "torch": "2.8.0"}, config={"learning_rate": 5})
    lines = differing(runs)
    assert "torch differs between runs: 2.9.0, 2.8.0." in lines
    starts = "Training started from 2 policies: warm start 0, warm start 1. "
    assert f"{starts}Intervals take seeds that share one as independent." in lines
    assert "Fields that differ between seeds of one row: learning_rate." in lines
    found = settings_of(runs)
    assert found.own[TWO.rows[0].key] == {"lr": "1", "learning_rate": "0.001 or 5"}
    assert found.own[TWO.rows[1].key] == {"lr": "2", "learning_rate": "0.001"}
    assert "seed" not in found.shared


@pytest.mark.parametrize(
    ("scores", "acted", "verdict"),
    [
        # Differences of 0.0025, -0.0025 and 0: the interval is ± 4.303 * 0.0025 / sqrt(3) = ± 0.0062
        ([[201], [199], [200]], 0.2, "finding"),
        ([[201], [199], [200]], 0.003, "not tested"),
        ([[201], [199], [200]], None, "not checked"),
        # Of 0.025, -0.025 and 0: ± 0.062, which is more than 0.05
        ([[210], [190], [200]], 0.2, "open"),
        ([[300], [301], [302]], 0.2, "resolved"),
        ([[300], [301], [302]], 0.003, "resolved"),
        ([[200], [200], [200]], 0.2, "equal seeds"),
        ([[200]], 0.2, "one seed"),
    ],
)
def test_a_null_is_a_finding_only_if_the_technique_acted(scores, acted, verdict):
    design = make_design("one-at-a-time")
    base, _, clip = (row.key for row in design.rows[:3])
    runs = [*scored([200], [200], [200], key=base, samples=400), *scored(*scores, key=clip, samples=400)]
    manipulation = {} if acted is None else {"dapo/above_symmetric": acted, "dapo/groups_replaced": 9.0}
    runs = [replace(run, manipulation=manipulation) for run in runs]
    (check,) = checks_of(make_table(runs, design, "samples"), runs)
    assert (check.technique, check.verdict) == ("clip_higher", verdict)
    assert check.mean == (None if acted is None else pytest.approx(acted))
    assert acted is None or verdict == "one seed" or f": {acted}, bound 0.01" in check.sentence
    assert verdict == "one seed" or "“only clip-higher” minus “GRPO without KL”" in check.sentence
    assert ("look for another cause" in check.sentence) == (verdict == "resolved" and acted < 0.01)


def test_a_check_of_leave_one_out_says_which_row_is_subtracted():
    # DAPO has 0.75 and 0.7525 right, without dynamic sampling 0.5: the technique helps, and the difference is negative
    design = make_design("leave-one-out")
    full, without = design.rows[0].key, design.rows[5].key
    runs = scored([300], [301], [302], key=full, samples=400) + scored(*[[200]] * 3, key=without, samples=400)
    (check,) = checks_of(make_table(runs, design, "samples"), runs)
    assert check.sentence.startswith(
        "dynamic sampling: “without dynamic sampling” minus “DAPO” is −25.2 points [−25.9, −24.6]"
    )


@pytest.mark.parametrize(
    # Tokens above the symmetric range are counted where the range is symmetric: in the second row. Rows are filtered
    # where filtering is on: in the first
    ("left", "metric", "mean"),
    [(2, "dapo/above_symmetric", 0.0), (1, "dapo/rows_filtered", 0.3)],
)
def test_a_technique_is_checked_in_the_row_that_shows_it(left, metric, mean):
    design = make_design("leave-one-out")
    full, without = design.rows[0].key, design.rows[left].key
    runs = [*scored([2], [2], key=full), *scored([2], [2], key=without)]
    runs = [replace(run, manipulation={metric: 0.3 if run.row.key == full else 0.0}) for run in runs]
    (check,) = checks_of(make_table(runs, design, "samples"), runs)
    assert (check.metric, check.mean) == (metric, mean)


def test_a_regime_has_bounds_of_its_own_and_a_penalty_is_negative():
    design = make_design("one-at-a-time")
    rows = design.rows[0].key, design.rows[3].key
    runs = scored(*[[200]] * 3, key=rows[0], samples=400) + scored([201], [199], [200], key=rows[1], samples=400)
    runs = [replace(run, regime="brief", manipulation={"dapo/mean_length_penalty": -0.03}) for run in runs]
    (section,) = make_sections(runs, [design], ["samples"])
    assert section.checks[0][0].verdict == "finding"  # -0.03 lies beyond -0.01
    (section,) = make_sections(runs, [design], ["samples"], {"brief": {"dapo/mean_length_penalty": -0.05}})
    assert (section.checks[0][0].verdict, section.checks[0][0].bound) == ("not tested", -0.05)


def test_rows_that_no_design_knows_are_shown_all_the_same():
    (section,) = make_sections(made_runs(TWO, seeds=1, points=0), [LADDER], ["samples"])
    assert [row.row.name for row in section.tables[0].rows] == ["lr=1", "lr=2"]
    assert section.problems == ("No run of the design ladder.",)


def test_curves_are_averaged_over_seeds_where_all_have_points():
    # Seed 0 goes from 0 to 4, seed 1 from 1 to 3: both have 1 to 3. Means of y = x and y = x + 2 there are x + 1
    runs = [
        [{"completions": float(x), "y": float(x)} for x in range(5)],
        [{"completions": float(x), "y": x + 2.0} for x in (1, 2, 3)],
    ]
    found = mean_curve(runs, "completions", "y")
    assert (found.x[0], found.x[-1], found.seeds) == (1, 3, 2)
    np.testing.assert_allclose(found.mean, found.x + 1)
    # Halves of a difference of 2: the quarters lie 0.5 from either side
    np.testing.assert_allclose(found.high - found.low, 1)


def test_long_curves_are_averaged_within_bins_and_not_thinned():
    # 0, 1, 0, 1, ...: every bin of an even number of points has the mean 0.5, and no single point has
    runs = [[{"step": float(x), "y": float(x % 2)} for x in range(1000)]]
    found = mean_curve(runs, "steps", "y", bins=10)
    np.testing.assert_allclose(found.mean, np.full(10, 0.5))
    assert mean_curve(runs, "steps", "z") is None
    assert mean_curve([[{"step": 1.0, "y": 1.0}], [{"step": 2.0, "y": 1.0}]], "steps", "y") is None


def test_accuracy_is_the_held_out_one_if_every_run_has_it():
    runs = made_runs(TWO, seeds=1, points=3)
    assert curve_sets(runs, TWO, "held out")[0].title == "accuracy of completions generated"
    measured = ({"step": 1.0, "completions": 8.0, "seconds": 2.0, "held out": 0.4},)
    runs = [replace(run, held_out=measured) for run in runs]
    sets = curve_sets(runs, TWO, "held out")
    assert [one.name for one in sets if one.metric == "held out"] == [
        "accuracy-completions", "accuracy-steps", "accuracy-seconds",
    ]  # fmt: skip
    assert {one.metric for one in sets} >= {"entropy", "dapo/overlong_frac"}
    assert "reward" not in {one.metric for one in sets}  # no run has it


# ------------------------------------------------------------------------------------------------------------ results


def test_a_reader_of_results_json_needs_nothing_else(tmp_path):
    runs = with_metrics(made_runs(TWO, seeds=2, points=5), "entropy")
    report(tmp_path, runs, [TWO], notes=["a note"], left_out=["x: cut short"])
    found = read_archive(tmp_path)
    assert (found["title"], found["notes"], found["left_out"]) == ("A table", ["a note"], ["x: cut short"])
    (section,) = found["sections"]
    stored = section["runs"][0]["ends"]["samples"]["data_sets"]["held out"]
    questions = runs[0].ends["samples"].data_sets["held out"].questions
    assert stored["right"] == [one.right for one in questions]
    assert found["questions"][stored["questions"]] == [one.id for one in questions]
    assert len(found["questions"]) == 1  # runs share them
    row = section["tables"][0]["rows"][1]
    assert row["name"] == "lr=2"
    assert set(row["statistics"]["by_seed"]) == {"0", "1"}
    assert row["spent"]["completions"] == {"mean": 12288.0, "low": 12288.0, "high": 12288.0}


def test_the_same_runs_make_the_same_files(tmp_path):
    runs = with_metrics(made_runs(TWO, seeds=2, points=6), "entropy")
    for name in ("a", "b"):
        report(tmp_path / name, runs, [TWO])
    first, second = (
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("a", "b")
    )
    assert first.keys() == second.keys()
    assert [str(name) for name in first if first[name] != second[name]] == []
    assert len([name for name in first if name.suffix == ".png"]) == 3


def test_figures_of_an_earlier_report_are_removed_and_no_others(tmp_path):
    report(tmp_path, with_metrics(made_runs(TWO, seeds=2, points=6), "entropy"), [TWO])
    others = {tmp_path / "figures" / "own.png", tmp_path / "keep.svg"}
    for path in others:
        path.touch()
    content = json.loads((tmp_path / "results.json").read_text())
    assert "vary-entropy.svg" in content["figures"]
    content["figures"] += ["../keep.svg", 3]
    (tmp_path / "results.json").write_text(json.dumps(content))
    paths = write_report(tmp_path, made_runs(TWO, seeds=1, points=0), [TWO], ["samples"], title="x")
    assert {path for path in tmp_path.rglob("*.*") if path.is_file()} == {*paths, *others}


HOSTILE = "<img src=x onerror=alert(1)> |a|b| $x^$ \\input{/etc/passwd} =cmd()\x00\x1b\ud800\u202e\n# h"


def test_names_from_anywhere_are_text_in_every_format(tmp_path):
    runs = [
        replace(
            run,
            row=replace(run.row, name=f"{run.seed}{HOSTILE}", key=f"={HOSTILE}{run.seed}"),
            regime=HOSTILE,
            start=HOSTILE,
            config={HOSTILE: HOSTILE},
            environment={HOSTILE: [HOSTILE]},
            checkpoint={"why": HOSTILE},
            manipulation={f"clip_higher{HOSTILE}": 1.0},
        )
        for run in with_metrics(made_runs(TWO, seeds=2, points=3), "entropy")
    ]
    found = report(tmp_path, runs, [], title=HOSTILE, notes=[HOSTILE], left_out=[HOSTILE])
    assert "<img" not in found["index.html"]
    assert not re.search(r"(?<!\\)<img", found["table.md"])
    assert not re.search(r"(?<!\\textbackslash\{\})\\input", found["table.tex"])
    assert all("\n" not in value for line in csv_lines(found["table.csv"]) for value in line.values())
    assert csv_lines(found["table.csv"])[0]["key"].startswith("'=<img")
    assert json.loads(found["results.json"])["title"] == HOSTILE
    for path in (tmp_path / "figures").glob("*.svg"):
        assert "<img" not in path.read_text(encoding="utf-8")


def test_every_line_of_a_table_has_as_many_cells_as_its_heading(tmp_path):
    found = report(tmp_path, made_runs(seeds=2, points=0), [LADDER])
    blocks = re.findall(r"(?:^\|.*\n)+", found["table.md"], flags=re.M)
    assert len(blocks) == 4  # rows, and differences to the previous, the first and the last
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    rows = [line for line in found["table.tex"].splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {9, 8}


def test_long_names_are_shortened_and_their_figures_can_be_written(tmp_path):
    runs = [
        replace(run, row=replace(run.row, name=f"{'x' * 10_000} {run.row.name}"), regime="r" * 10_000)
        for run in with_metrics(made_runs(TWO, seeds=2, points=2), "clip_ratio/high_mean")
    ]
    design = replace(TWO, name="d" * 10_000)
    found = report(tmp_path, runs, [])
    assert "x" * 121 not in found["table.md"]
    assert len(list((tmp_path / "figures").glob("*.svg"))) == 3
    report(tmp_path, runs, [design])
    assert len(list((tmp_path / "figures").glob("*.svg"))) == 3


def test_a_completion_of_a_million_characters_is_shortened(tmp_path):
    run = made_run({}, key="x", points=0)
    run = replace(run, completions=(SampleCompletion("1+1=", "<" * 1_000_000, False),))
    found = report(tmp_path, [run])
    assert "997,000 more characters" in found["index.html"]
    assert len(found["index.html"]) < 200_000


def test_configs_stand_in_the_order_of_the_tables_and_not_of_the_runs(tmp_path):
    text = report(tmp_path, made_runs(seeds=1, points=0)[::-1], [LADDER])["index.html"]
    rows = re.findall(r'<th scope="row">([^<]*)', text[text.index("<h3>Config by row") :])
    assert rows[: len(LADDER.rows)] == [row.name for row in LADDER.rows]
