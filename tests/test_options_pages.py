"""The pages of options are what the commands parse."""

import re
from importlib.metadata import version
from pathlib import Path

import generate_options
import pytest
from generate_options import first_sentence, markdown, options_of, pages, slug

from trl_dapo.cli.commands import COMMANDS


ROOT = Path(__file__).parents[1]
PINS = dict(re.findall(r"^(trl|transformers)==(.+)$", (ROOT / "constraints.txt").read_text(), re.M))

of_tested_versions = pytest.mark.skipif(
    any(version(name) != pin for name, pin in PINS.items()),
    reason="the pages show the options of the versions in constraints.txt, and others are installed",
)


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


@of_tested_versions
@pytest.mark.parametrize("name", ["index.md", *(f"{name}.md" for name in COMMANDS)])
def test_a_page_is_what_the_help_texts_say(made, name):
    stored = (generate_options.FOLDER / name).read_text()
    assert stored == made[name], "stale: run python docs/generate_options.py"


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_each_option_stands_in_one_row(made, command):
    rows = re.findall(r"^\| `(\w+)` \|", made[f"{command.name}.md"], re.M)
    assert sorted(rows) == sorted(options_of(command))


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_own_options_say_what_they_do(command):
    own = [option for option in options_of(command).values() if option.is_own]
    assert len(own) >= 5
    assert all(len(option.help) > 15 for option in own)


def test_own_fields_are_told_from_those_of_trl():
    options = options_of(COMMANDS["dapo"])
    assert options["clip_higher"].is_own
    assert options["epsilon_high"].is_own  # TRL's, with another default
    assert options["held_out"].is_own  # no field of the config
    assert not options["num_generations"].is_own
    assert options["dynamic_sampling_on_exhaustion"].default == "fill"


def test_first_sentences_end_at_no_abbreviation():
    assert first_sentence("Reads e.g. JSON. Then more.") == "Reads e.g. JSON."
    assert first_sentence("At 0.5 of it. More") == "At 0.5 of it."
    assert first_sentence("no end") == "no end"


def test_help_becomes_one_line_of_a_table():
    assert markdown("a | b\n 'name' and 50%% of <k>") == r"a \| b `name` and 50% of &lt;k&gt;"


def test_anchors_of_the_index_are_headings(made):
    for page, anchor in re.findall(r"\]\((\w+\.md)#([\w-]+)\)", made["index.md"]):
        assert anchor in {slug(title) for title in re.findall(r"^## (.+)$", made[page], re.M)}
