"""The compatibility table names every minor of the range, and says of each set what its tests gave."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.version import Version

import compat_matrix
from compat_matrix import BEGIN, END, PAGE, ROOT, SUITES, TRL, Result, read_report, release_sets, suites_of, table
from trl_dapo.host.host_names import TESTED


NEWEST = {name: tested.highest for name, tested in TESTED.items()}


def page_table() -> list[list[str]]:
    """Rows of the table in the page, a list of cells each, without what makes them bold."""
    text = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("**", "") for cell in line.strip("|").split("|")] for line in lines]


# --------------------------------------------------------------------------------------------------------- the page


def test_every_minor_of_trl_between_the_ends_is_a_set():
    lowest, highest = (Version(release) for release in (TESTED["trl"].lowest, TESTED["trl"].highest))
    assert [Version(release).minor for release in TRL] == list(range(lowest.minor, highest.minor + 1))
    assert (TRL[0], TRL[-1]) == (TESTED["trl"].lowest, TESTED["trl"].highest)


def test_the_page_has_a_row_for_each_set_with_its_releases():
    header, _, *rows = page_table()
    assert header == ["Release", *TESTED, *SUITES]
    expected = {name.replace("-", " "): list(releases.values()) for name, releases in release_sets().items()}
    assert {name: cells[: len(TESTED)] for name, *cells in rows} == expected


def test_every_row_of_the_page_has_results_of_each_suite():
    for name, *cells in page_table()[2:]:
        for suite, cell in zip(SUITES, cells[len(TESTED) :], strict=True):
            assert re.fullmatch(r"[1-9]\d* passed|\d+ of [1-9]\d*", cell), f"{name}, {suite}: {cell}"


@pytest.mark.parametrize("name", TESTED)
def test_the_page_states_the_ranges_and_the_tested_releases(name):
    tested = TESTED[name]
    (line,) = re.findall(rf"(?m)^\| `{name}` \| `(.+?)` \| (.+) \|$", PAGE.read_text())
    releases = TRL if name == "trl" else (tested.lowest, tested.highest)
    assert line == (tested.specifier, ", ".join(releases))
    assert f'"{name}=={tested.highest}"' in PAGE.read_text()


# ------------------------------------------------------------------------------------------------------- the script


def test_one_release_differs_in_each_set_and_all_of_them_in_the_lowest():
    sets = release_sets()
    differing = {name: {one for one in NEWEST if found[one] != NEWEST[one]} for name, found in sets.items()}
    assert differing.pop("lowest") == set(TESTED)
    assert differing.pop(f"trl-{TESTED['trl'].highest}") == set()
    assert all(len(one) == 1 for one in differing.values())
    assert {name for one in differing.values() for name in one} == set(TESTED)


def test_every_test_that_is_named_exists():
    for node in {test for suite in SUITES.values() for test in suite}:
        file, _, name = node.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), node


XML = """<testsuites><testsuite>
<testcase classname="tests.test_dpo" name="test_with_a_reference_it_is_trl_bit_for_bit[pairs-settings0]"/>
<testcase classname="tests.test_dpo" name="test_with_a_reference_it_is_trl_bit_for_bit[chats-settings1]">
<failure message="no"/></testcase>
<testcase classname="tests.test_dpo" name="test_a_killed_run_resumes_to_the_same_end[lora-True]"><error/></testcase>
<testcase classname="tests.test_host_contract" name="test_the_installed_trl_has_the_seams"><skipped/></testcase>
<testcase classname="" name="tests.test_reward"><error message="collection failure"/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_counted_by_suite(tmp_path):
    path = tmp_path / "report.xml"
    path.write_text(XML)
    counts, failed = read_report(path)
    # A file that cannot be imported counts against each suite that it has tests of
    assert counts == {"contract": [0, 0], "equivalence": [1, 3], "resume": [0, 2]}
    assert failed == [
        "tests/test_dpo.py::test_with_a_reference_it_is_trl_bit_for_bit[chats-settings1]",
        "tests/test_dpo.py::test_a_killed_run_resumes_to_the_same_end[lora-True]",
        "tests/test_reward.py",
    ]


def test_a_parameter_that_is_named_is_the_only_one_of_its_test():
    assert suites_of("tests/test_dpo.py::test_a_killed_run_resumes_to_the_same_end[lora-True]") == ["resume"]
    assert suites_of("tests/test_dpo.py::test_a_killed_run_resumes_to_the_same_end[whole-True]") == []


def result(**fields) -> Result:
    counts = {"contract": [4, 4], "equivalence": [9, 9], "resume": [6, 6]}
    empty = {"beside": [], "failed": [], "python": "3.11.7", "torch": "2.13.0"}
    return Result(**{"releases": NEWEST, "counts": counts, **empty, **fields})


def test_the_table_says_what_failed():
    counts = {"contract": [4, 4], "equivalence": [8, 9], "resume": [6, 6]}
    lowest = result(counts=counts, failed=["tests/test_dpo.py::test_x[a]"], beside=["httpx==0.28.1"])
    text = table({"trl-1.16.0": result(), "lowest": lowest})
    assert "| trl 1.16.0 | **1.16.0** | 5.24.0 | 1.15.0 | 5.2.0 | 0.21.2 | 4 passed | 9 passed | 6 passed |" in text
    assert "| 4 passed | **8 of 9** | 6 passed |" in text
    assert "Did not pass:\n\n- lowest: `tests/test_dpo.py::test_x[a]`" in text
    assert "- lowest: httpx 0.28.1" in text
    assert "On Python 3.11.7, torch 2.13.0." in text


def test_the_page_is_written_around_the_table_once_all_sets_are_run(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    monkeypatch.setattr(compat_matrix, "PAGE", page)
    asked = []

    def measure(releases, folder):
        asked.append(folder.name)
        folder.mkdir(parents=True)
        return result(releases=releases)

    monkeypatch.setattr(compat_matrix, "measure", measure)
    folder = ["--folder", str(tmp_path / "sets")]
    assert compat_matrix.main(["--only", "trl-1.13", "trl-1.14", *folder]) == 0
    assert asked == ["trl-1.14.2", "trl-1.13.0"]
    assert "old" in page.read_text()
    assert "No table yet" in capsys.readouterr().out
    assert compat_matrix.main(folder) == 0
    # Those two are not run again
    assert sorted(asked) == sorted(release_sets())
    before, after = page.read_text().split(BEGIN)[0], page.read_text().split(END)[1]
    assert (before, after) == ("before\n\n", "\n\nafter\n")
    assert "| trl 1.13.0 | **1.13.0** |" in page.read_text()


def test_a_set_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit):
        compat_matrix.main(["--only", "trl-2"])
    assert "--only trl-2: the sets are trl-1.16.0, trl-1.15.0" in capsys.readouterr().err


def test_what_a_set_needs_besides_its_releases_is_installed_and_told(tmp_path, monkeypatch):
    called = []

    def run(command, **kwargs):
        called.append(command)
        found = [
            {"metadata": {"name": "trl", "version": "1.13.0"}},
            {"metadata": {"name": "dill", "version": "0.4.0"}},
        ]
        return SimpleNamespace(stdout=json.dumps({"install": found}))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(compat_matrix, "version", lambda name: "2.13.0")
    assert compat_matrix.install({"trl": "1.13.0", "peft": "0.21.2"}, tmp_path / "packages") == ["dill==0.4.0"]
    dry, real = called
    assert dry[-3:] == ["torch==2.13.0", "trl==1.13.0", "peft==0.21.2"]
    assert "--dry-run" in dry
    assert real[-4:] == ["--target", str(tmp_path / "packages"), "trl==1.13.0", "dill==0.4.0"]
    assert "--no-deps" in real
    assert Path(tmp_path / "packages").is_dir()
