"""Which fields may change: every field of every command is decided on, and what decides is told."""

from dataclasses import fields

import pytest
from trl import DatasetMixtureConfig, ModelConfig

from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.errors import UsageError
from trl_dapo.cli.rewind_plan import parse_changes
from trl_dapo.rewind.fields import _HOW, ACTS, OPTIMIZER_FIELDS, refusal


def all_fields() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, command in COMMANDS.items():
        for kind in (command.load("config"), command.load("script_arguments"), ModelConfig, DatasetMixtureConfig):
            for one in fields(kind):
                found.setdefault(one.name, set()).add(name)
    return found


def test_each_field_that_may_change_is_one():
    assert set(ACTS) <= set(all_fields())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model_name_or_path", "that model"),
        ("lora_r", "that model"),
        ("dataset_name", "that data set"),
        ("seed", "same random numbers"),
        ("max_steps", "--steps says"),
        ("num_train_epochs", "--steps says"),
        ("num_generations", "shape of a rollout"),
        ("gradient_accumulation_steps", "shape of a rollout"),
        ("steps_per_generation", "shape of a rollout"),
        ("output_dir", "folder of its own"),
        ("save_steps", "folder of its own"),
        ("eval_steps", "as the run was"),
        ("logging_steps", "as the run was"),
        ("optim", "that optimizer"),
        ("bf16", "by rounding"),
        ("use_vllm", "by rounding"),
        ("fsdp", "by rounding"),
    ],
)
def test_a_field_that_may_not_change_is_refused_with_its_reason(name, reason):
    assert reason in refusal(name)
    with pytest.raises(UsageError) as refused:
        parse_changes([["epsilon=0.1", f"{name}=1"]], "dapo")
    assert str(refused.value) == f"--set {name}: it may not change at a checkpoint: {refusal(name)}."


def test_what_is_refused_because_of_rounding_is_how_and_not_what():
    """A field that a release adds is refused, and shows up here."""
    how = sorted(name for name in all_fields() if refusal(name) == _HOW)
    known = (
        "accelerator_config", "activation_", "bf16", "fp16", "tf32", "cache_implementation",
        "compact_microbatches", "ddp_", "deepspeed", "drop_finished_rows", "ds3_", "fsdp",
        "generation_chunk_size", "gradient_checkpointing", "ignore_bias", "parallelism", "prefill_once",
        "torch_", "transformers_", "use_cpu", "use_liger", "liger", "use_transformers", "use_vllm", "vllm_",
        "notes",
    )  # fmt: skip
    assert [name for name in how if not name.startswith(known)] == []


def test_beta_of_ppo_is_held_by_the_checkpoint():
    assert refusal("beta") is None
    assert "KL coefficient" in refusal("beta", "ppo")


def test_the_optimizers_fields_may_change():
    assert all(refusal(name) is None for name in OPTIMIZER_FIELDS)
