"""What an editor shows of a config: each field's text below it, its choices in its type, and all fields by section."""

import ast
import inspect
import re
import types
from dataclasses import fields
from itertools import pairwise
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import yaml
from trl import DPOConfig as HostDPOConfig
from trl import GRPOConfig as HostGRPOConfig
from trl import RewardConfig as HostRewardConfig

from trl_dapo import DAPOConfig, DPOConfig, GRPOConfig, PPOConfig, RewardConfig
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.errors import UsageError
from trl_dapo.cli.script import make_parser


PARENTS: dict[type, type] = {
    GRPOConfig: HostGRPOConfig,
    DAPOConfig: GRPOConfig,
    PPOConfig: GRPOConfig,
    DPOConfig: HostDPOConfig,
    RewardConfig: HostRewardConfig,
}
COMMAND = {GRPOConfig: "grpo", DAPOConfig: "dapo", PPOConfig: "ppo", DPOConfig: "dpo", RewardConfig: "reward"}


def texts_below(cls: type) -> dict[str, str]:
    """The string below each field in the source, which is what editors show, in one line each."""
    body = ast.parse(inspect.getsource(cls)).body[0].body
    found = {}
    for node, after in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            found[node.target.id] = " ".join(after.value.value.split()) if is_text else ""
    return found


def listed(cls: type) -> dict[str, tuple[str, str]]:
    """The section and the type of each field in the docstring of the class."""
    found, section = {}, ""
    for line in inspect.cleandoc(cls.__doc__).split("Parameters:")[1].splitlines():
        if match := re.fullmatch(r"    > (.+)", line):
            section = match[1]
        elif match := re.fullmatch(r"    (\w+) \(`(.+?)`, \*optional\*.*\):", line):
            found[match[1]] = (section, match[2])
    return found


def choices(hint: Any) -> tuple[str, ...]:
    inner = next(iter(get_args(hint)), hint) if get_origin(hint) in (Union, types.UnionType) else hint
    return get_args(inner) if get_origin(inner) is Literal else ()


WITH_CHOICES = [
    (cls, name)
    for cls in PARENTS
    for name, hint in get_type_hints(cls).items()
    if name in texts_below(cls) and choices(hint)
]


@pytest.mark.parametrize("cls", PARENTS)
def test_the_text_below_a_field_is_its_help(cls):
    texts = texts_below(cls)
    helps = {one.name: one.metadata.get("help") for one in fields(cls) if one.name in texts}
    # Copy the help below the field where they differ
    assert texts == helps
    assert all(texts.values())


@pytest.mark.parametrize("cls", PARENTS)
def test_every_field_of_its_own_is_in_a_section_of_the_docstring(cls):
    own = {one.name for one in fields(cls)} - {one.name for one in fields(PARENTS[cls])}
    told = listed(cls)
    assert own <= set(texts_below(cls))
    assert sorted(set(texts_below(cls)) - set(told)) == []
    assert all(section for section, _ in told.values())


@pytest.mark.parametrize("cls", PARENTS)
def test_the_docstring_names_the_choices_of_the_type(cls):
    hints = get_type_hints(cls)
    for name in texts_below(cls):
        found = choices(hints[name])
        kind = listed(cls)[name][1]
        assert kind == "Literal[" + ", ".join(f'"{one}"' for one in found) + "]" if found else "Literal" not in kind


@pytest.mark.parametrize(("cls", "name"), WITH_CHOICES)
def test_each_choice_is_taken_and_another_is_refused_everywhere(cls, name, tmp_path):
    parser = make_parser(COMMANDS[COMMAND[cls]])
    needed = {"vllm_base": ["--vllm_sync", "adapter"], "vllm_sync": ["--use_vllm"]}.get(name, [])
    action = next(one for one in parser._actions if one.dest == name)
    assert tuple(action.choices) == choices(get_type_hints(cls)[name])
    for choice in action.choices:
        assert getattr(parser.parse_known_args([f"--{name}", choice, *needed])[0], name) == choice
    with pytest.raises(UsageError, match=f"--{name}: invalid choice: 'other'"):
        parser.parse_known_args([f"--{name}", "other"])
    with pytest.raises(UsageError, match=f"{name}: 'other' in the config file is none of"):
        parser.set_defaults_with_config(**yaml.safe_load(f"{name}: other"))
    with pytest.raises(ValueError, match=f"`{name}` must be .*, got 'other'"):
        cls(str(tmp_path), use_cpu=True, bf16=False, **{name: "other"})
