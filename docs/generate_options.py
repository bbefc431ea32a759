"""
Writes the pages of options in `docs/options/`, from the fields that the commands parse.

    python docs/generate_options.py

`tests/test_options_pages.py` holds the pages to what this returns.
"""

import argparse
import dataclasses
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trl_dapo.cli.commands import COMMANDS, Command
from trl_dapo.cli.option_groups import TITLES, grouped
from trl_dapo.cli.script import make_parser


FOLDER = Path(__file__).parent / "options"
NAMES = {"dapo": "DAPO", "grpo": "GRPO", "ppo": "PPO", "reward": "a reward model", "dpo": "DPO"}
# More choices than a line holds
MANY = 8


@dataclasses.dataclass(frozen=True)
class Option:
    """
    One option of a command.

    Args:
        name (`str`):
            The field, which is the key in a YAML file too.
        default (`str`):
            As code; empty where the value is required.
        choices (`tuple[str, ...]`):
            Values that are taken, if these are few.
        help (`str`):
            What it does, as Markdown.
        is_own (`bool`):
            Whether this package adds it or changes its default.
    """

    name: str
    default: str
    choices: tuple[str, ...]
    help: str
    is_own: bool


def own_fields(classes: list[type]) -> set[str]:
    """Returns the names of fields that classes of this package declare."""
    own = {base for one in classes for base in one.__mro__ if base.__module__.startswith("trl_dapo")}
    return {name for base in own for name in vars(base).get("__annotations__", {})}


def options_of(command: Command) -> dict[str, Option]:
    """Returns the options of a command, by name, in the order of its parser."""
    parser = make_parser(command)
    own = own_fields(parser.dataclass_types)
    found = {}
    for action in parser._actions:
        if action.dest not in ("help", "config", *found):
            found[action.dest] = option_of(action, action.dest in own)
    return found


def option_of(action: argparse.Action, is_own: bool) -> Option:
    """Returns what the page says of one argument."""
    is_short = action.choices and len(list(action.choices)) <= MANY
    choices = tuple(str(choice) for choice in action.choices) if is_short else ()
    default = "" if action.required else shown(action.default)
    return Option(action.dest, default, choices, markdown(action.help or ""), is_own)


def shown(default: Any) -> str:
    """Returns a default as one writes it in YAML."""
    if default in (None, dataclasses.MISSING, argparse.SUPPRESS):
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return " ".join(map(str, default)) or "none"
    return str(getattr(default, "value", default)) or "none"


def markdown(text: str) -> str:
    """Returns a help text as one line of a table."""
    text = re.sub(r"\s+", " ", text.replace("%%", "%")).strip()
    # Names in quotes as code, paths of the Hub's dialect too
    text = re.sub(r"(?<![`\w])'([\w.]+)'(?![`\w])", r"`\1`", text)
    text = re.sub(r"(?<!`)<(\w+)>", r"&lt;\1&gt;", text)
    return text.replace("|", r"\|").replace("$", r"\$")


def first_sentence(text: str) -> str:
    """Returns the first sentence; abbreviations such as "e.g." end none."""
    found = re.match(r"(.+?(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)\.)(?= [A-Z`\"(]|$)", text)
    return found[1] if found else text


def page(command: Command) -> str:
    """Returns the page of a command: groups, and in each what is this package's before what is not."""
    options, config = options_of(command), command.config.rpartition(":")[2]
    lines = [
        f"# Options of {NAMES[command.name]}",
        "",
        f"`trl-dapo {command.name}` takes each as `--name value`, its YAML file as `name: value`, and",
        f"[`{config}`](../reference/{reference(command)}.md) its own fields as keyword arguments. Each group begins",
        "with what this package adds or sets otherwise. What comes from TRL and transformers unchanged follows.",
    ]
    for group, names in grouped(options).items():
        found = [options[name] for name in names]
        lines += ["", f"## {title(group)}", *tables(found)]
    return "\n".join([*lines, "", made()])


def reference(command: Command) -> str:
    """Returns the name of the command's page in the reference."""
    return "reward_model" if command.name == "reward" else command.name


def title(group: str) -> str:
    """Returns the heading of a group."""
    return TITLES[group][0].upper() + TITLES[group][1:]


def tables(options: list[Option]) -> list[str]:
    """Returns the lines of a group's tables."""
    own, other = [one for one in options if one.is_own], [one for one in options if not one.is_own]
    lines = []
    if own:
        lines += ["", "| option | default | what it does |", "|---|---|---|"]
        lines += [f"| {head(one)} | {one.help}{choice(one)} |" for one in own]
    if other:
        lines += ["", "| from TRL and transformers | default | in short |", "|---|---|---|"]
        lines += [f"| {head(one)} | {first_sentence(one.help)}{choice(one)} |" for one in other]
    return lines


def head(option: Option) -> str:
    """Returns the first two cells of an option's row."""
    return f"`{option.name}` | {f'`{option.default}`' if option.default else 'required'}"


def choice(option: Option) -> str:
    """Returns the sentence with the choices, empty if there are none."""
    named = [f"`{value}`" for value in option.choices]
    return f" One of {', '.join(named)}." if named else ""


def made() -> str:
    """Returns the last line of a page."""
    return (
        f"Made by `docs/generate_options.py` from the help texts, with TRL {version('trl')} and transformers "
        f"{version('transformers')}.\n"
    )


def index() -> str:
    """Returns the first page: which groups there are, and which command has how many of them."""
    groups = {name: grouped(options_of(command)) for name, command in COMMANDS.items()}
    lines = [
        "# Options",
        "",
        "Every option of the training commands, by group. What they are for, and how they depend on each other, is in",
        "[configuration](../configuration.md); how files and flags go together, in [command line](../cli.md).",
        "",
        f"| group | {' | '.join(f'[{name}]({name}.md)' for name in COMMANDS)} |",
        f"|---|{'---|' * len(COMMANDS)}",
    ]
    for group in TITLES:
        counts = [len(found.get(group, ())) for found in groups.values()]
        if any(counts):
            cells = [
                f"[{count}]({name}.md#{slug(title(group))})" if count else ""
                for name, count in zip(COMMANDS, counts, strict=True)
            ]
            lines.append(f"| {title(group)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", made()])


def slug(text: str) -> str:
    """Returns the anchor of a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def pages() -> dict[str, str]:
    """Returns the text of each page by the name of its file."""
    return {"index.md": index(), **{f"{name}.md": page(command) for name, command in COMMANDS.items()}}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
        print(FOLDER / name)
