"""`result.json`: what is read, what is refused and why, and how folders of them are walked."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation_runs import made_run
from trl_dapo.ablation import reading
from trl_dapo.ablation.results import RESULT, ResultError, find_results, read_result, write_result


RUN = made_run({"clip_higher": True}, key="only-clip-higher", questions=3, points=2)
OTHER = made_run({}, key="outside", questions=3, points=1)


def written(folder, run=RUN):
    write_result(folder, run)
    return folder / RESULT


def changed(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def end_of(content):
    return content["ends"]["samples"]


def data_set_of(content):
    return end_of(content)["data_sets"]["held out"]


def test_what_is_written_is_what_is_read(tmp_path):
    found = read_result(written(tmp_path))
    assert found.row == RUN.row
    assert found.ends == RUN.ends
    assert found.completions == RUN.completions
    assert list(found.curve) == list(RUN.curve)
    assert (found.seed, found.config, found.manipulation) == (RUN.seed, RUN.config, RUN.manipulation)


def test_half_of_a_surrogate_pair_and_control_characters_come_back(tmp_path):
    path = written(tmp_path)
    text = "\ud83d \x00\x1b[31m \u202e"
    changed(path, lambda content: content["completions"][0].update(completion=text))
    assert read_result(path).completions[0].completion == text


def test_fields_that_the_schema_does_not_know_are_passed_over(tmp_path):
    def change(content):
        content["of_another_program"] = {"a": [1]}
        data_set_of(content)["difficulty"] = "hard"
        data_set_of(content)["questions"][0]["topic"] = 7

    assert read_result(changed(written(tmp_path), change)).ends == RUN.ends


def test_what_may_be_left_out_has_defaults(tmp_path):
    def change(content):
        for name in ("curve", "held_out", "manipulation", "completions", "regime", "start", "config", "checkpoint"):
            del content[name]
        content["environment"] = None
        content["row"] = {"key": "a", "name": "b"}

    found = read_result(changed(written(tmp_path), change))
    assert (found.curve, found.completions, found.regime, found.environment) == ([], (), None, {})
    assert (found.row.changes, found.row.position) == ({}, 0)


def update(name, value, of=lambda content: content):
    return lambda content: of(content).__setitem__(name, value)


def questions(*values):
    return lambda content: data_set_of(content).update(questions=list(values))


Q = {"id": "a", "samples": 4, "right": 2}
REFUSED = {
    "another program": (update("kind", "lm_eval.results"), "another program"),
    "another schema": (update("schema", 2), "`schema` is 2; this version reads schema 1"),
    "no schema": (lambda content: content.pop("schema"), "`schema` is null"),
    "true is no schema": (update("schema", True), "`schema` is true"),
    "no seed": (lambda content: content.pop("seed"), "`seed` is missing"),
    "a text as seed": (update("seed", "1"), "`seed` is '1', no whole number"),
    "true as seed": (update("seed", True), "`seed` is true, no whole number"),
    "a fraction as seed": (update("seed", 1.5), "`seed` is 1.5, no whole number"),
    "a row without key": (lambda content: content["row"].pop("key"), "`row.key` is missing"),
    "an empty key": (update("key", "", lambda c: c["row"]), "`row.key` is '', no name"),
    "a row that is a list": (update("row", []), "`row` is [], no object"),
    "no ends": (update("ends", {}), "`ends` is empty"),
    "negative steps": (update("steps", -1, end_of), "`ends.samples.steps` is -1; it is at least 0"),
    "negative seconds": (update("seconds", -0.5, end_of), "`ends.samples.seconds` is -0.5; it is at least 0"),
    "a budget of NaN": (update("budget", float("nan"), end_of), "`ends.samples.budget` is nan, no finite number"),
    "no data sets": (update("data_sets", {}, end_of), "`ends.samples.data_sets` is empty"),
    "no questions": (questions(), "`ends.samples.data_sets.held out.questions` is empty"),
    "no samples": (questions({**Q, "samples": 0, "right": 0}), "questions[0].samples` is 0; it is at least 1"),
    "negative right": (questions({**Q, "right": -2}), "questions[0].right` is -2; it is at least 0"),
    "more right than samples": (questions({**Q, "right": 5}), "questions[0].right` is 5, more than its 4 samples"),
    "NaN right": (questions({**Q, "right": float("nan")}), "questions[0].right` is nan, no whole number"),
    "an id twice": (questions(Q, Q), "questions` has the id 'a' twice"),
    "a share above 1": (update("truncated", 1.5, data_set_of), "truncated` is 1.5; it is a share"),
    "infinity in a curve": (lambda c: c["curve"][1].update(entropy=float("inf")), "`curve[1].entropy` is inf"),
    "a text in a curve": (lambda c: c["curve"][0].update(loss="low"), "`curve[0].loss` is 'low', no finite number"),
    "a huge number": (lambda c: c["curve"][0].update(loss=10**400), "more than 30 digits, no finite number"),
    "a curve of numbers": (update("curve", [1]), "`curve[0]` is 1, no object"),
    "NaN in the config": (update("config", {"a": [float("nan")]}), "`config.a[0]` is nan, no finite number"),
    "right that is 1": (lambda c: c["completions"][0].update(right=1), "`completions[0].right` is 1, neither true"),
    "a regime of numbers": (update("regime", 3), "`regime` is 3, no text"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_value_that_cannot_be_is_named(tmp_path, change, reason):
    path = changed(written(tmp_path), change)
    with pytest.raises(ResultError) as raised:
        read_result(path)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cut short"),
        (b'{"schema": 1, "kind": "trl_dapo.abl', "cut short"),
        (b'{"schema": 1,', "cut short"),
        (b"seed: 3", "no JSON"),
        (b"[1, 2]", "another program"),
        (b"\xff\xfe{}", "no UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "cannot be read: Exceeds the limit"),
    ],
)
def test_a_file_that_holds_no_result_says_why(tmp_path, content, reason):
    (tmp_path / RESULT).write_bytes(content)
    with pytest.raises(ResultError, match=reason) as raised:
        read_result(tmp_path / RESULT)
    assert "\n" not in str(raised.value)


@settings(max_examples=40)
@given(st.integers(0, 3000))
def test_a_file_cut_anywhere_takes_no_part(tmp_path_factory, length):
    path = written(tmp_path_factory.mktemp("cut"))
    text = path.read_text().rstrip()
    path.write_text(text[: min(length, len(text) - 1)])
    with pytest.raises(ResultError):
        read_result(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(st.data())
def test_whatever_stands_in_a_field_the_file_is_read_or_refused(tmp_path_factory, data):
    path = written(tmp_path_factory.mktemp("any"))
    content = json.loads(path.read_text())
    place = content
    while isinstance(place, dict | list) and place:
        name = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if data.draw(st.booleans()) or not isinstance(place[name], dict | list) or not place[name]:
            place[name] = data.draw(JSON)
            break
        place = place[name]
    path.write_text(json.dumps(content))
    reason = ""
    try:
        read_result(path)
    except ResultError as error:
        reason = str(error)
    assert "\n" not in reason


# ------------------------------------------------------------------------------------------------------------ folders


def test_results_are_found_in_path_order_and_the_rest_is_named(tmp_path):
    for folder, seed in (("b", 1), ("a/deep/er", 2)):
        written(tmp_path / folder, made_run({}, key="base", seed=seed, questions=3, points=1))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / RESULT).write_text("{")
    (tmp_path / "c" / "other.json").write_text("{")
    found = find_results(tmp_path)
    assert [run.seed for run in found.runs] == [2, 1]
    assert len(found.left_out) == 1
    assert found.left_out[0].startswith("c/result.json: it is cut short")


def test_of_two_runs_of_a_row_a_seed_and_a_regime_the_first_takes_part(tmp_path):
    for folder in ("z", "m"):
        written(tmp_path / folder)
    written(tmp_path / "other", made_run({}, key="only-clip-higher", questions=3, points=1, regime="wide"))
    found = find_results(tmp_path)
    assert [run.regime for run in found.runs] == [None, "wide"]
    assert found.left_out == ("z/result.json: 'only-clip-higher', seed 0, is in m/result.json already",)


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(ResultError, match=r"nothing is no folder\. Name one that has result\.json"):
        find_results(tmp_path / "nothing")


def test_loops_of_links_end_and_are_named(tmp_path):
    written(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "a" / "again").symlink_to(tmp_path / "runs")
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "a")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / RESULT).symlink_to(tmp_path / "self" / RESULT)
    (tmp_path / "elsewhere").symlink_to(written(tmp_path.parent / "outside", OTHER).parent)
    (tmp_path / "up").symlink_to(tmp_path.parent)
    found = find_results(tmp_path)
    assert [run.row.key for run in found.runs] == ["outside", "only-clip-higher"]
    assert found.left_out == (
        "link: a link to a folder that is read as runs/a",
        "runs/a/again: a link to a folder that is read as runs",
        "up: a link to a folder above",
        "self/result.json: it cannot be read: Too many levels of symbolic links",
    )


def test_what_is_no_regular_file_keeps_nobody_waiting(tmp_path):
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / RESULT)
    (tmp_path / "folder" / RESULT).mkdir(parents=True)
    assert find_results(tmp_path).left_out == (
        "folder/result.json: it is a folder",
        "pipe/result.json: it is no regular file",
    )


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    written(tmp_path)
    monkeypatch.setattr(reading, "LARGEST", 100)
    assert "more than the 100 that are read" in find_results(tmp_path).left_out[0]


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = written(tmp_path / "a")

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "read_text", refuse)
    assert find_results(tmp_path).left_out == ("a/result.json: it cannot be read: Permission denied",)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    assert find_results(tmp_path).left_out == ("closed: the folder cannot be read: Permission denied",)


def test_names_of_folders_stay_on_one_line(tmp_path):
    folder = tmp_path / "a\nb\x1b"
    folder.mkdir()
    (folder / RESULT).write_text("{")
    assert find_results(tmp_path).left_out[0].startswith(r"a\nb\x1b/result.json: it is cut short")
