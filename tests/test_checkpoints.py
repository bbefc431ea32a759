"""Whether a checkpoint folder is whole, and which one a run resumes from after a kill at any moment."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from trl_dapo.host.checkpoints import (
    STATE_FILE,
    STATE_VERSION,
    choose,
    clear,
    damage,
    rank_file,
    read_state,
    write_state,
)


TRAINER_STATE = "trainer_state.json"


def weights(layout: str, folder: Path) -> list[str]:
    """Writes weights as the host does, and returns the names of those files that a resumed run cannot do without."""
    tensors = {"a": torch.arange(30.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}
    if layout == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
        return ["pytorch_model.bin"]
    if layout == "adapter":
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text('{"r": 8}')
        return ["adapter_model.safetensors", "adapter_config.json"]
    if layout == "sharded":
        shards = {name: f"model-0000{i}-of-00002.safetensors" for i, name in enumerate(tensors, 1)}
        for name, shard in shards.items():
            save_file({name: tensors[name]}, folder / shard)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        return [*shards.values(), "model.safetensors.index.json"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return ["model.safetensors"]


def save(folder: Path, layout: str = "plain", processes: int = 1, only_model: bool = False) -> list[str]:
    """Writes a checkpoint in the order of the trainer and the host; returns the names that a resumed run needs."""
    folder.mkdir(parents=True)
    write_state(folder, {"processes": processes, "inside_rollout": False})
    names = [STATE_FILE, *map(rank_file, range(processes))]
    for index in range(processes):
        torch.save({"rewards": torch.zeros(4)}, folder / rank_file(index))
    (folder / "config.json").write_text('{"model_type": "qwen2"}\n')
    names += weights(layout, folder)
    torch.save({"learning_rate": 1e-6}, folder / "training_args.bin")
    if not only_model:
        rng_files = ["rng_state.pth"] if processes == 1 else [f"rng_state_{index}.pth" for index in range(processes)]
        tensors = ["optimizer.pt", "scheduler.pt", *rng_files]
        for name in tensors:
            torch.save({"state": {0: torch.zeros(50)}}, folder / name)
        names += tensors
    # The host logs NaN as Python does, which strict JSON forbids
    (folder / TRAINER_STATE).write_text('{\n  "global_step": 20,\n  "log_history": [{"loss": NaN}]\n}\n')
    return [*names, TRAINER_STATE]


def saved(output_dir: Path, *steps: int) -> list[Path]:
    folders = [output_dir / f"checkpoint-{step}" for step in steps]
    for folder in folders:
        save(folder)
    return folders


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def make_foreign(folder: Path) -> None:
    (folder / STATE_FILE).unlink()
    (folder / rank_file(0)).unlink()


LAYOUTS = [
    {"layout": "plain"},
    {"layout": "plain", "processes": 3},
    {"layout": "sharded"},
    {"layout": "adapter", "processes": 2},
    {"layout": "bin"},
    {"layout": "plain", "processes": 2, "only_model": True},
]


@pytest.fixture(params=LAYOUTS, ids=lambda fields: "-".join(map(str, fields.values())))
def layout(request):
    return request.param


# --------------------------------------------------------------------------------------------------------------- whole


def test_a_checkpoint_as_it_is_written_is_whole(tmp_path, layout):
    save(tmp_path / "checkpoint-1", **layout)
    assert damage(tmp_path / "checkpoint-1") is None


def test_each_process_has_its_own_file():
    assert [rank_file(0), rank_file(11)] == ["dapo_rank_0.pt", "dapo_rank_11.pt"]


def test_a_checkpoint_without_a_needed_file_is_damaged(tmp_path, layout):
    for name in save(tmp_path / "checkpoint-1", **layout):
        folder = shutil.copytree(tmp_path / "checkpoint-1", tmp_path / name)
        (folder / name).unlink()
        lone_weights = name in ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors")
        lone_weights = lone_weights or name.endswith(".index.json")
        assert damage(folder) == ("a file of weights is missing" if lone_weights else f"{name} is missing")


def test_a_file_cut_anywhere_is_recognised(tmp_path, layout):
    folder = tmp_path / "checkpoint-1"
    save(folder, **layout)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        # Without its last newline, JSON still says all that it said
        whole = len(content.rstrip()) if path.suffix == ".json" else len(content)
        for size in {0, 1, 7, 8, 9, whole // 4, whole // 2, whole - 30, whole - 22, whole - 2, whole - 1}:
            if 0 <= size < whole:
                cut(path, size)
                assert (damage(folder) or "").startswith(f"{path.name} is "), (path.name, size)
                path.write_bytes(content)
    assert damage(folder) is None


def test_a_kill_at_any_moment_of_the_save_is_recognised(tmp_path, layout):
    needed = save(tmp_path / "whole", **layout)
    for position, last in enumerate(needed):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / f"checkpoint-{position}")
        for name in needed[position + 1 :]:
            (folder / name).unlink()
        cut(folder / last, (folder / last).stat().st_size // 2)
        assert damage(folder) == (
            f"{TRAINER_STATE} is missing" if last != TRAINER_STATE else f"{TRAINER_STATE} is not valid JSON"
        )


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    # Beyond the 64 KiB at its end in which a zip archive is looked for, and with a tensor that is all zip signatures
    folder = tmp_path_factory.mktemp("large") / "checkpoint-1"
    save(folder)
    signatures = torch.frombuffer(bytearray(b"PK\5\6PK\1\2" * 20_000), dtype=torch.uint8)
    torch.save({"state": signatures}, folder / "optimizer.pt")
    save_file({"a": signatures}, folder / "model.safetensors")
    assert damage(folder) is None
    return folder


@settings(max_examples=60)
@given(name=st.sampled_from(["optimizer.pt", "model.safetensors"]), data=st.data())
def test_a_large_file_cut_anywhere_is_recognised(large, name, data):
    content = (large / name).read_bytes()
    # Half of the cuts near the end, in the archive's table of contents
    fewer = data.draw(st.one_of(st.integers(1, len(content)), st.integers(1, 600)))
    try:
        cut(large / name, len(content) - fewer)
        assert damage(large).startswith(f"{name} is cut short")
    finally:
        (large / name).write_bytes(content)


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b"\xff" * 64, "header too large"),  # a header of 2^64 bytes: found out without reading one of them
        (b"\0" * 64, "invalid JSON in header"),  # blocks that a power cut left empty
        (b"\2\0\0\0\0\0\0\0[]", "invalid JSON in header"),
        (b'\7\0\0\0\0\0\0\0{"a":1}', "invalid JSON in header"),
        (b'\10\0\0\0\0\0\0\0{"a":{}}', "invalid JSON in header"),
        (b"\2\0\0\0\0\0\0\0{}", None),  # no tensor: 8 bytes and 2
        (b"\2\0\0\0\0\0\0\0{}!", "file not fully covered"),
    ],
)
def test_safetensors_are_held_against_their_header(tmp_path, content, phrase):
    (folder,) = saved(tmp_path, 1)
    (folder / "model.safetensors").write_bytes(content)
    found = damage(folder)
    assert (found is None) == (phrase is None)
    if found is not None:
        assert found.startswith("model.safetensors is cut short or damaged (")
        assert phrase in found


@pytest.mark.parametrize(
    ("name", "content", "phrase"),
    [
        (STATE_FILE, b"[2]", "is not a JSON object"),
        (TRAINER_STATE, b"null", "is not a JSON object"),
        ("tokenizer.json", b"", "is not valid JSON"),
        ("tokenizer.json", b'"\xff"', "is not valid JSON"),
        ("vocab.json", b"[]", None),
        ("model.safetensors.index.json", b"{}", "names no shards"),
        ("model.safetensors.index.json", b"[]", "names no shards"),
        ("rng_state.pth", b"not an archive", "is cut short"),
        ("merges.txt", b"", None),  # of a text nobody can tell
    ],
)
def test_files_are_read_as_what_they_are(tmp_path, name, content, phrase):
    (folder,) = saved(tmp_path, 1)
    (folder / name).write_bytes(content)
    assert damage(folder) == (phrase and f"{name} {phrase}")


def test_files_of_more_processes_than_the_state_names_do_no_harm(tmp_path):
    (folder,) = saved(tmp_path, 1)
    shutil.copy(folder / rank_file(0), folder / rank_file(1))
    shutil.copy(folder / "rng_state.pth", folder / "rng_state_1.pth")
    assert damage(folder) is None


@pytest.mark.parametrize("sub_folder", ["pytorch_model_fsdp_0", "global_step20"])
def test_weights_and_optimizer_may_be_in_sub_folders(tmp_path, sub_folder):
    folder = tmp_path / "checkpoint-1"
    save(folder, processes=2)
    (folder / sub_folder).mkdir()
    (folder / sub_folder / "shard.pt").write_bytes(b"is not looked into")
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):  # DeepSpeed may keep its own scheduler
        (folder / name).unlink()
    assert damage(folder) is None
    (folder / "rng_state_1.pth").unlink()
    assert damage(folder) == "rng_state_1.pth is missing"
    (folder / "rng_state_0.pth").unlink()
    assert damage(folder) is None  # as with `save_only_model`
    (folder / rank_file(1)).unlink()
    assert damage(folder) == f"{rank_file(1)} is missing"


def test_the_optimizer_of_fsdp_is_one_too(tmp_path):
    (folder,) = saved(tmp_path, 1)
    (folder / "optimizer.pt").rename(folder / "optimizer.bin")
    (folder / "model.safetensors").unlink()
    assert damage(folder) == "a file of weights is missing"  # neither the optimizer nor the arguments are weights
    shutil.copy(folder / "optimizer.bin", folder / "pytorch_model_fsdp.bin")
    assert damage(folder) is None


def test_folders_and_dangling_links_are_no_files(tmp_path):
    linked, replaced = saved(tmp_path, 1, 2)
    (linked / "optimizer.pt").unlink()
    (linked / "optimizer.pt").symlink_to(tmp_path / "nowhere")
    assert damage(linked) == "optimizer.pt is missing"
    (replaced / TRAINER_STATE).unlink()
    (replaced / TRAINER_STATE).mkdir()
    assert damage(replaced) == f"{TRAINER_STATE} is missing"


def test_a_state_without_the_number_of_processes_is_damaged(tmp_path):
    (folder,) = saved(tmp_path, 1)
    write_state(folder, {"inside_rollout": False})
    assert damage(folder) == f"{STATE_FILE} names no number of processes"


def test_a_folder_that_does_not_exist_has_no_state(tmp_path):
    assert damage(tmp_path / "checkpoint-1") == f"{STATE_FILE} is missing"


# --------------------------------------------------------------------------------------------------------------- state


def test_the_state_is_read_as_it_was_written_with_its_version(tmp_path):
    state = {"processes": 2, "inside_rollout": True, "version": 7}
    write_state(tmp_path, state)
    assert read_state(tmp_path) == {"processes": 2, "inside_rollout": True, "version": STATE_VERSION}
    assert state["version"] == 7
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_an_interrupted_write_leaves_the_old_state(tmp_path, monkeypatch):
    (folder,) = saved(tmp_path, 1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_state(folder, {"processes": 9})
    assert read_state(folder)["processes"] == 1
    # What is left over harms neither the folder nor the next write, cut short or not
    (left_over,) = (path for path in folder.glob(f"{STATE_FILE}*") if path.name != STATE_FILE)
    cut(left_over, 3)
    assert damage(folder) is None
    write_state(folder, {"processes": 1, "inside_rollout": True})
    assert read_state(folder)["inside_rollout"] is True
    assert not left_over.exists()


def test_the_state_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    synced = []

    def fsync(descriptor):
        assert not (tmp_path / STATE_FILE).exists()
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    write_state(tmp_path, {"processes": 1})
    assert synced == [(tmp_path / STATE_FILE).stat().st_size]


def test_a_state_that_is_not_json_is_not_written(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_state(tmp_path, {"processes": torch.ones(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": 1}', "has version 1, .* reads version 3. Resume with the trl_dapo that wrote it."),
        ('{"version": 4}', "has version 4, .* reads version 3. Upgrade trl_dapo."),
        ("{}", "has version None, .* reads version 3. Resume with the trl_dapo that wrote it."),
        ("[2]", "is not a JSON object. Resume from another checkpoint."),
        ('{"version": 3', "is not valid JSON. Resume from another checkpoint."),
    ],
)
def test_a_state_that_cannot_be_used_is_refused_by_name(tmp_path, content, message):
    (tmp_path / STATE_FILE).write_text(content)
    with pytest.raises(ValueError, match=f"{STATE_FILE} {message}"):
        read_state(tmp_path)


def test_a_checkpoint_of_another_trainer_has_no_position(tmp_path):
    with pytest.raises(ValueError, match=r"not written by DAPOTrainer.*unknown.*pass the folder as `model`"):
        read_state(tmp_path)


# -------------------------------------------------------------------------------------------------------------- choice


def stopped_before_its_end(output_dir: Path, step: int) -> Path:
    """A newer checkpoint that another has to stand in for."""
    (folder,) = saved(output_dir, step)
    (folder / TRAINER_STATE).unlink()
    return folder


def stopped_line(step: int, chosen: str) -> str:
    return f"checkpoint-{step} is not whole ({TRAINER_STATE} is missing): resuming from {chosen}"


def test_the_newest_is_that_of_the_highest_number_not_of_the_last_name(tmp_path):
    saved(tmp_path, 100, 20, 9)
    asked = stopped_before_its_end(tmp_path, 300)
    assert choose(asked) == (tmp_path / "checkpoint-100", [stopped_line(300, "checkpoint-100")])


def test_of_each_newer_checkpoint_the_damage_is_told(tmp_path):
    _, _, foreign, cut_short = saved(tmp_path, 10, 20, 30, 40)
    make_foreign(foreign)
    cut(cut_short / "optimizer.pt", 100)
    assert choose(stopped_before_its_end(tmp_path, 50)) == (
        tmp_path / "checkpoint-20",
        [
            stopped_line(50, "checkpoint-20"),
            "checkpoint-40 is not whole (optimizer.pt is cut short): resuming from checkpoint-20",
            f"checkpoint-30 is not whole ({STATE_FILE} is missing): resuming from checkpoint-20",
        ],
    )


def test_only_folders_named_checkpoint_and_a_number_are_checkpoints(tmp_path):
    (folder,) = saved(tmp_path, 1)
    for name in ("checkpoint-abc", "checkpoint-", "checkpoint--2", "checkpoint-2-old", "my-checkpoint-2", "run"):
        save(tmp_path / name)
    (tmp_path / "checkpoint-10").write_text("a file")
    assert choose(stopped_before_its_end(tmp_path, 20)) == (folder, [stopped_line(20, "checkpoint-1")])


def test_a_whole_checkpoint_is_chosen_as_it_was_asked_for(tmp_path, monkeypatch):
    older, _ = saved(tmp_path, 10, 20)
    assert choose(older) == (older, [])
    monkeypatch.chdir(tmp_path)
    assert choose("checkpoint-10/") == (Path("checkpoint-10"), [])
    assert choose(older.rename(tmp_path / "mine")) == (tmp_path / "mine", [])


@pytest.mark.parametrize("asked", ["checkpoint-30", "latest", "."])
def test_the_newest_older_checkpoint_stands_in_for_a_damaged_one(tmp_path, monkeypatch, asked):
    _, older, foreign, requested, _ = saved(tmp_path, 1, 10, 20, 30, 40)
    make_foreign(foreign)
    cut(requested / "optimizer.pt", 0)
    (tmp_path / "latest").symlink_to(requested)
    monkeypatch.chdir(requested if asked == "." else tmp_path)
    assert choose(asked) == (
        older,
        [
            "checkpoint-30 is not whole (optimizer.pt is cut short): resuming from checkpoint-10",
            f"checkpoint-20 is not whole ({STATE_FILE} is missing): resuming from checkpoint-10",
        ],
    )


@pytest.mark.parametrize("name", ["checkpoint-10", "checkpoint-0", "checkpoint-020", "checkpoint-abc"])
def test_a_damaged_checkpoint_that_none_stands_in_for_is_refused(tmp_path, name):
    saved(tmp_path, 20)
    save(tmp_path / name)
    cut(tmp_path / name / "scheduler.pt", 10)
    with pytest.raises(ValueError, match=rf"{name} is not whole \(scheduler.pt is cut short\).*start a new run"):
        choose(tmp_path / name)


def test_a_save_that_a_kill_ended_before_its_state_is_damaged_not_foreign(tmp_path):
    older, _ = saved(tmp_path, 10, 20)
    for path in (tmp_path / "checkpoint-20").iterdir():
        path.unlink()
    chosen, (line,) = choose(tmp_path / "checkpoint-20")
    assert chosen == older
    assert line == f"checkpoint-20 is not whole ({STATE_FILE} is missing): resuming from checkpoint-10"


def test_nothing_stands_in_for_the_checkpoint_of_another_trainer(tmp_path):
    _, foreign = saved(tmp_path, 10, 20)
    make_foreign(foreign)
    with pytest.raises(ValueError, match=r"checkpoint-20 has no dapo_state.json.*not written by DAPOTrainer"):
        choose(foreign)


@pytest.mark.parametrize("name", ["checkpoint-20", "checkpoint-30"])
def test_a_folder_that_does_not_exist_is_refused_by_name(tmp_path, name):
    saved(tmp_path, 10)
    (tmp_path / "checkpoint-20").write_text("a file")
    with pytest.raises(FileNotFoundError, match=name):
        choose(tmp_path / name)


def test_clearing_a_folder_leaves_nothing_that_could_pass_for_a_new_save(tmp_path):
    folder = tmp_path / "deep" / "checkpoint-3"
    clear(folder)
    for name in ("trainer_state.json", rank_file(0), rank_file(12), "rng_state_3.pth", "rng_state.pth", "model.bin"):
        (folder / name).write_text("old")
    clear(folder)
    assert [path.name for path in folder.iterdir()] == ["model.bin"]
