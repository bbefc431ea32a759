"""`DAPOConfig`: toggles and TRL's fields tell the same story, however the config came about."""

import copy
import pickle
from dataclasses import dataclass, field, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HfArgumentParser
from trl import GRPOConfig, TrlParser

from trl_dapo.dapo.config import LADDER, DAPOConfig
from trl_dapo.dapo.toggles import SEQUENCE_LEVEL_LOSSES, TOGGLES, TOKEN_LEVEL_LOSSES, toggles_beside


CPU = {"use_cpu": True, "bf16": False, "report_to": "none"}


def dapo(**values) -> DAPOConfig:
    return DAPOConfig("out", **{**CPU, **values})


def grpo(cls: type[GRPOConfig] = GRPOConfig, **values) -> GRPOConfig:
    return cls("out", **{**CPU, **values})


def promoted(**values) -> DAPOConfig:
    return DAPOConfig.from_grpo_config(grpo(**values))[0]


def toggles_of(config: DAPOConfig) -> list[bool]:
    return [getattr(config, toggle) for toggle in TOGGLES]


# ------------------------------------------------------------------------------------------------------------ defaults


def test_defaults_are_those_of_the_paper():
    config = dapo()
    assert toggles_of(config) == [True] * 5
    assert config.epsilon == 0.2
    assert config.epsilon_high == 0.28
    assert config.loss_type == "dapo"
    assert config.mask_truncated_completions is True
    assert config.beta == 0.0
    assert config.lr_scheduler_type == "constant_with_warmup"
    # Half of what a right answer is worth: the trainer knows
    assert config.overlong_penalty_factor is None


def test_defaults_bound_the_rounds_and_fill_the_batch():
    config = dapo()
    assert config.max_refill_rounds == 10
    assert config.dynamic_sampling_metric is None
    assert config.dynamic_sampling_tolerance == 1e-6
    assert config.dynamic_sampling_on_exhaustion == "fill"


def test_a_default_config_updates_several_times_per_rollout():
    # 4 updates of 1 accumulation step each; 8 rows a step: 32 rows a rollout. With TRL's 1 the ratio is exactly 1.
    config = dapo()
    assert config.updates_per_rollout == 4
    assert config.steps_per_generation == 4
    assert config.generation_batch_size == 32
    assert config.updates_between_generations == 4
    assert config.inert_parts() == []


@pytest.mark.parametrize(
    ("max_completion_length", "cache"),
    # 4096 of 20480 is one fifth. A fifth of 8 is 1.6, of 12 is 2.4; of 2 is 0.4, and a band needs a token.
    [(20480, 4096), (256, 51), (10, 2), (8, 2), (12, 2), (2, 1), (1, 1)],
)
def test_the_penalised_band_is_a_fifth_of_the_maximum_length(max_completion_length, cache):
    assert dapo(max_completion_length=max_completion_length).soft_punish_cache == cache


def test_a_given_band_stays():
    assert dapo(max_completion_length=100, soft_punish_cache=7).soft_punish_cache == 7


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({}, 80),  # 20 rollouts of 4 updates
        ({"updates_per_rollout": 16}, 320),
        ({"updates_per_rollout": 1}, 20),
        ({"updates_per_rollout": 2, "num_iterations": 3}, 120),  # 20 * 2 * 3
        # An update takes 4 accumulation steps and spans whole rollouts: 20 * 8 / 4, not 20 * 8
        ({"updates_per_rollout": 2, "gradient_accumulation_steps": 4}, 40),
        ({"steps_per_generation": 6, "gradient_accumulation_steps": 4}, 30),  # 1.5 updates per rollout
        ({"steps_per_generation": 2, "gradient_accumulation_steps": 8}, 20),  # never less than 20 updates
    ],
)
def test_warm_up_takes_twenty_rollouts_counted_in_optimizer_steps(values, steps):
    assert dapo(**values).warmup_steps == steps


@pytest.mark.parametrize("warmup_steps", [0, 7, 0.25])
def test_a_given_warm_up_stays(warmup_steps):
    assert dapo(warmup_steps=warmup_steps).warmup_steps == warmup_steps


# ----------------------------------------------------------------------------------------------------- size of rollout


@pytest.mark.parametrize(
    ("accumulation", "updates", "steps"), [(1, None, 4), (8, None, 32), (1, 16, 16), (8, 16, 128), (3, 2, 6)]
)
def test_updates_per_rollout_sets_steps_per_generation(accumulation, updates, steps):
    config = dapo(gradient_accumulation_steps=accumulation, updates_per_rollout=updates)
    assert config.steps_per_generation == steps
    assert config.generation_batch_size == 8 * steps
    assert config.updates_per_rollout == (updates or 4)


def test_given_steps_per_generation_win():
    config = dapo(steps_per_generation=6, gradient_accumulation_steps=2)
    assert config.steps_per_generation == 6
    assert config.updates_per_rollout == 3


def test_a_given_generation_batch_size_wins():
    # 64 rows of 8 a step: 8 steps, 4 updates of 2
    config = dapo(generation_batch_size=64, gradient_accumulation_steps=2)
    assert config.generation_batch_size == 64
    assert config.steps_per_generation == 8
    assert config.updates_per_rollout == 4


@pytest.mark.parametrize("name", ["steps_per_generation", "generation_batch_size"])
def test_two_sizes_of_a_rollout_are_rejected(name):
    with pytest.raises(ValueError, match=f"`updates_per_rollout` .*`{name}`"):
        dapo(updates_per_rollout=4, **{name: 32})


def test_both_of_trls_sizes_are_rejected_as_by_trl():
    with pytest.raises(ValueError, match="generation_batch_size"):
        dapo(steps_per_generation=4, generation_batch_size=32)


# ------------------------------------------------------------------------------------------------------------- toggles


@pytest.mark.parametrize(
    ("toggle", "name", "on", "off"),
    [
        ("overlong_filtering", "mask_truncated_completions", True, False),
        ("clip_higher", "epsilon_high", 0.28, None),
        ("token_level_loss", "loss_type", "dapo", "grpo"),
    ],
)
def test_each_toggle_sets_its_field_and_no_other(toggle, name, on, off):
    switched_on = DAPOConfig.ladder_start("out", **CPU, **{toggle: True})
    switched_off = dapo(**{toggle: False})
    assert getattr(switched_on, name) == on
    assert getattr(switched_off, name) == off
    for others, reference in ((switched_on, DAPOConfig.ladder_start("out", **CPU)), (switched_off, dapo())):
        differing = {
            own.name for own in fields(DAPOConfig) if getattr(others, own.name) != getattr(reference, own.name)
        }
        assert differing == {toggle, name}


@pytest.mark.parametrize("toggle", ["soft_overlong_punishment", "dynamic_sampling"])
def test_toggles_without_a_field_of_trls_change_only_themselves(toggle):
    config = dapo(**{toggle: False})
    differing = {own.name for own in fields(DAPOConfig) if getattr(config, own.name) != getattr(dapo(), own.name)}
    assert differing == {toggle}


def test_naive_grpo_says_what_grpo_says():
    config = DAPOConfig.naive_grpo("out", **CPU)
    assert toggles_of(config) == [False] * 5
    assert config.output_dir == "out"
    assert config.loss_type == "grpo"
    assert config.mask_truncated_completions is False
    assert config.epsilon_high in (None, config.epsilon)


@pytest.mark.parametrize("named", [DAPOConfig.naive_grpo, DAPOConfig.ladder_start])
def test_a_named_config_takes_single_toggles_and_other_fields(named):
    config = named("out", **CPU, clip_higher=True, beta=0.1)
    assert toggles_of(config) == [False, True, False, False, False]
    assert config.epsilon_high == 0.28
    assert config.beta == 0.1


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"mask_truncated_completions": False}, ["overlong_filtering", "mask_truncated_completions"]),
        (
            {"overlong_filtering": False, "mask_truncated_completions": True},
            ["overlong_filtering", "mask_truncated_completions"],
        ),
        ({"epsilon_high": 0.2}, ["clip_higher", "epsilon_high", "epsilon"]),
        ({"epsilon_high": 0.1}, ["clip_higher", "epsilon_high", "epsilon"]),
        ({"epsilon": 0.28}, ["clip_higher", "epsilon_high", "epsilon"]),
        ({"clip_higher": False, "epsilon_high": 0.28}, ["clip_higher", "epsilon_high", "epsilon"]),
        ({"loss_type": "cispo"}, ["clip_higher", "loss_type", "epsilon_high"]),
        ({"max_refill_rounds": 0, "dynamic_sampling_on_exhaustion": "raise"}, ["max_refill_rounds", "on_exhaustion"]),
        ({"dynamic_sampling": False, "skip_degenerate": "greso"}, ["skip_degenerate", "dynamic_sampling"]),
        ({"dynamic_sampling": False, "skip_solved_above": 0.9}, ["skip_solved_above", "dynamic_sampling"]),
        ({"dynamic_sampling": False, "prompt_selection": "thompson"}, ["prompt_selection", "dynamic_sampling"]),
        ({"dynamic_sampling": False, "surplus": "carry"}, ["surplus", "dynamic_sampling"]),
        ({"surplus_max_age": 8}, ["surplus_max_age", "surplus='discard'"]),
        ({"surplus": "carry", "surplus_max_age": 3}, ["surplus_max_age", "4 updates"]),
        ({"token_level_scope": "prompt", "beta": 0.1}, ["token_level_scope", "beta"]),
        ({"token_level_scope": "prompt", "loss_type": "bnpo"}, ["token_level_scope", "loss_type"]),
        ({"token_level_scope": "prompt", "token_level_loss": False}, ["token_level_scope", "loss_type"]),
        *[({"loss_type": name}, ["token_level_loss", "loss_type"]) for name in ("grpo", "sapo", "luspo")],
        *[
            ({"token_level_loss": False, "loss_type": name}, ["token_level_loss", "loss_type"])
            for name in ("dapo", "bnpo", "dr_grpo", "vespo")
        ],
    ],
)
def test_a_contradiction_raises_and_names_both_fields(values, names):
    with pytest.raises(ValueError, match=names[0]) as raised:
        dapo(**values)
    for name in names:
        assert name in str(raised.value)


@pytest.mark.parametrize(
    "values",
    [
        {"mask_truncated_completions": True},
        {"overlong_filtering": False, "mask_truncated_completions": False},
        {"epsilon_high": 0.4},
        {"epsilon": 0.1, "epsilon_high": 0.2},
        {"clip_higher": False, "epsilon_high": 0.2},  # the same bound on either side is no bound of its own
        {"clip_higher": False, "epsilon_high": 0.1},  # and a lower one is not higher
        {"loss_type": "bnpo"},
        {"loss_type": "cispo", "epsilon_high": 5.0},
        {"loss_type": "cispo", "clip_higher": False},
        {"loss_type": "cispo", "clip_higher": False, "epsilon_high": 5.0},
        {"token_level_loss": False, "loss_type": "grpo"},
        {"token_level_loss": False, "loss_type": "sapo"},
        {"max_refill_rounds": 0},
        {"dynamic_sampling_on_exhaustion": "raise"},
        {"skip_degenerate": "greso", "skip_solved_above": 1.0, "prompt_selection": "thompson"},
        {"surplus": "carry", "surplus_max_age": 4, "max_round_batches": 2.5},
        {"token_level_scope": "prompt", "loss_type": "cispo", "epsilon_high": 5.0},
        {"reward_timeout": 0.5},
    ],
)
def test_fields_that_agree_with_their_toggle_stay(values):
    config = dapo(**values)
    assert {name: getattr(config, name) for name in values} == values


def test_every_loss_type_of_trl_is_token_level_or_sequence_level():
    # As TRL 1.16 lists them in the help of `loss_type`
    known = {"grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"}
    assert {*TOKEN_LEVEL_LOSSES, *SEQUENCE_LEVEL_LOSSES} == known
    assert not {*TOKEN_LEVEL_LOSSES} & {*SEQUENCE_LEVEL_LOSSES}
    told = next(own.metadata["help"] for own in fields(GRPOConfig) if own.name == "loss_type")
    assert {name for name in known if f"'{name}'" in told} == known


# ---------------------------------------------------------------------------------------------------------- bad values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("soft_punish_cache", 0),
        ("soft_punish_cache", -5),
        ("overlong_penalty_factor", -1.0),
        ("overlong_penalty_factor", float("nan")),
        ("max_refill_rounds", -1),
        ("dynamic_sampling_tolerance", -1e-9),
        ("dynamic_sampling_tolerance", float("nan")),
        ("dynamic_sampling_on_exhaustion", "crash"),
        ("skip_degenerate", "always"),
        ("skip_solved_above", 0.0),
        ("skip_solved_above", 1.1),
        ("prompt_selection", "ucb"),
        ("surplus", "keep"),
        ("token_level_scope", "group"),
        ("max_round_batches", 0.0),
        ("max_round_batches", float("nan")),
        ("reward_timeout", 0.0),
        ("dynamic_sampling_on_exhaustion", ""),
        ("updates_per_rollout", 0),
        ("updates_per_rollout", -4),
        ("warmup_steps", -1),
    ],
)
def test_a_bad_value_raises_and_names_field_and_value(name, value):
    with pytest.raises(ValueError, match=name) as raised:
        dapo(**{name: value})
    assert str(value) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("soft_punish_cache", 1),
        ("overlong_penalty_factor", 0.0),
        ("max_refill_rounds", 0),
        ("dynamic_sampling_tolerance", 0.0),
        ("updates_per_rollout", 1),
    ],
)
def test_the_smallest_allowed_value_is_allowed(name, value):
    assert getattr(dapo(**{name: value}), name) == value


@pytest.mark.parametrize("make", [dapo, promoted])
def test_a_missing_maximum_length_is_told_by_name(make):
    with pytest.raises(ValueError, match="max_completion_length"):
        make(max_completion_length=None)


def test_a_missing_maximum_length_is_allowed_without_length_penalty():
    assert DAPOConfig.naive_grpo("out", **CPU, max_completion_length=None).max_completion_length is None


# -------------------------------------------------------------------------------------------------------------- ladder


def test_the_ladder_adds_one_toggle_a_row_in_the_order_of_the_papers_table():
    configs = DAPOConfig.ladder("out", **CPU)
    # Table 1: naive GRPO 30, + overlong filtering 36, + clip-higher 38, + soft overlong punishment 41,
    # + token-level loss 42, + dynamic sampling 50
    assert LADDER == (
        "GRPO without KL",
        "+ overlong filtering",
        "+ clip-higher",
        "+ soft overlong punishment",
        "+ token-level loss",
        "+ dynamic sampling",
    )
    assert [toggles_of(config) for config in configs] == [
        [False, False, False, False, False],
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],
        [True, True, True, True, False],
        [True, True, True, True, True],
    ]
    assert [config.mask_truncated_completions for config in configs] == [False, True, True, True, True, True]
    assert [config.epsilon_high for config in configs] == [None, None, 0.28, 0.28, 0.28, 0.28]
    assert [config.loss_type for config in configs] == ["grpo", "grpo", "grpo", "grpo", "dapo", "dapo"]


def test_each_row_of_the_ladder_has_a_folder_of_its_own():
    folders = [config.output_dir for config in DAPOConfig.ladder("runs/a", **CPU)]
    assert len(set(folders)) == 6
    assert all(folder.startswith("runs/a/") for folder in folders)
    assert [folder.removeprefix("runs/a/")[0] for folder in folders] == list("012345")
    assert not any(set(folder) & set(" +") for folder in folders)


def test_rows_of_the_ladder_differ_in_nothing_but_the_toggles():
    first, *_, last = DAPOConfig.ladder("out", **CPU, learning_rate=3e-4, updates_per_rollout=2, num_iterations=2)
    governed = {"mask_truncated_completions", "epsilon_high", "loss_type", "output_dir", *TOGGLES}
    differing = {own.name for own in fields(DAPOConfig) if getattr(first, own.name) != getattr(last, own.name)}
    assert differing == governed
    assert first.learning_rate == last.learning_rate == 3e-4
    assert first.updates_between_generations == last.updates_between_generations == 4


def test_the_ends_of_the_ladder_are_grpo_without_kl_and_dapo():
    configs = DAPOConfig.ladder("out", **CPU)
    for config, whole in ((configs[0], DAPOConfig.ladder_start("out", **CPU)), (configs[-1], dapo())):
        config.output_dir = "out"
        assert config == whole


# ------------------------------------------------------------------------------------------------------------- without


@pytest.mark.parametrize("toggle", TOGGLES)
def test_without_one_toggle_is_a_config_made_without_it(toggle):
    assert dapo().without(toggle) == dapo(**{toggle: False})


def test_without_several_toggles_derives_their_fields_anew():
    config = dapo().without("clip_higher", "token_level_loss")
    assert toggles_of(config) == [True, False, True, False, True]
    assert config.epsilon_high is None
    assert config.loss_type == "grpo"
    assert config.mask_truncated_completions is True


def test_without_all_toggles_is_where_the_ladder_starts():
    assert dapo().without(*TOGGLES) == DAPOConfig.ladder_start("out", **CPU)


def test_without_a_toggle_that_is_off_is_an_equal_copy():
    config = dapo(clip_higher=False)
    assert config.without("clip_higher") == config
    assert config.without("clip_higher") is not config


def test_without_anything_is_a_copy():
    config = dapo()
    assert config.without() == config
    assert config.without() is not config


def test_without_leaves_the_original_alone():
    config = dapo()
    config.without(*TOGGLES)
    assert config == dapo()


def test_without_keeps_the_fields_that_were_set():
    config = dapo(epsilon_high=0.4, soft_punish_cache=3, loss_type="bnpo", updates_per_rollout=2, num_iterations=2)
    other = config.without("dynamic_sampling", "overlong_filtering")
    assert (other.epsilon_high, other.soft_punish_cache, other.loss_type) == (0.4, 3, "bnpo")
    assert (other.steps_per_generation, other.generation_batch_size, other.warmup_steps) == (2, 16, 80)


@pytest.mark.parametrize("name", ["clip-higher", "epsilon_high", "", "beta"])
def test_without_an_unknown_toggle_raises_and_lists_the_toggles(name):
    with pytest.raises(ValueError, match=f"'{name}'.*dynamic_sampling"):
        dapo().without("clip_higher", name)


def test_without_keeps_the_class_of_a_subclass():
    @dataclass
    class Own(DAPOConfig):
        extra: int = field(default=3, metadata={"help": "One more."})

    config = Own("out", **CPU, extra=5).without("clip_higher")
    assert type(config) is Own
    assert config.extra == 5


# --------------------------------------------------------------------------------------------------- from a GRPOConfig


def test_a_plain_grpo_config_becomes_all_of_dapo():
    config = promoted(max_completion_length=100)
    assert type(config) is DAPOConfig
    assert toggles_of(config) == [True] * 5
    assert config.epsilon_high == 0.28
    assert config.loss_type == "dapo"
    assert config.mask_truncated_completions is True
    assert config.lr_scheduler_type == "constant_with_warmup"
    assert config.soft_punish_cache == 20
    assert config.max_refill_rounds == 10


def test_promotion_keeps_the_size_of_the_rollout():
    config = promoted()
    assert (config.steps_per_generation, config.generation_batch_size) == (1, 8)
    assert config.updates_per_rollout == 1
    # 20 rollouts of the one update that the user has, not of DAPOConfig's four
    assert config.warmup_steps == 20


def test_promotion_says_that_clip_higher_cannot_bind_with_one_update():
    assert any("clip_higher" in line for line in promoted().inert_parts())


@pytest.mark.parametrize(
    ("values", "toggle", "on"),
    [
        ({"loss_type": "grpo"}, "token_level_loss", False),
        ({"loss_type": "sapo"}, "token_level_loss", False),
        ({"loss_type": "bnpo"}, "token_level_loss", True),
        ({"loss_type": "dr_grpo"}, "token_level_loss", True),
        ({"epsilon_high": 0.2}, "clip_higher", False),
        ({"epsilon_high": 0.3}, "clip_higher", True),
        ({"epsilon": 0.1}, "clip_higher", True),
        ({"loss_type": "cispo", "epsilon_high": 5.0}, "clip_higher", True),
        ({"loss_type": "cispo"}, "clip_higher", False),
        ({"mask_truncated_completions": True}, "overlong_filtering", True),
    ],
)
def test_fields_that_the_user_set_decide_their_toggle(values, toggle, on):
    config = promoted(**values)
    assert getattr(config, toggle) is on
    assert {name: getattr(config, name) for name in values} == values
    assert toggles_of(config) == [on if name == toggle else True for name in TOGGLES]


@pytest.mark.parametrize("epsilon", [0.28, 0.3])
def test_promotion_does_not_raise_a_lower_upper_bound_than_the_users_lower_one(epsilon):
    # The paper's 0.28 is not above the user's epsilon: raising only the upper bound is impossible
    config = promoted(epsilon=epsilon)
    assert config.clip_higher is False
    assert config.epsilon_high is None
    assert config.epsilon == epsilon


@pytest.mark.parametrize(
    "values",
    [
        {"beta": 0.04},
        {"learning_rate": 3e-5},
        {"num_iterations": 3},
        {"scale_rewards": "none"},
        {"warmup_steps": 7},
        {"lr_scheduler_type": "cosine"},
        {"lr_scheduler_type": "cosine", "warmup_steps": 7},
        {"max_completion_length": 100, "num_generations": 4},
        {"reward_weights": [0.5, 2.0]},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 2},
        {"generation_batch_size": 64},
        {"loss_type": "grpo", "epsilon_high": 0.2, "beta": 0.1, "lr_scheduler_type": "cosine", "warmup_steps": 7},
    ],
)
def test_fields_that_the_user_set_stay(values):
    config = promoted(**values)
    assert {name: getattr(config, name) for name in values} == values


def test_a_users_schedule_gets_no_warm_up():
    assert promoted(lr_scheduler_type="cosine").warmup_steps == 0


@pytest.mark.parametrize(
    ("values", "steps", "rows", "updates", "warmup"),
    [
        # 8 rows a step
        ({"generation_batch_size": 64}, 8, 64, 8, 160),
        ({"generation_batch_size": 64, "gradient_accumulation_steps": 4}, 8, 64, 2, 40),
        ({"steps_per_generation": 6, "num_iterations": 2}, 6, 48, 6, 240),
        ({"gradient_accumulation_steps": 4}, 4, 32, 1, 20),
        ({"steps_per_generation": 2, "gradient_accumulation_steps": 8}, 2, 16, 1, 20),
    ],
)
def test_promotion_counts_the_updates_of_the_users_rollout(values, steps, rows, updates, warmup):
    config = promoted(**values)
    assert (config.steps_per_generation, config.generation_batch_size) == (steps, rows)
    assert config.updates_per_rollout == updates
    assert config.warmup_steps == warmup


def test_promotion_leaves_the_users_config_alone():
    config = grpo(loss_type="grpo", num_iterations=2)
    before = {**vars(config)}
    DAPOConfig.from_grpo_config(config)
    assert vars(config) == before
    assert config == grpo(loss_type="grpo", num_iterations=2)
    assert type(config) is GRPOConfig


def test_promotion_tells_what_changed_and_nothing_else():
    _, lines = DAPOConfig.from_grpo_config(grpo(steps_per_generation=2))
    assert lines[-5:] == [f"{toggle}: on" for toggle in TOGGLES]
    assert lines[-6] == "clip range of the importance ratio: 0.8 to 1.28"
    assert sorted(lines[:-7]) == [
        "disable_dropout: False -> True",
        "epsilon_high: None -> 0.28",
        "lr_scheduler_type: linear -> constant_with_warmup",
        "mask_truncated_completions: False -> True",
        "warmup_steps: 0 -> 40",
    ]


def test_promotion_says_that_a_default_that_was_set_does_not_stay_and_how_to_keep_it():
    config, lines = DAPOConfig.from_grpo_config(grpo(lr_scheduler_type="linear", steps_per_generation=2))
    assert config.lr_scheduler_type == "constant_with_warmup"
    (line,) = [line for line in lines if "cannot be told" in line]
    assert "lr_scheduler_type" in line
    assert "DAPOConfig" in line
    # What is kept that way
    assert dapo(lr_scheduler_type="linear", steps_per_generation=2).lr_scheduler_type == "linear"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"epsilon": 0.1}, "0.9 to 1.28"),
        ({"epsilon": 0.3}, "0.7 to 1.3"),
        ({"epsilon": 0.1, "epsilon_high": 0.3}, "0.9 to 1.3"),
        ({}, "0.8 to 1.28"),
        ({"loss_type": "cispo", "epsilon_high": 5.0}, None),
        ({"loss_type": "vespo"}, None),
    ],
)
def test_promotion_tells_the_clip_range(values, told):
    _, lines = DAPOConfig.from_grpo_config(grpo(**values))
    assert [line for line in lines if "clip range" in line] == (
        [] if told is None else [f"clip range of the importance ratio: {told}"]
    )


@pytest.mark.parametrize("values", [{}, {"loss_type": "vespo", "steps_per_generation": 4}])
def test_promotion_does_not_call_clip_higher_on_where_it_has_no_effect(values):
    config, lines = DAPOConfig.from_grpo_config(grpo(**values))
    assert any("`clip_higher` has no effect" in line for line in config.inert_parts())
    assert "clip_higher: without effect here, see below" in lines
    assert "clip_higher: on" not in lines


def test_promotion_tells_nothing_of_fields_that_stay():
    values = {"lr_scheduler_type": "cosine", "epsilon_high": 0.2, "mask_truncated_completions": True}
    values |= {"disable_dropout": True}
    _, lines = DAPOConfig.from_grpo_config(grpo(loss_type="grpo", **values))
    assert lines == [
        "overlong_filtering: on",
        "clip_higher: off",
        "soft_overlong_punishment: on",
        "token_level_loss: off",
        "dynamic_sampling: on",
    ]


@dataclass
class OwnGRPOConfig(GRPOConfig):
    curriculum: str = field(default="easy", metadata={"help": "A field of the user's."})


def test_promotion_keeps_the_fields_of_a_subclass():
    config = DAPOConfig.from_grpo_config(grpo(OwnGRPOConfig, curriculum="hard", learning_rate=3e-5))[0]
    assert isinstance(config, DAPOConfig)
    assert config.curriculum == "hard"
    assert config.learning_rate == 3e-5


def test_a_subclass_of_dapo_config_is_promoted_to():
    @dataclass
    class OwnDAPOConfig(DAPOConfig):
        extra: int = field(default=3, metadata={"help": "One more."})

    config, _ = OwnDAPOConfig.from_grpo_config(grpo())
    assert type(config) is OwnDAPOConfig
    assert config.extra == 3


def test_a_subclass_of_dapo_config_gets_its_made_defaults():
    @dataclass
    class OwnDAPOConfig(DAPOConfig):
        extra: list[int] = field(default_factory=lambda: [3], metadata={"help": "One more."})

    assert OwnDAPOConfig.from_grpo_config(grpo())[0].extra == [3]


def test_promotion_works_where_the_host_has_rewritten_its_fields():
    # TRL turns `True` into "group", and settles both sizes of the rollout, which it would not accept together again
    config = promoted(scale_rewards=True, steps_per_generation=2)
    assert config.scale_rewards == "group"


def test_a_promoted_config_equals_one_that_says_the_same():
    written = dapo(steps_per_generation=2, num_iterations=2)
    assert vars(promoted(steps_per_generation=2, num_iterations=2)).keys() == vars(written).keys()
    assert promoted(steps_per_generation=2, num_iterations=2) == written


def test_a_promoted_config_can_be_taken_apart():
    config = promoted(loss_type="bnpo").without("clip_higher", "token_level_loss")
    assert config.epsilon_high is None
    assert config.loss_type == "grpo"


def test_toggles_beside_nothing_are_all_on():
    assert toggles_beside({}) == dict.fromkeys(TOGGLES, True)


@pytest.mark.parametrize("values", [{"epsilon_high": 0.1}, {"epsilon": 0.3, "epsilon_high": 0.2}])
def test_promotion_keeps_an_upper_bound_below_the_lower_one(values):
    config = promoted(**values)
    assert config.clip_higher is False
    assert config.epsilon_high == values["epsilon_high"]


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "mask_truncated_completions": st.booleans(),
            "epsilon": st.sampled_from([0.1, 0.2, 0.28, 0.3]),
            "epsilon_high": st.sampled_from([None, 0.1, 0.2, 0.28, 0.4, 5.0]),
            "loss_type": st.sampled_from(["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "vespo"]),
            "gradient_accumulation_steps": st.integers(1, 4),
            "steps_per_generation": st.integers(1, 6),
            "num_iterations": st.integers(1, 3),
            "warmup_steps": st.sampled_from([0, 0.5, 7]),
            "lr_scheduler_type": st.sampled_from(["linear", "cosine"]),
        },
    )
)
def test_a_grpo_config_that_trl_accepts_can_be_promoted(values):
    # A case of its own, above
    high = values.get("epsilon_high")
    if high is not None and high < values.get("epsilon", 0.2) and values.get("loss_type") != "cispo":
        return
    config = promoted(**values)
    told = {name: value for name, value in values.items() if value != getattr(grpo(), name)}
    assert {name: getattr(config, name) for name in told} == told
    # The toggles and TRL's fields tell the same story: a config made from them alone is accepted
    names = [*TOGGLES, "epsilon", "epsilon_high", "loss_type", "mask_truncated_completions"]
    dapo(**{name: getattr(config, name) for name in names})


# ----------------------------------------------------------------------------------------------------------- inertness


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"updates_per_rollout": 1, "num_iterations": 2},
        {"updates_per_rollout": 2},
        {"updates_per_rollout": 1, "clip_higher": False},
        {"steps_per_generation": 6, "gradient_accumulation_steps": 4},
        {"max_steps": 1000},
        {"max_steps": 160},  # half of it is warm-up
        {"max_steps": 3, "warmup_steps": 0},
        {"max_steps": 3, "warmup_steps": 0.1},
        {"soft_overlong_punishment": False, "soft_punish_cache": 256},
        {"max_completion_length": 10, "soft_punish_cache": 9},
        {"loss_type": "vespo", "clip_higher": False},
    ],
)
def test_parts_that_work_are_not_called_inert(values):
    assert dapo(**values).inert_parts() == []


@pytest.mark.parametrize(
    "values",
    [
        {"updates_per_rollout": 1},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 4},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 8, "num_iterations": 2},
        {"token_level_loss": False, "updates_per_rollout": 1},
    ],
)
def test_clip_higher_is_inert_with_one_update_per_rollout(values):
    (line,) = dapo(**values).inert_parts()
    assert "clip_higher" in line
    assert "steps_per_generation" in line


def test_the_way_out_of_one_update_is_the_papers_sixteen():
    (line,) = dapo(steps_per_generation=4, gradient_accumulation_steps=4).inert_parts()
    # 16 updates of 4 accumulation steps
    assert "64 is the paper's 16 updates" in line


@pytest.mark.parametrize(
    "values",
    [
        {"loss_type": "vespo"},
        {"token_level_loss": False, "loss_type": "sapo"},
        {"loss_type": "vespo", "updates_per_rollout": 1},
    ],
)
def test_clip_higher_is_inert_where_the_loss_does_not_clip(values):
    (line,) = dapo(**values).inert_parts()
    assert "clip_higher" in line
    assert values["loss_type"] in line


@pytest.mark.parametrize("cache", [10, 11])
def test_a_band_as_wide_as_the_completion_is_not_soft(cache):
    (line,) = dapo(max_completion_length=10, soft_punish_cache=cache).inert_parts()
    assert "soft_punish_cache" in line
    assert "max_completion_length" in line


def test_a_warm_up_of_more_than_half_the_run_is_told():
    (line,) = dapo(max_steps=159).inert_parts()
    assert "80 of 159" in line
    assert "warmup_steps" in line


def test_several_inert_parts_are_told_one_by_one():
    lines = dapo(updates_per_rollout=1, max_completion_length=4, soft_punish_cache=4, max_steps=3).inert_parts()
    assert len(lines) == 3


# --------------------------------------------------------------------------------------------- command line and copies


def parse(*argv: str) -> DAPOConfig:
    common = ["--output_dir", "out", "--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
    (config,) = TrlParser((DAPOConfig,)).parse_args_and_config([*common, *argv])
    return config


def test_a_command_line_without_arguments_gives_the_defaults():
    assert parse() == dapo()


@pytest.mark.parametrize(
    ("argv", "values"),
    [
        (["--clip_higher", "false"], {"clip_higher": False}),
        (["--no_clip_higher"], {"clip_higher": False}),
        (["--clip_higher", "true", "--epsilon_high", "0.4"], {"clip_higher": True, "epsilon_high": 0.4}),
        (["--overlong_filtering", "false"], {"overlong_filtering": False}),
        (["--mask_truncated_completions", "true"], {"mask_truncated_completions": True}),
        (
            ["--overlong_filtering", "false", "--mask_truncated_completions", "false"],
            {"overlong_filtering": False, "mask_truncated_completions": False},
        ),
        (["--warmup_steps", "7"], {"warmup_steps": 7}),
        (["--warmup_steps", "0"], {"warmup_steps": 0}),
        (["--warmup_steps", "0.5"], {"warmup_steps": 0.5}),
        (["--soft_punish_cache", "3"], {"soft_punish_cache": 3}),
        (["--updates_per_rollout", "16"], {"updates_per_rollout": 16}),
        (["--loss_type", "bnpo"], {"loss_type": "bnpo"}),
        (["--token_level_loss", "false"], {"token_level_loss": False}),
        (["--dynamic_sampling", "false"], {"dynamic_sampling": False}),
        (["--dynamic_sampling_metric", "accuracy_reward"], {"dynamic_sampling_metric": "accuracy_reward"}),
        (["--dynamic_sampling_on_exhaustion", "raise"], {"dynamic_sampling_on_exhaustion": "raise"}),
        (["--max_refill_rounds", "2"], {"max_refill_rounds": 2}),
        (["--lr_scheduler_type", "cosine"], {"lr_scheduler_type": "cosine"}),
    ],
)
def test_fields_can_be_set_on_the_command_line(argv, values):
    config = parse(*argv)
    assert config == dapo(**values)
    assert {name: getattr(config, name) for name in values} == values


def test_a_config_file_can_set_fields_and_the_command_line_wins(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("clip_higher: false\nwarmup_steps: 7\nsoft_punish_cache: 3\nmask_truncated_completions: true\n")
    config = parse("--config", str(path), "--warmup_steps", "9")
    assert (config.clip_higher, config.warmup_steps, config.soft_punish_cache) == (False, 9, 3)
    assert config.mask_truncated_completions is True


def test_a_contradiction_on_the_command_line_raises_too():
    with pytest.raises(ValueError, match="clip_higher"):
        parse("--clip_higher", "false", "--epsilon_high", "0.4")


def test_every_own_field_has_help_that_argparse_can_print(capsys):
    with pytest.raises(SystemExit):
        HfArgumentParser(DAPOConfig).parse_args(["--help"])
    told = capsys.readouterr().out
    own = [one for one in fields(DAPOConfig) if one.name not in {host.name for host in fields(GRPOConfig)}]
    assert [one.name for one in own if f"--{one.name}" not in told] == []
    assert [one.name for one in own if not one.metadata.get("help")] == []


@pytest.mark.parametrize("remade", [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
@pytest.mark.parametrize("make", [dapo, promoted, lambda: dapo(epsilon_high=0.4).without("dynamic_sampling")])
def test_copies_and_pickles_are_equal(make, remade):
    config = make()
    other = remade(config)
    assert other == config
    assert type(other) is DAPOConfig
    assert vars(other).keys() == vars(config).keys()


def test_a_config_can_be_written_as_json():
    written = dapo().to_dict()
    assert written["clip_higher"] is True
    assert written["epsilon_high"] == 0.28
    assert '"dynamic_sampling_on_exhaustion": "fill"' in dapo().to_json_string()


# ------------------------------------------------------------------------------------------------- parameters of parts


def test_rows_without_a_part_leave_its_parameters_out():
    given = {"skip_degenerate": "greso", "surplus": "carry", "surplus_max_age": 8, "token_level_scope": "prompt"}
    configs = DAPOConfig.ladder("out", **given, **CPU)
    assert [config.skip_degenerate for config in configs] == [None] * 5 + ["greso"]
    assert [config.surplus for config in configs] == ["discard"] * 5 + ["carry"]
    assert [config.token_level_scope for config in configs] == ["batch"] * 4 + ["prompt"] * 2
    without = configs[-1].without("dynamic_sampling", "token_level_loss")
    assert {name: getattr(without, name) for name in given} == {
        "skip_degenerate": None,
        "surplus": "discard",
        "surplus_max_age": None,
        "token_level_scope": "batch",
    }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"vllm_sync": "sideways"}, r"`vllm_sync` must be one of .* got 'sideways'"),
        ({"vllm_base": "3bit"}, r"`vllm_base` must be one of .* got '3bit'"),
        ({"vllm_sync_tolerance": -1.0}, r"`vllm_sync_tolerance` must be above 0 nats and finite, got -1\.0"),
        ({"vllm_sync_tolerance": float("nan")}, r"must be above 0 nats and finite, got nan"),
        ({"use_vllm": False, "vllm_sync": "dense"}, r"need use_vllm=True"),
    ],
)
def test_what_vllm_is_to_get_is_checked_before_a_model_is_loaded(tmp_path, fields, said):
    with pytest.raises(ValueError, match=said):
        DAPOConfig(str(tmp_path), **{"use_cpu": True, "bf16": False, "use_vllm": True, **fields})
