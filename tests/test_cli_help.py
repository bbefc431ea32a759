"""`--help`: short pages in groups, every option in one group, and answers that need nothing else."""

import argparse
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest

from trl_dapo.cli.arguments import CommandParser
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.errors import UsageError
from trl_dapo.cli.field_help import fields_of
from trl_dapo.cli.grouped_help import GroupedHelp
from trl_dapo.cli.help_text import first_sentence, plain
from trl_dapo.cli.main import SUMMARIES, main
from trl_dapo.cli.option_groups import FRONT, GROUPS, OTHERS, TITLES, group_of, grouped
from trl_dapo.cli.option_words import FIRST_PAGE, TEXTS, VALUES
from trl_dapo.cli.script import make_parser


OWN_PARSER = [name for name in SUMMARIES if name not in COMMANDS]
# Fields that the table names and that not every release of TRL and transformers in the range has: why
NOT_IN_EVERY_RELEASE = {
    "activation_checkpointing": "transformers renames gradient_checkpointing",
    "activation_checkpointing_kwargs": "transformers renames gradient_checkpointing_kwargs",
    "gradient_checkpointing_kwargs": "transformers drops it in version 6",
    "use_transformers_paged": "deprecated",
    "vllm_importance_sampling_cap": "deprecated",
    "pad_token": "deprecated",
    "local_rank": "deprecated",
    "trackio_bucket_id": "of later releases of transformers",
    "trackio_static_space_id": "of later releases of transformers",
    "dataloader_multiprocessing_context": "of later releases of transformers",
    "dataloader_in_order": "of later releases of transformers",
}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def parsers():
    return {name: make_parser(command, prog=f"trl-dapo {name}") for name, command in COMMANDS.items()}


def own_parser(name):
    module = "rewind_options" if name == "rewind" else name
    return import_module(f"trl_dapo.cli.{module}").make_parser()


def page(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


# ----------------------------------------------------------------------------------------------------------- the table


def test_every_field_is_in_one_group_at_most():
    counts = Counter(name for members in GROUPS.values() for name in members)
    assert [name for name, count in counts.items() if count > 1] == []
    assert set(TITLES) == {*GROUPS, OTHERS}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_in_one_group(command, parsers):
    options = fields_of(parsers[command]._actions)
    # `--no_x` sets the field of `--x`, and so belongs to it; `--help` is not a field
    hidden = {action.dest for action in parsers[command]._actions} - set(options)
    assert hidden == {"help"}
    listed = [name for members in grouped(options).values() for name in members]
    assert sorted(listed) == sorted(options)


def test_no_field_is_named_that_no_command_has(parsers):
    there = {name for parser in parsers.values() for name in fields_of(parser._actions)}
    named = {name for members in GROUPS.values() for name in members}
    assert sorted(named - there - set(NOT_IN_EVERY_RELEASE)) == []
    assert sorted(set(NOT_IN_EVERY_RELEASE) - named) == []
    assert all(NOT_IN_EVERY_RELEASE.values())


def test_what_no_group_names_stands_at_the_end_under_others():
    assert grouped(["of_a_later_release", "beta", "also_new", "seed"]) == {
        "run": ["seed"],
        "loss": ["beta"],
        OTHERS: ["of_a_later_release", "also_new"],
    }
    assert group_of("of_a_later_release") == OTHERS


def test_every_field_of_the_first_page_is_one_of_the_command_and_has_a_short_text(parsers):
    for command, front in FRONT.items():
        assert sorted(front - set(fields_of(parsers[command]._actions))) == [], command
        assert sorted(name for name in front if name not in FIRST_PAGE and name not in TEXTS) == [], command


def test_every_text_is_of_a_field(parsers):
    for key in (*FIRST_PAGE, *TEXTS, *VALUES):
        *command, name = key.split(".")
        found = [one for one, parser in parsers.items() if name in fields_of(parser._actions)]
        assert set(command or found[:1]) <= set(found), key
        assert found, key


# ----------------------------------------------------------------------------------------------------------- the pages


@pytest.mark.parametrize("command", SUMMARIES)
def test_the_first_page_fits_on_a_screen(command, capsys):
    lines = page([command, "--help"], capsys)
    assert lines[0].startswith(f"usage: trl-dapo {command}")
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_on_the_first_page_every_option_has_one_line(command, capsys, parsers):
    lines = page([command, "--help"], capsys)
    options = [line for line in lines if line.startswith("  -")]
    assert len(options) == len(FRONT[command])
    # Behind each option is its text, and nothing is wrapped below it
    assert all(re.fullmatch(r"  --\S+( \S+)*?  +\S.*", line) for line in options)
    assert not [line for line in lines if line.startswith("   ")]


@pytest.mark.parametrize("command", SUMMARIES)
def test_all_shows_every_option_once(command, capsys, parsers):
    lines = page([command, "--help", "all"], capsys)
    assert max(map(len, lines)) <= 80
    parser = parsers[command] if command in COMMANDS else own_parser(command)
    shown = Counter(re.findall(r"^  --(?:\[no_\])?([\w-]+)", "\n".join(lines), flags=re.M))
    # `--set` of rewind has another name in the program
    names = {"groups": "set"} if command == "rewind" else {}
    fields = {action.dest for action in parser._actions if action.option_strings} - {"help"}
    assert shown == Counter(names.get(name, name) for name in fields)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_group_is_shown_alone_and_all_groups_are_named_in_the_last_lines(command, capsys, parsers):
    names = parsers[command].group_names()
    last = " ".join(page([command, "--help"], capsys)[-4:])
    assert "--help all" in last
    assert "--help GROUP" in last
    assert all(re.search(rf"\b{name}\b", last) for name in names)
    for name in names:
        lines = page([command, "--help", name], capsys)
        assert lines[0].split(":")[0] == name
        assert max(map(len, lines)) <= 80
        shown = re.findall(r"^  --(?:\[no_\])?(\w+)", "\n".join(lines), flags=re.M)
        assert shown == grouped(fields_of(parsers[command]._actions))[name]


@pytest.mark.parametrize("command", ["dapo", "eval", "verify", "ablate", "demo"])
def test_a_group_that_is_none_is_one_line_that_names_the_groups(command, capfd):
    assert main([command, "--help", "nonsense"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("trl-dapo: error: --help nonsense: no group has this name. The groups are ")
    assert err.count("\n") == 1
    assert err.endswith("and all.\n")


# --------------------------------------------------------------------------------------------------- words around it


@pytest.mark.parametrize(
    "words",
    [
        ["-h"],
        ["--help"],
        ["--max_steps", "3", "--help"],
        ["--help", "--max_steps", "3"],
        ["--learning_r", "1e-4", "-h"],
    ],
)
def test_help_in_any_position(words, capsys):
    assert page(["dapo", *words], capsys) == page(["dapo", "--help"], capsys)


@pytest.mark.parametrize("words", [["--help=loss"], ["-h", "loss"], ["--max_steps", "3", "--help", "loss"]])
def test_a_group_in_any_position(words, capsys):
    assert page(["dapo", *words], capsys) == page(["dapo", "--help", "loss"], capsys)


def test_with_a_file_the_defaults_are_those_of_the_file(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("max_steps: 7\nclip_higher: false\n")
    for words in (["--config", str(path), "--help"], ["--help", "--config", str(path)]):
        lines = page(["dapo", *words], capsys)
        assert any(line.split()[0] == "--max_steps" and line.endswith("(7)") for line in lines if line.strip())
        assert any("clip_higher" in line and "(off)" in line for line in lines)


@pytest.mark.parametrize(
    "words", [["verify", "--help", "ppo"], ["plan", "dpo", "--help"], ["rewind", "--help", "runs/a"]]
)
def test_words_of_a_command_behind_help_are_not_taken_for_groups(words, capsys):
    assert page(words, capsys) == page([words[0], "--help"], capsys)


def test_abbreviations_of_fields_still_parse(parsers):
    assert parsers["dapo"].parse_known_args(["--learning_r", "1e-4"])[0].learning_rate == 1e-4


def test_loading_the_libraries_prints_nothing():
    # In a process of its own: a library says what it lacks when it is imported for the first time
    words = [sys.executable, "-m", "trl_dapo.cli.main", "dapo", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""


# --------------------------------------------------------------------------------------------------------- the rows


@dataclass
class Few:
    shade: Literal["light", "dark"] = field(default="dark", metadata={"help": "How it looks."})
    optim: Literal["a_rather_long_choice", "another_long_choice", "a_third"] = field(
        default="a_third", metadata={"help": "Which one."}
    )
    careful: bool = field(default=True, metadata={"help": "Look twice. Once is not enough."})
    size: int | None = field(default=None, metadata={"help": "How much, e.g. 90 %% of it, see [here](https://x.org)."})
    names: list[str] | None = field(default=None, metadata={"help": "Some of them."})


def test_choices_negation_and_kinds(capsys):
    parser = CommandParser([Few])
    text = parser.help_page("all")
    assert "--shade {light,dark} " in text
    assert "--[no_]careful " in text
    assert "--no_careful" not in text
    assert "--size N " in text
    assert "How much, e.g. 90 % of it, see here." in text
    assert "--names VALUE ..." in text
    assert "a_rather_long_choice, another_long_choice, a_third" in " ".join(text.split())


def test_long_choices_are_cut_on_the_first_page_with_the_group_to_see():
    parser = CommandParser([Few])
    (group,) = (one for one in parser.sections(is_first_page=False) if one.name == "training")
    assert group.rows[0].option == "--optim VALUE"
    from trl_dapo.cli.field_help import field_sections

    (section,) = field_sections("dapo", parser._actions, [Few], frozenset({"optim"}))
    assert section.rows[0].text == (
        "Which one. One of a_rather_long_choice, another_long_choice, …, see --help training (a_third)"
    )


def test_a_first_sentence_does_not_end_at_an_abbreviation():
    assert first_sentence("Set it, e.g. A. Then B.") == "Set it, e.g. A."
    assert first_sentence("A path (i.e. `x`). More") == "A path (i.e. `x`)."
    assert first_sentence("no end") == "no end"
    assert plain("  a\n  [b](https://c.org)  50 %%") == "a b 50 %"


def test_a_parser_of_ones_own_takes_its_groups_from_argparse(capsys):
    parser = GroupedHelp(prog="x", description="Does it.")
    parser.add_argument("run")
    parser.add_argument("--plain", action="store_true", help="So.")
    parser.add_argument_group("two words").add_argument("--deep", type=float, required=True, help="How. Really.")
    assert parser.format_help() == (
        "usage: x RUN --deep X [options]\n\nDoes it.\n\noptions:\n  RUN\n  --plain   So.\n\n"
        "two words:\n  --deep X  How.\n\n"
        "--help all shows each text in full; --help GROUP one group of options, two.\n"
    )
    with pytest.raises(UsageError, match="no group has this name"):
        parser.help_page("three")
    assert issubclass(GroupedHelp, argparse.ArgumentParser)


def test_the_documentation_names_every_group():
    text = (Path(__file__).parent.parent / "docs" / "cli.md").read_text().split("## `trl-dapo dapo`")[0]
    assert [name for name in GROUPS if f"`{name}`" not in text] == []
