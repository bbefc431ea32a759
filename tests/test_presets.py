"""The presets: each is read by its own parser as it is, plans nothing that is not in it, and fits on its card."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.launch import plan as checked
from trl_dapo.cli.main import main
from trl_dapo.cli.plan_shape import planned_run
from trl_dapo.planning.cards import GIB, card
from trl_dapo.planning.memory import plan_memory


ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "configs"
PRESETS = sorted(FOLDER.glob("*/*.yaml"))
SPARE = 0.1


def name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@cache
def planned(path: Path):
    """Returns the arguments of a preset, its sizes, and the bytes that it needs."""
    words = ["--config", str(path), "--dry_run", "true"]
    arguments = checked(COMMANDS[path.stem], words, "trl-dapo", []).arguments
    run = planned_run(path.stem, arguments)
    return arguments, run, plan_memory(run.shape).bytes


def test_every_card_has_every_command():
    assert {name(path) for path in PRESETS} == {
        f"{size}-{one}" for size in ("8gb", "12gb", "16gb", "24gb") for one in COMMANDS
    }


@pytest.mark.parametrize("path", PRESETS, ids=name)
def test_a_preset_is_read_as_it_is(path):
    values = yaml.safe_load(path.read_text())
    arguments, run, _ = planned(path)
    given = {field: value for one in arguments for field, value in vars(one).items()}
    for field, value in values.items():
        assert given[field] == value or str(getattr(given[field], "value", given[field])) == str(value), field
    assert run.shape.quantization == "4bit"
    assert run.shape.lora is not None
    assert run.shape.compute_dtype == "bfloat16"


@pytest.mark.parametrize("path", PRESETS, ids=name)
def test_a_preset_names_itself(path):
    # A copied file with the old command in its first lines would start another run
    first = path.read_text().split("\n\n")[0]
    assert f"trl-dapo {path.stem} --config examples/configs/{path.parent.name}/{path.stem}.yaml" in first
    assert f"--gpu {path.parent.name}" in first


@pytest.mark.parametrize("path", PRESETS, ids=name)
def test_a_preset_fits_with_a_tenth_to_spare(path):
    needs = planned(path)[2]
    usable = card(path.parent.name).usable
    assert needs <= (1 - SPARE) * usable, f"{needs / GIB:.2f} of {usable / GIB:.2f} GiB"


def test_the_table_of_the_presets_is_that_of_the_plans():
    rows = re.findall(
        r"^\| (\w+) \| `(\w+)` \| ([\w.-]+) \|.*\| ([\d.]+) \| (\d+) % \|$", (FOLDER / "README.md").read_text(), re.M
    )
    assert {f"{size}-{command}" for size, command, *_ in rows} == {name(path) for path in PRESETS}
    for size, command, model, peak, spare in rows:
        needs, usable = planned(FOLDER / size / f"{command}.yaml")[2], card(size).usable
        assert needs / GIB == pytest.approx(float(peak), abs=0.06), (size, command)
        assert 100 * (1 - needs / usable) == pytest.approx(int(spare), abs=1.1), (size, command)
        assert model in yaml.safe_load((FOLDER / size / f"{command}.yaml").read_text())["model_name_or_path"]


def test_a_dry_run_of_a_preset_says_what_it_needs(capfd):
    assert main(["dapo", "--config", str(FOLDER / "12gb" / "dapo.yaml"), "--dry-run"]) == 0
    out = capfd.readouterr().out
    assert re.search(
        r"^# memory\nload .*\ngenerate .*\nscore .*\nupdate .*\nneeds .*GiB.*\nfits on cards of ", out, re.M
    ), out
