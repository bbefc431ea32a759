"""The API reference has every public name, and its docstrings say what the signatures say."""

import dataclasses
import inspect
import re
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest
import transformers
from dialect import addresses, annotation, blocks, entries, linked

import trl_dapo


ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reference"


DOCUMENTED = addresses(PAGES)
TEXT = "".join(page.read_text() for page in sorted(PAGES.glob("*.md")))
MODULES = ("trl_dapo", "trl_dapo.arena", "trl_dapo.evaluation.scorers", "trl_dapo.problems")


def members() -> list[str]:
    """Addresses of the methods that the pages name, below their class."""
    found = re.findall(r"^::: (\S+)\n(?:    .*\n)*?      members: \[(.*)\]", TEXT, re.M)
    return [f"{address}.{name}" for address, names in found for name in names.split(", ")]


OBJECTS = [*DOCUMENTED.values(), *members()]


def parameters_of(text: str, *titles: str) -> list[str]:
    """Names of the entries of a docstring's sections."""
    sections = [body for title, body in blocks(inspect.cleandoc(text)) if title in titles]
    return [entry.name for body in sections for _, group in entries(body) for entry in group]


def signature_of(object_) -> list[str]:
    parameters = inspect.signature(object_).parameters.values()
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return [f"{stars.get(one.kind, '')}{one.name}" for one in parameters if one.name not in ("self", "cls")]


@pytest.mark.parametrize("module", MODULES)
def test_each_public_name_has_an_entry(module):
    for name in import_module(module).__all__:
        value = getattr(import_module(module), name)
        is_described = inspect.isclass(value) or inspect.isfunction(value)
        if is_described:
            assert DOCUMENTED[name] == f"{module}.{name}"
        else:
            # A constant, or a scorer, which `get_scorer` makes
            assert re.search(rf"`(trl_dapo\.)?(\w+\.)*{name}`", TEXT), name


@pytest.mark.parametrize("address", OBJECTS)
def test_each_entry_has_a_docstring_of_its_own(address):
    value = resolve_name(address)
    text = inspect.unwrap(value).__doc__ if not isinstance(value, property) else value.fget.__doc__
    assert text
    assert re.match(r"[A-Z1\[]", text.strip())
    # What `dataclass` writes where there is none
    assert not text.startswith(f"{address.rpartition('.')[2]}(")


@pytest.mark.parametrize("address", OBJECTS)
def test_parameters_of_the_docstring_are_those_of_the_signature(address):
    value = resolve_name(address)
    if isinstance(value, property):
        return
    if inspect.isclass(value) and issubclass(value, transformers.TrainingArguments):
        # TRL's own documentation has the parameters that are not changed here
        told = parameters_of(value.__doc__, "Parameters", "Args")
        declared = {name for name in vars(value).get("__annotations__", {}) if not name.startswith("_")}
        fields = {field.name for field in dataclasses.fields(value)}
        assert declared <= set(told) <= fields
    elif dataclasses.is_dataclass(value):
        told = parameters_of(value.__doc__, "Args", "Attributes", "Parameters")
        assert set(told) >= {field.name for field in dataclasses.fields(value) if not field.name.startswith("_")}
    elif not re.search(r"[Aa]rguments (are those of|and columns are the same)", value.__doc__):
        told, taken = parameters_of(value.__doc__, "Args"), signature_of(value)
        if "*rest" in told:
            # All further arguments of the host, in one entry
            assert set(told) - {"*rest", "**kwargs"} <= set(taken)
        elif told or taken != ["*args", "**kwargs"]:
            # Those two alone are what the constructor takes
            assert [name.strip("*") for name in told] == [name.strip("*") for name in taken]


def test_types_in_prose_become_annotations():
    assert annotation("`str` or [`~trl.GRPOConfig`]") == "str | trl.GRPOConfig"
    assert annotation("[`DAPOConfig`]") == "DAPOConfig"
    assert annotation("`datasets.Dataset`, or `dict[str, int]`") == "datasets.Dataset | dict[str, int]"


def test_entries_have_types_and_defaults():
    body = """
        > The parts

        first (`float`, *optional*, defaults to `1e-6`):
            What it is,
            in two lines.
        second, *rest (`int`): In one.

        > Others

        third (`str` or `None`, *optional*):
            Names `x (y)`.
    """
    (one, parts), (two, others) = entries(body)
    assert (one, two) == ("The parts", "Others")
    assert [(entry.name, entry.type, entry.default) for entry in parts] == [
        ("first", "float", "1e-6"),
        ("second", "int", None),
        ("*rest", "int", None),
    ]
    assert parts[0].text == "What it is,\nin two lines."
    assert parts[1].text == "In one."
    assert (others[0].type, others[0].default) == ("str | None", "None")


def test_what_is_no_entry_is_refused():
    with pytest.raises(ValueError, match="Not an entry"):
        list(entries("first = 1"))


def test_sections_keep_the_text_around_them():
    text = "Says.\n\nArgs:\n    x (`int`): One.\n\nExample:\n\n```python\n>>> f(1)\n```"
    assert [(title, body.strip()) for title, body in blocks(text)] == [
        (None, "Says."),
        ("Args", "x (`int`): One."),
        ("Example", "```python\n>>> f(1)\n```"),
    ]


def test_names_become_references_where_there_is_an_entry():
    text = "[`One`], [`~trl.One`], [`~a.b.Two`] and [`One`](page.md)"
    assert linked(text, {"One": "x.One"}.get) == "[`One`][x.One], `trl.One`, `Two` and [`One`](page.md)"


def test_the_version_is_in_the_reference():
    assert trl_dapo.__version__
    assert "`trl_dapo.__version__`" in TEXT
