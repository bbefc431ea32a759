"""After any load, every trained tensor is that of the checkpoint, or the run is refused with the tensor named."""

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from five import FIVE, Snapshots, architecture, trainer
from tiny import snapshot
from training import assert_same_tensors
from trl_dapo.host.loaded import check_loaded, training_kept


@pytest.fixture(autouse=True, scope="module")
def accelerator():
    return Accelerator(cpu=True)  # for the log


def lora(**fields):
    return LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **fields})


def as_the_host_loads(model, folder) -> None:
    """By name, and what is not found stays as it is."""
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)


# The experts of a Mixture of Experts are saved one by one, GPT-NeoX calls its head `embed_out`, and GPT-2 ties its own
@pytest.mark.parametrize(("kind", "missing"), [("qwen2_moe", 4), ("mixtral", 6), ("gpt_neox", 1), ("gpt2", 0)])
def test_a_tensor_with_another_name_in_the_file_is_converted(tmp_path, kind, missing):
    one, other = architecture(kind, seed=1), architecture(kind, seed=2)
    one.save_pretrained(tmp_path)
    as_the_host_loads(other, tmp_path)
    theirs = snapshot(one)
    assert sum(not torch.equal(value, theirs[name]) for name, value in snapshot(other).items()) == missing
    check_loaded(other, tmp_path)
    assert_same_tensors(snapshot(other), theirs)


def test_conversion_draws_no_random_number(tmp_path):
    model = architecture("gpt_neox")
    model.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    check_loaded(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shards", [False, True])
def test_a_tensor_that_is_in_no_file_is_named(tmp_path, shards):
    model = architecture("llama")
    model.save_pretrained(tmp_path, max_shard_size="10KB" if shards else "1GB")
    file = sorted(tmp_path.glob("*.safetensors"))[-1]
    tensors = load_file(file)
    gone = next(iter(tensors))
    del tensors[gone]
    save_file(tensors, file, metadata={"format": "pt"})
    if shards:
        # The index still names it: what counts is what the files have
        assert len(list(tmp_path.glob("*.safetensors"))) > 2
    with pytest.raises(ValueError, match=rf"1 trained tensors are not what .* does not hold them: {gone}\."):
        check_loaded(model, tmp_path)


def test_a_tensor_that_is_not_the_files_is_named(tmp_path):
    model = architecture("llama")
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        model.model.norm.weight[3] += 1
    with pytest.raises(ValueError, match=r"does not hold them: model.norm.weight"):
        check_loaded(model, tmp_path)


def test_a_frozen_tensor_may_be_missing_and_nan_is_a_value(tmp_path):
    model = architecture("llama")
    with torch.no_grad():
        model.lm_head.weight[0] = torch.nan
    model.save_pretrained(tmp_path)
    check_loaded(model, tmp_path)
    model.model.norm.weight.requires_grad_(False)
    with torch.no_grad():
        model.model.norm.weight += 1
    check_loaded(model, tmp_path)


# Adapters


def two_adapters(active, rank=2):
    model = get_peft_model(architecture("llama"), lora())
    model.add_adapter("other", lora(r=rank))
    model.base_model.set_adapter(active)
    return model


def named_adapters():
    model = get_peft_model(architecture("llama"), lora(), adapter_name="first")
    model.add_adapter("second", lora(r=4))
    model.set_adapter("second")
    return model


ADAPTERS = {
    "dora": lambda: get_peft_model(architecture("llama"), lora(use_dora=True)),
    "embeddings": lambda: get_peft_model(architecture("llama"), lora(modules_to_save=["embed_tokens", "lm_head"])),
    "experts": lambda: get_peft_model(
        architecture("qwen2_moe"), lora(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"])
    ),
    "second_of_two_of_another_rank": lambda: two_adapters(["other"], rank=4),
    "both": lambda: two_adapters(["default", "other"]),
    "none_is_called_default": named_adapters,
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_resumed_and_best_adapters_are_those_of_the_checkpoint(tmp_path, name):
    def run(resume=None):
        snapshots = Snapshots()
        torch.manual_seed(0)
        # DPO's host wants an adapter called `default`
        made = trainer(
            "grpo" if name == "none_is_called_default" else "dpo",
            tmp_path,
            model=ADAPTERS[name](),
            callbacks=[snapshots],
        )
        made.train(resume_from_checkpoint=resume)
        return made, snapshots.at

    whole, at = run()
    moved = [key for key, value in at[1].items() if not torch.equal(value, at["begin"][key])]
    trained = {key for key, parameter in whole.model.named_parameters() if parameter.requires_grad}
    assert len(moved) > 1
    whole.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
    whole._load_best_model()
    assert_same_tensors(snapshot(whole.model), at[1])
    resumed, again = run(str(tmp_path / "checkpoint-1"))
    assert_same_tensors(again["begin"], at[1])
    assert_same_tensors(again[2], at[2])
    for model in (whole.model, resumed.model):
        assert {key for key, parameter in model.named_parameters() if parameter.requires_grad} == trained
        assert set(model.active_adapters) == set(ADAPTERS[name]().active_adapters)


def test_a_trained_tensor_that_no_adapter_saves_is_named(tmp_path):
    model = get_peft_model(architecture("llama"), lora())
    model.save_pretrained(tmp_path)
    check_loaded(model, tmp_path)
    model.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"does not hold them: base_model.model.model.norm.weight"):
        check_loaded(model, tmp_path)


def test_what_loading_changes_beside_weights_is_kept():
    model = two_adapters(["default", "other"])
    model.base_model.model.lm_head.weight.requires_grad_(True)
    with training_kept(model):
        model.set_adapter("other")
        model.requires_grad_(False)
        model.bfloat16()
    assert model.active_adapters == ["default", "other"]
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        name for name, _ in model.named_parameters() if "lora_" not in name and "lm_head" not in name
    }
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# All trainers


@pytest.mark.parametrize("name", FIVE)
def test_every_trainer_goes_on_from_and_ends_with_the_weights_of_its_checkpoint(tmp_path, name):
    snapshots, again = Snapshots(), Snapshots()
    kind = "gpt_neox" if name in ("grpo", "dpo") else "qwen2_moe"
    whole = trainer(name, tmp_path, kind=kind, callbacks=[snapshots])
    whole.train()
    trainer(name, tmp_path, kind=kind, callbacks=[again]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert_same_tensors(again.at["begin"], snapshots.at[1])
    assert_same_tensors(again.at[2], snapshots.at[2])
    whole.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
    whole._load_best_model()
    assert_same_tensors(snapshot(whole.model), snapshots.at[1])


@pytest.mark.parametrize("name", FIVE)
def test_a_best_checkpoint_that_is_gone_is_an_error(tmp_path, name):
    made = trainer(name, tmp_path)
    made.state.best_model_checkpoint = str(tmp_path / "checkpoint-7")
    with pytest.raises(ValueError, match=r"load_best_model_at_end=True, and there is no folder .*checkpoint-7"):
        made._load_best_model()
