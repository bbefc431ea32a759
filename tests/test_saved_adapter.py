"""The folder of an adapter for as long as an engine reads it, and what tells two versions of it apart."""

import tempfile
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, get_peft_model
from safetensors.torch import load_file

import stand_in_engine
from test_engine_adapters import NotesFolders
from test_engine_runs import go
from tiny import tiny_lora, tiny_model, tiny_tokenizer
from trl_dapo.rollouts.saved_adapter import adapter_version, saved_adapter


class FailsLater(NotesFolders):
    def _add_lora(self, lora_request):
        found = super()._add_lora(lora_request)
        if len(NotesFolders.seen) == 2:
            raise RuntimeError("the engine fails")
        return found


def left_in(folder):
    return sorted(path.name for path in folder.glob("trl-dapo-adapter-*"))


@pytest.mark.parametrize("engine", [NotesFolders, FailsLater])
def test_the_folder_of_an_adapter_is_gone_after_each_sync(tmp_path, monkeypatch, engine):
    stand_in_engine.install(monkeypatch, engine)
    NotesFolders.seen = []
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    if engine is FailsLater:
        with pytest.raises(RuntimeError, match="the engine fails"):
            go(tmp_path)
    else:
        go(tmp_path)
    assert len(NotesFolders.seen) == 2
    assert all(folder.is_relative_to(place) and not folder.exists() for _, _, folder in NotesFolders.seen)
    assert left_in(place) == []


def adapted(folder):
    torch.manual_seed(0)
    return get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora(init_lora_weights=False))


def test_a_temporary_folder_that_cannot_be_made_is_said_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with (
        pytest.raises(RuntimeError, match=r"adapter for vLLM, 0\.0 MiB, cannot be written .*absent.*Set .*TMPDIR"),
        saved_adapter(adapted(tmp_path), "default"),
    ):
        pass


def test_a_full_disk_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trl_dapo.rollouts.saved_adapter.save_file", full)
    with (
        pytest.raises(RuntimeError, match=r"cannot be written .*No space left on device.*TMPDIR"),
        saved_adapter(adapted(tmp_path), "default"),
    ):
        pass
    assert left_in(tmp_path) == []


def test_an_error_of_the_engine_is_not_one_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match="by the engine"), saved_adapter(adapted(tmp_path), "default"):
        raise OSError("raised by the engine")
    assert left_in(tmp_path) == []


def test_the_version_of_an_adapter_changes_with_each_weight_and_nothing_else():
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora(init_lora_weights=False))
    model.add_adapter("other", tiny_lora(init_lora_weights=False))
    seen = {adapter_version(model, "default")}
    for name, parameter in model.named_parameters():
        if ".default." in name:
            with torch.no_grad():
                # The least change that float32 has of one entry
                flat = parameter.view(-1)
                flat[3] = torch.nextafter(flat[3], torch.tensor(9.0))
            assert adapter_version(model, "default") not in seen
            seen.add(adapter_version(model, "default"))
        else:
            with torch.no_grad():
                parameter.mul_(1.5)
            assert adapter_version(model, "default") in seen


def test_a_change_that_keeps_the_sum_is_another_version():
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora())  # B is 0
    before = adapter_version(model, "default")
    with torch.no_grad():
        weight = model.get_base_model().model.layers[0].self_attn.q_proj.lora_B["default"].weight
        weight[0, 0], weight[1, 1] = 0.5, -0.5
    assert adapter_version(model, "default") != before


def test_the_adapter_that_is_named_is_saved_and_its_config_stays():
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora(init_lora_weights=False))
    model.add_adapter("second", tiny_lora(r=2, init_lora_weights=False))
    with saved_adapter(model, "second") as folder:
        weights = load_file(Path(folder, "adapter_model.safetensors"))
        assert PeftConfig.from_pretrained(folder).r == 2
    held = model.get_base_model().model.layers[0].self_attn.q_proj.lora_A["second"].weight
    assert torch.equal(weights["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], held)
    assert adapter_version(model, "second") != adapter_version(model, "default")
    assert not model.peft_config["second"].inference_mode
