"""The paper's run has the paper's numbers, and a config says where it has others. All numbers are copied by hand."""

import io
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from trl import GRPOConfig as HostConfig

from trl_dapo import DAPOConfig
from trl_dapo.dapo.batch_plan import batch_plan
from trl_dapo.dapo.deviations import PAPER_SAYS, Deviation, Deviations
from trl_dapo.dapo.paper import batch_fields


CPU = {"use_cpu": True, "bf16": False, "report_to": "none"}
DOCS = Path(__file__).resolve().parents[1] / "docs"

# Section 4.1 of the paper, sentence by sentence; the clip range, the lengths and the batches as printed there
PAPER = {
    "learning_rate": 1e-6,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 320,  # 20 rollouts of 16 updates
    "generation_batch_size": 8192,  # 512 prompts x 16 completions
    "num_generations": 16,
    "updates_per_rollout": 16,
    "num_iterations": 1,
    "max_completion_length": 20480,  # 16,384 + 4,096
    "soft_punish_cache": 4096,
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "beta": 0.0,  # 2.3
    "loss_type": "dapo",  # Eq. 12, for each group
    "token_level_scope": "prompt",
    "scale_rewards": "group",  # Eq. 9
    "overlong_filtering": True,  # Table 1
    "soft_overlong_punishment": True,  # Eq. 13
    "dynamic_sampling": True,  # Eq. 11
    "temperature": 1.0,
    "top_p": 1.0,
    "vllm_importance_sampling_correction": False,  # Eq. 9 has one ratio
    "weight_decay": 0.0,  # not said: the package's default
    "delta": None,
}
# run_dapo_qwen2.5_32b.sh, where it differs or the paper says nothing
SCRIPT = {
    "warmup_steps": 160,  # lr_warmup_steps=10 rollouts
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "delta": 10.0,  # clip_ratio_c
    "token_level_scope": "batch",  # loss_agg_mode=token-mean
    "max_refill_rounds": 9,  # max_num_gen_batches=10, the first one included
    "max_round_batches": 3.0,  # gen_prompt_bsz is 3 x train_prompt_bsz
    "dynamic_sampling_on_exhaustion": "raise",
    "overlong_filtering": False,  # its README: most runs and the best one are without
    "mask_truncated_completions": False,
}


def dapo(**values) -> DAPOConfig:
    return DAPOConfig("out", **{**CPU, **values})


def paper(**values) -> DAPOConfig:
    return DAPOConfig.paper("out", **{**CPU, **values})


def row(config: DAPOConfig, field: str) -> Deviation | None:
    return next((one for one in config.deviations() if one.field == field), None)


def on(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DAPOConfig, "world_size", property(lambda self: processes))


# ----------------------------------------------------------------------------------------------------- the paper's run


def test_paper_has_the_numbers_of_section_4_1():
    config = paper()
    assert {name: getattr(config, name) for name in PAPER} == PAPER


def test_the_script_wins_where_it_says_something_else():
    config = paper(script=True)
    expected = {**PAPER, **SCRIPT}
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("processes", "given", "per_device", "accumulation"),
    [
        # 512 completions per update: 8 at once, TRL's default, where that divides what a process has
        (1, {}, 8, 64),
        (8, {}, 8, 8),
        (128, {}, 4, 1),  # 512 / 128 = 4
        (512, {}, 1, 1),
        (8, {"per_device_train_batch_size": 1}, 1, 64),
        (8, {"gradient_accumulation_steps": 2}, 32, 2),
        (8, {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4}, 16, 4),
        # 512 x 8 / 16 = 256 completions per update
        (4, {"num_generations": 8}, 8, 8),
        # 8192 / 8 = 1024
        (4, {"updates_per_rollout": 8}, 8, 32),
        # A rollout of 6 x 256 = 1536 completions, 96 per update, for 6 processes
        (6, {"generation_batch_size": 1536}, 8, 2),
        (3, {"generation_batch_size": 816, "num_generations": 8}, 1, 17),  # 51 per update, 17 per process: a prime
    ],
)
def test_batches_are_right_on_any_number_of_processes(monkeypatch, processes, given, per_device, accumulation):
    on(processes, monkeypatch)
    config = paper(**given)
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (per_device, accumulation)
    updates = given.get("updates_per_rollout", 16)
    completions = given.get("generation_batch_size", 512 * given.get("num_generations", 16))
    plan = batch_plan(config)
    assert (plan.completions, plan.updates, plan.update_rows) == (completions, updates, completions // updates)


@pytest.mark.parametrize(
    ("processes", "given", "per_device"),
    [
        # Whole groups of 16 on 1, 4 and 6 processes: 16 x 1, 4 x 4, 8 x 6 = 3 groups
        (1, {}, 16),
        (4, {}, 4),
        (6, {"generation_batch_size": 1536}, 8),
        # avg@32, as the paper evaluates
        (4, {"num_generations_eval": 32}, 8),
        (1, {"per_device_eval_batch_size": 48}, 48),
    ],
)
def test_whole_groups_are_evaluated_on_any_number_of_processes(monkeypatch, processes, given, per_device):
    on(processes, monkeypatch)
    config = DAPOConfig.paper(eval_strategy="steps", eval_steps=10, use_cpu=True, bf16=False, **given)
    assert config.per_device_eval_batch_size == per_device


@pytest.mark.parametrize(
    ("processes", "given", "said"),
    [
        (3, {}, ["3 processes", "512 / 3 = 170.667", "multiple of 48"]),  # lcm(3 x 16, 16)
        (1024, {}, ["512 / 1024 = 0.5", "multiple of 16384"]),
        (8, {"per_device_train_batch_size": 3}, ["3 per device x 8 processes", "512 / 24 = 21.3333"]),
        (8, {"gradient_accumulation_steps": 5}, ["5 accumulation steps", "512 / 40 = 12.8"]),
        # 1 x 8 x 8 x 16 updates
        (8, {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}, ["512 / 64 = 8", "to 1024."]),
        (1, {"updates_per_rollout": 3}, ["8192 / 3 = 2730.67"]),
        (1, {"steps_per_generation": 16}, ["`steps_per_generation`", "16", "updates_per_rollout"]),
        (1, {"num_generations": 0}, ["`num_generations`", "got 0"]),
        (1, {"updates_per_rollout": "x"}, ["`updates_per_rollout`", "got 'x'"]),
        (1, {"generation_batch_size": True}, ["`generation_batch_size`", "got True"]),
        (1, {"gradient_accumulation_steps": -2}, ["`gradient_accumulation_steps`", "got -2"]),
    ],
)
def test_a_batch_that_cannot_be_made_is_refused_with_the_arithmetic(monkeypatch, processes, given, said):
    on(processes, monkeypatch)
    with pytest.raises(ValueError, match=re.escape(said[0])) as raised:
        paper(**given)
    assert all(part in str(raised.value) for part in said)
    assert "\n" not in str(raised.value)


@given(
    st.integers(1, 64),
    st.sampled_from([2, 4, 8, 16]),
    st.sampled_from([1, 2, 3, 16]),
    st.sampled_from([None, 1, 2, 6]),
)
def test_a_batch_is_whole_or_refused(processes, generations, updates, per_device):
    given = {"num_generations": generations, "updates_per_rollout": updates, "per_device_train_batch_size": per_device}
    try:
        found = batch_fields(given, processes)
    except ValueError:
        assert 512 * generations % (updates * processes * (per_device or 1))
        return
    rows = found["per_device_train_batch_size"] * processes * found["gradient_accumulation_steps"]
    assert rows * updates == 512 * generations
    assert per_device in (None, found["per_device_train_batch_size"])


def test_what_a_refusal_recommends_works(monkeypatch):
    on(3, monkeypatch)
    assert batch_plan(paper(generation_batch_size=48 * 170)).completions == 8160
    on(8, monkeypatch)
    sizes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    assert batch_plan(paper(generation_batch_size=1024, **sizes)).prompts == 64


def test_a_shorter_run_keeps_the_share_of_the_band():
    # A fifth of 2048 is 409.6
    assert paper(max_completion_length=2048).soft_punish_cache == 410
    assert paper(max_completion_length=2048, soft_punish_cache=512).soft_punish_cache == 512


def test_what_is_given_wins_and_a_part_can_be_off():
    config = paper(
        learning_rate=1e-5, token_level_loss=False, dynamic_sampling=False, warmup_steps=7, eval_strategy="no"
    )
    assert (config.learning_rate, config.loss_type, config.warmup_steps) == (1e-5, "grpo", 7)
    assert paper(script=True, warmup_steps=7).warmup_steps == 7
    assert paper(overlong_filtering=False).mask_truncated_completions is False


@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        # Weights of tokens per prompt and a KL term exclude each other, and so do other losses
        ({"beta": 0.1}, "token_level_scope", "batch"),
        ({"loss_type": "dr_grpo"}, "token_level_scope", "batch"),
        ({"max_refill_rounds": 0}, "dynamic_sampling_on_exhaustion", "fill"),
        ({"num_generations": None, "gradient_accumulation_steps": None}, "num_generations", 16),
    ],
)
def test_a_value_of_the_papers_gives_way_where_it_cannot_stand_beside_a_given_one(script, given, name, value):
    assert getattr(paper(script=script, **given), name) == value


def test_the_warm_up_is_counted_in_rollouts_whatever_their_size():
    assert paper(updates_per_rollout=4).warmup_steps == 80
    assert paper(script=True, updates_per_rollout=4, num_iterations=2).warmup_steps == 80  # 10 x 4 x 2


# ---------------------------------------------------------------------------------------------------------- deviations

# What a DAPOConfig without arguments does otherwise, with the section, by hand
OF_THE_DEFAULT = [
    ("prompts per rollout", 512, 4, "§4.1"),
    ("num_generations", 16, 8, "§4.1"),
    ("updates per rollout", 16, 4, "§4.1"),
    ("completions per update", 512, 8, "§4.1"),
    ("weight_decay", None, 0.0, ""),
    ("token_level_scope", "prompt", "batch", "Eq. 12"),
    ("delta", None, None, ""),
    ("overlong_filtering", "on in Table 1, off in the best run", "on", "§3.4"),
    ("max_completion_length", 20480, 512, "§4.1"),
    ("soft_punish_cache", 4096, 102, "§4.1"),  # 512 / 5
    ("dynamic_sampling_metric", "accuracy", "sum of the reward functions", "Eq. 11"),
    ("max_refill_rounds", "until the batch is full", "at most 10 refill rounds, then groups outside the loss", "§3.2"),
    ("prompt length", None, "no limit", ""),
]

# Everything that the package claims of the paper: value and place, None where the paper is silent
CLAIMS = {
    "prompts per rollout": (512, "§4.1"),
    "num_generations": (16, "§4.1"),
    "updates per rollout": (16, "§4.1"),
    "num_iterations": (1, "§4.1"),
    "completions per update": (512, "§4.1"),
    "learning_rate": (1e-6, "§4.1"),
    "lr_scheduler_type": ("constant", "§4.1"),
    "warmup_steps": ("20 rollouts", "§4.1"),
    "optim": ("AdamW", "§4.1"),
    "beta": (0.0, "§2.3"),
    "loss_type": ("dapo", "Eq. 12"),
    "token_level_scope": ("prompt", "Eq. 12"),
    "epsilon": (0.2, "§4.1"),
    "epsilon_high": (0.28, "§4.1"),
    "importance_sampling_level": ("token", "Eq. 9"),
    "scale_rewards": ("group", "Eq. 9"),
    "off_policy_mask_threshold": (None, "Eq. 8"),
    "top_entropy_quantile": (1.0, "Eq. 8"),
    "entropy_coef": (0.0, "Eq. 8"),
    "use_adaptive_entropy": (False, "Eq. 8"),
    "vllm_importance_sampling_correction": ("none", "Eq. 9"),
    "overlong_filtering": ("on in Table 1, off in the best run", "§3.4"),
    "soft_overlong_punishment": (True, "Eq. 13"),
    "max_completion_length": (20480, "§4.1"),
    "soft_punish_cache": (4096, "§4.1"),
    "overlong_penalty_factor": (1.0, "Eq. 13"),
    "dynamic_sampling": (True, "§3.2"),
    "dynamic_sampling_metric": ("accuracy", "Eq. 11"),
    "max_refill_rounds": ("until the batch is full", "§3.2"),
    "skip_degenerate": ("off", "§3.2"),
    "skip_solved_above": ("off", "§3.2"),
    "prompt_selection": ("off", "§3.2"),
    "num_generations_eval": ("32 at temperature 1.0, top_p 0.7", "§4.1"),
}
# Where the paper says nothing: run_dapo_qwen2.5_32b.sh
SCRIPT_ALONE = {
    "weight_decay": 0.1,
    "max_grad_norm": 1.0,
    "disable_dropout": True,  # attention_dropout=0 and its like
    "delta": 10.0,
    "surplus": "discard",
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,  # -1 for vLLM
    "min_p": None,
    "repetition_penalty": 1.0,
    "prompt length": "2048 tokens, cut on the left",
}
SCRIPT_OTHERWISE = {
    "warmup_steps": "10 rollouts",
    "token_level_scope": "batch",
    "max_refill_rounds": "at most 10 batches of 1536 prompts, then an error",
}


def test_every_value_that_is_claimed_of_the_paper_is_in_the_list():
    known = {own.name for own in HostConfig.__dataclass_fields__.values()}
    optional = {"entropy_coef", "use_adaptive_entropy", "off_policy_mask_threshold", "top_entropy_quantile"} - known
    said = {one.field: (one.paper, one.section) for one in PAPER_SAYS if one.section}
    assert said == {name: claim for name, claim in CLAIMS.items() if name not in optional}
    assert {one.field: one.script for one in PAPER_SAYS if not one.section} == SCRIPT_ALONE
    assert {one.field: one.script for one in PAPER_SAYS if one.section and one.script} == SCRIPT_OTHERWISE
    assert all(one.paper is None for one in PAPER_SAYS if not one.section)


def test_a_default_config_says_what_it_does_otherwise():
    assert [(one.field, one.paper, one.here, one.section) for one in dapo().deviations()] == OF_THE_DEFAULT


def test_the_papers_run_says_what_it_cannot_have():
    assert [(one.field, one.here) for one in paper().deviations()] == [
        ("weight_decay", 0.0),
        ("delta", None),
        ("overlong_filtering", "on"),
        ("dynamic_sampling_metric", "sum of the reward functions"),
        ("max_refill_rounds", "at most 100 refill rounds, then an error"),
        ("prompt length", "no limit"),
    ]
    assert row(paper(dynamic_sampling_metric="dapo_math"), "dynamic_sampling_metric") is None


def test_the_scripts_run_says_where_the_script_left_the_paper():
    assert [(one.field, one.here) for one in paper(script=True).deviations()] == [
        ("warmup_steps", "10 rollouts"),
        ("token_level_scope", "batch"),
        ("overlong_filtering", "off"),
        ("dynamic_sampling_metric", "sum of the reward functions"),
        ("max_refill_rounds", "at most 9 refill rounds, then an error"),
        ("prompt length", "no limit"),
    ]


@pytest.mark.parametrize("filtering", [True, False])
def test_every_config_says_which_story_of_overlong_filtering_it_follows(filtering):
    found = row(paper(overlong_filtering=filtering), "overlong_filtering")
    assert found.here == ("on" if filtering else "off")
    assert "README" in found.note


@pytest.mark.parametrize(
    ("values", "field", "here"),
    [
        # 2 passes over 8 updates are 16 updates, but not the paper's
        ({"updates_per_rollout": 8, "num_iterations": 2}, "updates per rollout", None),
        ({"updates_per_rollout": 8, "num_iterations": 2}, "num_iterations", 2),
        ({"steps_per_generation": 6, "gradient_accumulation_steps": 4}, "updates per rollout", 1.5),
        ({"generation_batch_size": 64}, "prompts per rollout", 8),
        ({"gradient_accumulation_steps": 64}, "completions per update", None),
        ({"warmup_steps": 40}, "warmup_steps", "10 rollouts"),
        ({"warmup_steps": 4}, "warmup_steps", "1 rollout"),
        ({"warmup_steps": 80}, "warmup_steps", None),
        ({"warmup_steps": 30}, "warmup_steps", "7.5 rollouts"),
        ({"warmup_steps": 0.1}, "warmup_steps", "0.1 of the run"),
        ({"warmup_steps": 0.1, "max_steps": 800}, "warmup_steps", None),  # 80 updates
        ({"lr_scheduler_type": "constant"}, "warmup_steps", "0 rollouts"),  # whatever the field says
        ({"lr_scheduler_type": "constant"}, "lr_scheduler_type", None),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type", "cosine"),
        ({"optim": "adamw_torch"}, "optim", None),
        ({"optim": "paged_adamw_8bit"}, "optim", "paged_adamw_8bit"),
        ({"optim": "adamw_bnb_8bit"}, "optim", "adamw_bnb_8bit"),
        ({"optim": "sgd"}, "optim", "sgd"),
        ({"clip_higher": False}, "epsilon_high", 0.2),
        ({"epsilon": 0.1, "clip_higher": False}, "epsilon_high", 0.1),
        ({"loss_type": "vespo"}, "epsilon_high", None),  # which is a row: not clipped
        ({"beta": 0.01}, "beta", 0.01),
        ({"token_level_loss": False}, "token_level_scope", "completion"),
        ({"token_level_scope": "prompt"}, "token_level_scope", None),
        ({"scale_rewards": False}, "scale_rewards", "none"),
        ({"temperature": 0.7}, "temperature", 0.7),
        ({"generation_kwargs": {"top_p": 0.9}}, "top_p", 0.9),
        ({"generation_kwargs": {"top_k": -1}}, "top_k", None),
        ({"top_k": 50}, "top_k", 50),
        ({"disable_dropout": False}, "disable_dropout", False),
        ({"weight_decay": 0.1}, "weight_decay", None),
        ({"delta": 10.0}, "delta", None),
        ({"overlong_penalty_factor": 0.5}, "overlong_penalty_factor", 0.5),
        ({"overlong_penalty_factor": 1.0}, "overlong_penalty_factor", None),
        ({"overlong_penalty_factor": 0.5, "soft_overlong_punishment": False}, "overlong_penalty_factor", None),
        ({"dynamic_sampling": False}, "dynamic_sampling", False),
        ({"dynamic_sampling": False}, "max_refill_rounds", None),
        ({"dynamic_sampling_metric": "right"}, "dynamic_sampling_metric", None),
        (
            {"dynamic_sampling_metric": "right", "dynamic_sampling_tolerance": 0.5},
            "dynamic_sampling_metric",
            "accuracy, if its range exceeds 0.5",
        ),
        ({"skip_degenerate": "greso"}, "skip_degenerate", "greso"),
        ({"surplus": "carry"}, "surplus", "carry"),
        ({"use_vllm": True}, "vllm_importance_sampling_correction", "sequence_mask, 0 to 3"),
        (
            {"use_vllm": True, "vllm_importance_sampling_correction": False},
            "vllm_importance_sampling_correction",
            None,
        ),
        ({}, "vllm_importance_sampling_correction", None),
        (
            {"eval_strategy": "steps", "eval_steps": 5},
            "num_generations_eval",
            "8 at temperature 1.0, top_p 1.0",
        ),
        ({}, "num_generations_eval", None),
    ],
)
def test_the_value_in_effect_counts(values, field, here):
    found = row(dapo(**values), field)
    if values.get("loss_type") == "vespo":
        assert (found.here, found.cells()[2]) == (None, "none")
    else:
        assert (found and found.here) == here


def test_processes_count_in_prompts_and_updates(monkeypatch):
    on(64, monkeypatch)
    # 64 x 8 = 512 per update, 2048 / 8 = 256 prompts
    config = dapo()
    assert row(config, "completions per update") is None
    assert row(config, "prompts per rollout").here == 256


def test_a_promoted_config_and_a_copy_have_rows_too():
    promoted = DAPOConfig.from_grpo_config(HostConfig("out", **CPU, steps_per_generation=4))[0]
    assert [one.field for one in promoted.deviations()] == [field for field, *_ in OF_THE_DEFAULT]
    assert row(dapo().without("dynamic_sampling"), "dynamic_sampling").here is False


def test_a_row_is_frozen():
    with pytest.raises(FrozenInstanceError):
        dapo().deviations()[0].here = 512


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(["learning_rate", "weight_decay", "beta"]), st.floats(0.0, 1.0))
def test_a_row_is_there_where_a_value_differs_and_only_there(name, value):
    said = {"learning_rate": 1e-6, "weight_decay": 0.1, "beta": 0.0}[name]
    assert (row(dapo(**{name: value}), name) is None) == (value == said)


# ------------------------------------------------------------------------------------------------------------ printing


def test_rows_are_printed_as_lines():
    rows = Deviations(
        [
            Deviation("warmup_steps", "20 rollouts", "3 rollouts", "§4.1", "the script: 10 rollouts"),
            Deviation("delta", None, None, "", "the script: 10.0"),
            Deviation("beta", 0.0, 0.1, "§2.3"),
        ]
    )
    assert str(rows).splitlines() == [
        "warmup_steps: 3 rollouts (paper: 20 rollouts, §4.1; the script: 10 rollouts)",
        "delta: none (paper: not said; the script: 10.0)",
        "beta: 0.1 (paper: 0.0, §2.3)",
    ]


def test_rows_are_a_table_for_rich_with_nothing_taken_for_markup():
    console = Console(file=io.StringIO(), width=120)
    console.print(Deviations([Deviation("skip_degenerate", "off", "[red]greso[/red]", "§3.2")]))
    printed = console.file.getvalue()
    assert all(column in printed for column in ("field", "paper", "here", "section", "note"))
    assert "[red]greso[/red]" in printed


# ---------------------------------------------------------------------------------------------------------------- docs


def test_the_table_in_the_docs_is_that_of_the_default_config():
    text = (DOCS / "configuration.md").read_text()
    section = text.split("## The paper, field by field\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    expected = ["| {} |".format(" | ".join((f"`{f}`" if " " not in f else f, *rest))) for f, *rest in cells()]
    assert rows == expected


def cells() -> list[tuple[str, ...]]:
    return [one.cells() for one in dapo().deviations()]
