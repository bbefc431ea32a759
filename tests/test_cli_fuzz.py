"""Whatever stands in flags and YAML, a command ends with 0 or 2 and a line, never with a traceback."""

import datetime
import math
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from test_cli import model_dir, workspace  # noqa: F401
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.main import main
from trl_dapo.cli.script import make_parser


WORDS = [
    "",
    " ",
    "none",
    "null",
    "true",
    "False",
    "0",
    "-1",
    "1e400",
    "nan",
    "{}",
    "[]",
    '{"a": 1}',
    '{"a": ',
    "{1: 2}",
]
WORDS += [
    "steps",
    "no",
    "auto",
    "all",
    "é",
    "\U0001f600",
    "a" * 300,
    "a/b/c",
    "/",
    "..",
    "~",
    "-",
    "--",
    "=",
    "1,2",
    "[1]",
]
WORDS += ["own_rewards.length", "own_rewards.none", "os.path", "a..b", "data", "data/train.jsonl", "run.yaml", "."]
NUMBERS = [0, 1, -1, 2, 3, 7, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 0.0, -0.0, 0.5, 1.5, 1e-300, 1e300]
NUMBERS += [math.inf, -math.inf, math.nan]
SCALARS: list[Any] = [None, True, False, *NUMBERS, *WORDS, b"\xff", datetime.date(2024, 1, 1)]

# Valid for every command; the built-in task when the model is left out
COMMON = {"max_steps": 1, "use_cpu": True, "bf16": False, "disable_tqdm": True, "output_dir": "out"}

scalars = st.sampled_from(SCALARS)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=2), max_leaves=4
)


@cache
def names(command: str) -> list[str]:
    kinds = make_parser(COMMANDS[command]).dataclass_types
    return sorted({own.name for kind in kinds for own in fields(kind) if own.init} - {"dry_run"})


@cache
def hints(command: str) -> dict[str, Any]:
    return {
        name: hint
        for kind in make_parser(COMMANDS[command]).dataclass_types
        for name, hint in get_type_hints(kind).items()
    }


def likely(command: str, name: str) -> st.SearchStrategy:
    """Values of the field's own type, at its edges, three times as often as others."""
    text = str(hints(command)[name])
    own = [value for value in SCALARS if type(value).__name__ in text]
    return st.one_of([st.sampled_from(own)] * 3 * bool(own) + [values])


@st.composite
def files(draw, command: str) -> dict:
    chosen = draw(st.lists(st.sampled_from(names(command)), min_size=1, max_size=4, unique=True))
    return {name: draw(likely(command, name)) for name in chosen}


@st.composite
def flags(draw, command: str) -> list[str]:
    words: list[str] = []
    for name in draw(st.lists(st.sampled_from(names(command)), max_size=3, unique=True)):
        count = draw(st.integers(0, 2))
        given = [str(draw(scalars)) for _ in range(count)]
        words += [f"--{name}={given[0]}"] if count and draw(st.booleans()) else [f"--{name}", *given]
    return words


@pytest.fixture
def stubbed(workspace, monkeypatch):  # noqa: F811
    """Nothing is launched, and no environment variable outlives a run."""
    monkeypatch.setattr("accelerate.commands.launch.launch_command", lambda args: None)
    monkeypatch.setattr("trl_dapo.cli.launch.set_environment", lambda values: None)
    return workspace


def ends_well(argv: list[str], capfd) -> None:
    capfd.readouterr()
    code = main(argv)
    err = capfd.readouterr().err
    assert code in (0, 2), argv
    lines = [line for line in err.splitlines() if line.startswith("trl-dapo: error: ")]
    assert len(lines) == (code == 2), err
    assert code == 0 or len(lines[0]) > len("trl-dapo: error: ") + 5
    assert "Traceback" not in err


FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize("command", COMMANDS)
@FUZZ
@given(data=st.data())
def test_fields_of_the_built_in_task(stubbed, capfd, command, data):
    content = {**COMMON, **data.draw(files(command))}
    (stubbed / "run.yaml").write_text(yaml.dump(content, allow_unicode=True))
    ends_well([command, "--config", "run.yaml", *data.draw(flags(command))], capfd)


@pytest.mark.parametrize("command", COMMANDS)
@FUZZ
@given(data=st.data())
def test_fields_of_a_run_with_model_and_dataset(stubbed, model_dir, capfd, command, data):  # noqa: F811
    content = {**COMMON, "model_name_or_path": model_dir, "dataset_name": "data", **data.draw(files(command))}
    if command in ("dapo", "grpo", "ppo"):
        content.setdefault("reward_funcs", "own_rewards.length")
        content.setdefault("num_generations", 2)
    (stubbed / "run.yaml").write_text(yaml.dump(content, allow_unicode=True))
    ends_well([command, "--config", "run.yaml", *data.draw(flags(command))], capfd)


@FUZZ
@given(text=st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
@example(text="? [a]\n: b")
@example(text="a: &x [*x]")
@example(text="<<: 3")
@example(text="!!set {a, b}")
@example(text="a: 1\n---\nb: 2")
@example(text="%TAG ! x")
@example(text="a: 0x")
@example(text="a: 1:61")
@example(text="!!timestamp 2024-99-99")
def test_text_in_the_place_of_yaml(stubbed, capfd, text):
    (stubbed / "run.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    ends_well(["dapo", "--config", "run.yaml", "--max_steps", "1"], capfd)


@FUZZ
@given(
    words=st.lists(
        st.sampled_from([*WORDS, "--config", "--accelerate_config", "--num_processes", "-m", "--max_steps"])
        | st.text(max_size=8),
        max_size=4,
    )
)
def test_words_in_the_place_of_flags(stubbed, capfd, words):
    words = [word for word in words if not word.startswith(("-h", "--h"))]
    ends_well(["dapo", "--max_steps", "1", *words], capfd)
