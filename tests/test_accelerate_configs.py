"""What lies in `examples/accelerate_configs` is what its name says, for accelerate and for `trl-dapo dapo`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

from fsdp_worker import full_parameters, trainer_of
from tiny import snapshot, tiny_model, tiny_tokenizer
from trl_dapo.cli.dapo import make_parser
from trl_dapo.cli.eval import make_parser as eval_parser
from trl_dapo.cli.launch import _launch_args, _processes


HERE = Path(__file__).parent
ROOT = HERE.parent
FOLDER = ROOT / "examples" / "accelerate_configs"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(FOLDER.glob("*.yaml"))]

PROMISED = {
    # name: distributed type, processes, machines, and fields of the file's nested part
    "ddp": (DistributedType.MULTI_GPU, 8, 1, {}),
    "fsdp2": (DistributedType.FSDP, 8, 1, {"fsdp_version": 2, "fsdp_state_dict_type": "FULL_STATE_DICT"}),
    "deepspeed_zero2": (DistributedType.DEEPSPEED, 8, 1, {"zero_stage": 2}),
    "two_nodes": (DistributedType.MULTI_GPU, 16, 2, {}),
}


def launch_args(name: str, *words: str):
    """What `accelerate launch` makes of the file and of what stands behind it on the command line."""
    parser = launch_command_parser()
    return _validate_launch_command(
        parser.parse_args(["--config_file", str(FOLDER / f"{name}.yaml"), *words, "train.py"])
    )[0]


def nested(config: dict) -> dict:
    return {key: value for part in config.values() if isinstance(part, dict) for key, value in part.items()}


def launch_options() -> dict:
    return {action.dest: action for action in launch_command_parser()._actions}


def test_every_file_is_promised_something():
    assert {path.stem for path in FOLDER.iterdir()} == set(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_file_is_what_its_name_says(name):
    kind, processes, machines, fields = PROMISED[name]
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.distributed_type == kind
    assert config.num_processes == processes
    assert config.num_machines == machines
    assert config.mixed_precision == "bf16"
    assert fields.items() <= nested(vars(config)).items()


@pytest.mark.parametrize("name", PROMISED)
def test_accelerate_launch_takes_it(name):
    kind, processes, machines, fields = PROMISED[name]
    args = launch_args(name)
    assert (args.num_processes, args.num_machines) == (processes, machines)
    kinds = {
        DistributedType.MULTI_GPU: args.multi_gpu,
        DistributedType.FSDP: args.use_fsdp,
        DistributedType.DEEPSPEED: args.use_deepspeed,
    }
    assert [one for one, chosen in kinds.items() if chosen] == [kind]
    assert {key: getattr(args, key) for key in fields} == fields


@pytest.mark.parametrize("name", PROMISED)
def test_dry_run_counts_its_processes(name):
    words = ["--accelerate_config", str(FOLDER / f"{name}.yaml")]
    args = _launch_args([], words, make_parser(prog="trl-dapo dapo"), "trl_dapo.cli.dapo")
    assert _processes(args) == PROMISED[name][1]


def test_unknown_key_is_refused(tmp_path):
    file = tmp_path / "ddp.yaml"
    file.write_text((FOLDER / "ddp.yaml").read_text() + "num_process: 8\n")
    with pytest.raises(ValueError, match="num_process"):
        load_config_from_file(str(file))


@pytest.mark.parametrize("name", PROMISED)
def test_nested_keys_are_options_of_accelerate_launch(name):
    # Accelerate refuses unknown keys at the top alone; a misspelt one below would be ignored
    options = launch_options()
    for key, value in nested(yaml.safe_load((FOLDER / f"{name}.yaml").read_text())).items():
        assert key in options
        choices = options[key].choices
        assert choices is None or str(value) in map(str, choices)


def test_second_node_is_told_on_the_command_line():
    args = launch_args("two_nodes", "--machine_rank", "1", "--main_process_ip", "10.0.0.1")
    assert (args.machine_rank, args.main_process_ip, args.num_processes) == (1, "10.0.0.1", 16)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_and_options_of_commands_exist(path):
    # As in a shell: a backslash at the end of a line, and a comment's `#`, go on with the command
    text = re.sub(r"\\\n#?", " ", path.read_text())
    known, evaluated = (
        {option for action in parser._actions for option in action.option_strings}
        for parser in (launch_command_parser(), eval_parser())
    )
    for command in re.findall(r"(?:accelerate launch|trl-dapo dapo)(?: [^\n`#]*)?", text):
        for name in re.findall(r"--(?:config_file|accelerate_config)[ =](\S+)", command):
            assert (ROOT / name).is_file() or not re.search(r"[/.]", name), name
        if command.startswith("accelerate launch"):
            own, _, behind = command.partition(" --module trl_dapo.cli.eval")
            assert set(re.findall(r"--[a-z_]+", own)) <= known
            assert set(re.findall(r"--[a-z_]+", behind)) <= evaluated


def test_each_file_is_in_the_document_and_shows_its_command():
    document = (ROOT / "docs" / "distributed.md").read_text()
    for name in PROMISED:
        assert f"{name}.yaml" in document
        assert f"--config_file examples/accelerate_configs/{name}.yaml" in (FOLDER / f"{name}.yaml").read_text()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Folder with the results of two processes under the shipped FSDP2 file, on the CPU."""
    folder = tmp_path_factory.mktemp("fsdp2")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}:{HERE.parent}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / "fsdp2.yaml")]
    here = ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    run = subprocess.run(
        [*command, *here, str(HERE / "fsdp_worker.py"), str(folder)],
        env=environment,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return folder


def ranks(folder: Path, name: str) -> list[dict]:
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]


def furthest(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max((tensor - second[name]).abs().max().item() for name, tensor in first.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scripted", "unequal_yields"])
def test_fsdp2_on_two_processes_trains_what_one_process_trains(sharded, tmp_path, name):
    alone = trainer_of(name, tmp_path, processes=1)
    alone.train()
    for rank in ranks(sharded, name):
        assert rank["fsdp2"]
        assert all(rank["sharded"])
        assert furthest(rank["parameters"], full_parameters(alone)) < 1e-6
        assert furthest(rank["parameters"], snapshot(tiny_model(tiny_tokenizer()))) > 1e-3


@pytest.mark.slow
def test_fsdp2_generates_on_processes_that_end_at_different_steps(sharded):
    first, second = ranks(sharded, "generated")
    assert first["fsdp2"]
    assert first["steps"] == second["steps"] == 4
    assert any(a != b for a, b in zip(first["longest"], second["longest"], strict=True))
    assert max(first["longest"] + second["longest"]) < 32
    assert furthest(first["parameters"], second["parameters"]) == 0
