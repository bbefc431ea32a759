"""Each rule on a made-up log: the fault with its onset, by hand, and a twin without it. And when a symptom is told."""

import math

import pytest

from trl_dapo.monitor.diagnosis import NAMES, diagnose, run_through, undecided
from trl_dapo.monitor.settings import Settings


def rollouts(number, **series):
    """A log with a row per rollout, at steps 1, 2, ...; a list holds a value per row, anything else is constant."""
    rows = []
    for i in range(number):
        values = {name: value[i] if isinstance(value, list) else value for name, value in series.items()}
        rows.append({"step": i + 1, "reward": 0.5, **{name.replace("__", "/"): one for name, one in values.items()}})
    return rows


def judged(number, accuracy, **series):
    """The same with one reward function that says whether an answer is right."""
    return [
        {**row, "rewards/right/mean": accuracy[i] if isinstance(accuracy, list) else accuracy}
        for i, row in enumerate(rollouts(number, **series))
    ]


def line(first, last, number):
    return [first + (last - first) * i / (number - 1) for i in range(number)]


SETTINGS = {"steps_per_generation": 8, "gradient_accumulation_steps": 1, "num_iterations": 1, "max_refill_rounds": 4}
ON_POLICY = {**SETTINGS, "steps_per_generation": 1, "epsilon": 0.2}
NO_CLIP = {f"clip_ratio__{name}": 0.0 for name in ("region_mean", "low_mean", "high_mean", "high_max", "low_min")}
# Falls to a hundredth within 20 rollouts, and stays there
COLLAPSE = [*line(0.5, 0.005, 20), *[0.005] * 4]
EXPLOSION = [0.3] * 8 + [0.5, 0.7, 0.9, 1.1, 1.3, 1.5]
FELL = [0.6] * 8 + [0.5, 0.4, 0.3, 0.2, 0.1, 0.1]
SHAPED = {"rewards__length_penalty__mean": -0.3, "rewards__right__std": 0.3}
EVALS = {"eval_reward": [0.5, 0.6, 0.6, 0.5, 0.4, 0.3]}


def evaluated(held_out, training):
    """A row of training and one of an evaluation at each step."""
    pairs = zip(held_out, training, strict=True)
    return [
        row
        for i, (one, other) in enumerate(pairs)
        for row in (
            {"step": i + 1, "reward": other, "rewards/right/mean": other},
            {"step": i + 1, "eval_reward": one},
        )
    ]


# Rule, log with the fault, onset, step at which it is told, the twin, settings
CASES = {
    # 0.95 from the first rollout on, told at the second
    "truncated_at_start": (
        rollouts(6, completions__clipped_ratio=0.95),
        1,
        2,
        # The same share, but from rollout 10 on: not at the start
        rollouts(14, completions__clipped_ratio=[0.1] * 9 + [0.95] * 5),
        {"max_completion_length": 256},
    ),
    "no_chat_template": (
        rollouts(4, prompts__share_plain=[1.0, None, None, None], completions__clipped_ratio=0.6),
        1,
        2,
        # A base model that ends its completions needs no template
        rollouts(4, prompts__share_plain=[1.0, None, None, None], completions__clipped_ratio=0.1),
        {},
    ),
    # 0.9 from rollout 3 on, four in a row
    "groups_all_wrong": (
        rollouts(8, dapo__frac_all_wrong=[0.3, 0.5, *[0.9] * 6]),
        3,
        6,
        rollouts(8, dapo__frac_all_wrong=[0.9, 0.9, 0.9, 0.5, 0.9, 0.9, 0.9, 0.5]),
        {},
    ),
    "groups_all_right": (
        rollouts(8, dapo__frac_all_correct=[0.3, 0.5, *[0.9] * 6]),
        3,
        6,
        rollouts(8, dapo__frac_all_correct=0.5),
        {},
    ),
    "refill_cap": (
        rollouts(6, dapo__exhausted=[0, 0, 1, 1, 1, 1], dapo__refill_rounds=3.0, dapo__frac_informative=0.05),
        3,
        5,
        rollouts(6, dapo__exhausted=[0, 1, 1, 0, 1, 1], dapo__refill_rounds=3.0, dapo__frac_informative=0.05),
        SETTINGS,
    ),
    # 16 rollouts without a clipped token, from the first on
    "clip_inert": (
        rollouts(20, **NO_CLIP),
        1,
        16,
        rollouts(20, **{**NO_CLIP, "clip_ratio__region_mean": [0.0] * 10 + [1e-4] + [0.0] * 9}),
        SETTINGS,
    ),
    # Entropy of a rollout is 0.5 - 0.495 (i - 1) / 19, so 0.15 is passed between rollouts 14 (0.161) and 15 (0.135).
    # The median of the first four is 0.461. That of the last four is below 0.046 from rollout 20 on (0.044 there), and
    # the second in a row tells
    "entropy_collapse": (
        judged(24, 0.5, entropy=COLLAPSE),
        15,
        21,
        # The same fall with a rising accuracy is learning
        judged(24, line(0.2, 0.8, 24), entropy=COLLAPSE),
        {},
    ),
    # 0.45, 1.5 times the start, is passed at rollout 9 (0.5). The median of the last three is 0.5 at rollout 10, and
    # their mean accuracy is 0.5, 0.1 below the best; the second in a row tells
    "entropy_explosion": (
        judged(14, FELL, entropy=EXPLOSION),
        9,
        11,
        judged(14, 0.6, entropy=EXPLOSION),
        {},
    ),
    # 3 of 12 are 25 %, at the 12th: zeros at steps 8, 10 and 12
    "zero_gradient": (
        rollouts(12, grad_norm=[*[0.5] * 7, 0.0, 0.5, 0.0, 0.5, 0.0]),
        8,
        12,
        rollouts(12, grad_norm=[*[0.5] * 9, 0.0, 0.5, 0.0]),
        {},
    ),
    # 10, ..., 10, then 12, 14, ...: 12.5 is passed at rollout 8 (14). The mean of the last six is at least 15 where
    # they are 10, 12, ..., 20, at rollout 11; twelve are needed, and two in a row
    "length_growth": (
        judged(16, 0.4, completions__mean_length=[*[10.0] * 6, *[12.0 + 2 * i for i in range(10)]]),
        8,
        13,
        judged(16, line(0.2, 0.8, 16), completions__mean_length=[*[10.0] * 6, *[12.0 + 2 * i for i in range(10)]]),
        {},
    ),
    # (2 x 0.4)^2 / ((2 x 0.4)^2 + 0.3^2) = 0.64 / 0.73 = 88 %. The weight is 2, since 0.5 - 2 x 0.3 = -0.1
    "shaping_dominates": (
        judged(8, 0.5, **SHAPED, rewards__length_penalty__std=0.4, reward=-0.1),
        4,
        7,
        # With a weight of 1, since 0.5 - 0.3 = 0.2, it is 0.16 / 0.25 = 64 %
        judged(8, 0.5, **SHAPED, rewards__length_penalty__std=0.4, reward=0.2),
        {},
    ),
    # Means of two: 0.55, 0.6, 0.55, 0.45, ...: best at steps 2 and 3, and 0.15 lower at step 5
    "held_out_falls": (
        evaluated([0.5, 0.6, 0.6, 0.5, 0.4, 0.3], line(0.3, 0.8, 6)),
        3,
        5,
        # Both fall: no gap opens
        evaluated([0.5, 0.6, 0.6, 0.5, 0.4, 0.3], line(0.8, 0.3, 6)),
        {},
    ),
    "unparseable_answers": (
        rollouts(8, dapo_math__unparseable=[0.2, 0.4, *[0.5] * 6]),
        2,
        6,
        # As many at the start, and falling: the format is being learned
        rollouts(8, dapo_math__unparseable=line(0.9, 0.4, 8)),
        {},
    ),
    "sampler_apart": (
        rollouts(6, sampling__sampling_logp_difference__mean=[0.1, 0.1, *[0.5] * 4]),
        3,
        5,
        rollouts(6, sampling__sampling_logp_difference__mean=0.05),
        {},
    ),
    # Spikes of 11 times the usual at steps 10, 14 and 18
    "gradient_spikes": (
        rollouts(20, grad_norm=[5.5 if i in (9, 13, 17) else 0.5 for i in range(20)]),
        10,
        18,
        # Two of them, and one of 9 times
        rollouts(20, grad_norm=[5.5 if i in (9, 13) else 4.5 if i == 17 else 0.5 for i in range(20)]),
        {},
    ),
    "not_finite": (
        rollouts(6, grad_norm=[0.5, 0.5, *[math.nan] * 4], loss=0.1),
        3,
        4,
        rollouts(6, grad_norm=[0.5, 0.5, math.inf, 0.5, 0.5, 0.5], loss=0.1),
        {},
    ),
    # Four observations are needed, and three in a row: told at the 6th. It has been so since the 1st
    "weights_not_moving": (
        rollouts(8, trained__share_moved=0.004, grad_norm=0.5),
        1,
        6,
        rollouts(8, trained__share_moved=[0.0, *[1.0] * 7], grad_norm=0.5),
        {"learning_rate": 1e-6},
    ),
    # The median of three is above 1 from rollout 5 on
    "kl_runaway": (
        rollouts(8, kl=[0.1, 0.2, 0.4, 1.5, 2.0, 3.0, 4.0, 5.0]),
        5,
        6,
        rollouts(8, kl=line(0.0, 0.4, 8)),
        {"beta": 0.04},
    ),
    # The mean of eight is -0.1 at once; sixteen are needed, of which the last eight begin at rollout 9
    "critic_explains_nothing": (
        rollouts(18, value__explained_variance=-0.1),
        9,
        17,
        rollouts(18, value__explained_variance=line(-0.2, 0.4, 18)),
        {},
    ),
}


def test_every_rule_has_a_case():
    assert CASES.keys() == set(NAMES)


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_finds_its_fault_and_says_since_when(rule):
    log, onset, step, _, settings = CASES[rule]
    found = [one for one in diagnose(log, Settings(settings)) if one.rule == rule]
    assert [(one.onset, one.step) for one in found] == [(onset, step)]
    assert found[0].message.endswith(".")
    assert found[0].advice.endswith(".")
    assert found[0].settings
    assert all(math.isfinite(value) for value in found[0].numbers.values())


@pytest.mark.parametrize("rule", CASES)
def test_its_twin_without_the_fault_has_no_finding_of_any_rule(rule):
    *_, healthy, settings = CASES[rule]
    assert diagnose(healthy, Settings(settings)) == ()


@pytest.mark.parametrize("rule", CASES)
def test_no_other_rule_takes_the_fault_for_its_own(rule):
    log, *_, settings = CASES[rule]
    assert {one.rule for one in diagnose(log, Settings(settings))} == {rule}


@pytest.mark.parametrize("rule", CASES)
def test_a_log_that_grows_is_judged_as_it_is_afterwards(rule):
    log, _, step, _, settings = CASES[rule]
    whole = diagnose(log, Settings(settings))
    for cut in range(len(log)):
        known = diagnose(log[:cut], Settings(settings))
        assert known == whole[: len(known)]
        last = log[cut - 1]["step"] if cut else 0
        # A step may have two rows, of which either tells
        assert last == step or bool(known) == (last > step)


# ---------------------------------------------------------------------------------------------------- plain TRL's keys


def test_the_keys_of_plain_trl_tell_groups_all_wrong_from_all_right():
    wrong = judged(6, 0.02, frac_reward_zero_std=0.95)
    right = judged(6, 0.98, frac_reward_zero_std=0.95)
    assert [one.rule for one in diagnose(wrong)] == ["groups_all_wrong"]
    assert [one.rule for one in diagnose(right)] == ["groups_all_right"]
    # Rewards from -1 to 1, too
    assert [one.rule for one in diagnose(judged(6, -0.98, frac_reward_zero_std=0.95))] == ["groups_all_wrong"]


def test_with_the_spread_of_the_batch_nothing_is_said_about_groups():
    # TRL logs then whether the batch has one reward, as a share of groups
    assert diagnose(judged(6, 0.02, frac_reward_zero_std=0.95), Settings({"scale_rewards": "batch"})) == ()


def test_exact_on_policy_training_is_a_note_and_an_upper_bound_of_its_own_a_finding():
    log = rollouts(20, **NO_CLIP)
    as_it_is = run_through(log, Settings(ON_POLICY))
    assert as_it_is.findings == ()
    assert "exact on-policy training" in as_it_is.notes()[0]
    asked = run_through(log, Settings({**ON_POLICY, "epsilon_high": 0.28}))
    assert [one.rule for one in asked.findings] == ["clip_inert"]
    assert "epsilon_high=0.28 has no effect" in asked.findings[0].message
    assert asked.notes() == ()


def test_what_a_log_of_plain_trl_cannot_tell_is_said():
    log = judged(20, 0.5, entropy=0.4, grad_norm=0.3, completions__clipped_ratio=0.1, **NO_CLIP)
    missing = undecided(log)
    assert missing["clip_inert"] == "neither log nor settings say how many updates a rollout feeds"
    assert "DiagnosisCallback" in missing["weights_not_moving"]
    assert "DAPOTrainer" in missing["refill_cap"]
    assert not {"entropy_collapse", "zero_gradient", "truncated_at_start"} & missing.keys()
    assert undecided(log[:7])["entropy_collapse"] == "7 rollouts with its numbers, and 16 are needed"


def test_without_refill_rounds_a_batch_that_is_not_full_is_intended():
    log = rollouts(6, dapo__exhausted=1.0, dapo__refill_rounds=0.0, dapo__frac_informative=0.5)
    assert diagnose(log) == ()
    log = rollouts(6, dapo__exhausted=1.0, dapo__refill_rounds=1.0, dapo__frac_informative=0.5)
    assert diagnose(log, Settings({"max_refill_rounds": 0})) == ()


def test_values_that_are_repeated_between_rollouts_are_one_observation():
    # `dapo/*` keys are in every log, also where no rollout was
    rows = [{"step": i + 1, "dapo/frac_all_wrong": 0.9, **({"reward": 0.0} if i % 4 == 0 else {})} for i in range(12)]
    assert diagnose(rows) == ()
    assert [one.step for one in diagnose([*rows, {"step": 13, "reward": 0.0, "dapo/frac_all_wrong": 0.9}])] == [13]


def test_float16_looks_for_its_loss_scale_at_the_start():
    log = rollouts(6, grad_norm=[math.inf] * 4 + [0.5, 0.5], loss=0.1)
    assert diagnose(log, Settings({"fp16": True})) == ()
    assert [one.rule for one in diagnose(log)] == ["not_finite"]


def test_ppos_divergence_is_of_a_completion_and_is_judged_per_token():
    far = {"objective__kl": 30.0}
    assert [one.rule for one in diagnose(rollouts(6, **far, completions__mean_length=20.0))] == ["kl_runaway"]
    assert diagnose(rollouts(6, **far, completions__mean_length=200.0)) == ()
    # Without a reference it is 0
    assert diagnose(rollouts(6, kl=0.0)) == ()


def test_a_small_effective_sample_size_tells_too():
    log = rollouts(6, rollout__mismatch_k3=0.01, rollout__effective_sample_size=0.1)
    assert [one.rule for one in diagnose(log)] == ["sampler_apart"]


def test_the_function_that_dynamic_sampling_looks_at_is_the_one_that_judges():
    log = judged(8, 0.5, rewards__right__std=0.1, rewards__style__mean=0.5, rewards__style__std=0.4, reward=1.0)
    assert diagnose(log, Settings({"reward_weights": [1.0, 1.0]})) == ()
    # 0.16 / 0.17 comes from the other, whatever it is called
    (found,) = diagnose(log, Settings({"dynamic_sampling_metric": "right"}))
    assert found.rule == "shaping_dominates"
    assert found.numbers["share"] == pytest.approx(16 / 17)


def test_where_a_schedule_begins_or_ends_at_0_nothing_has_to_move():
    log = rollouts(12, trained__share_moved=0.001, grad_norm=0.5, learning_rate=0.0)
    assert diagnose(log) == ()
    assert [one.rule for one in diagnose([{**row, "learning_rate": 1e-6} for row in log])] == ["weights_not_moving"]


def test_what_a_scorer_cannot_read_in_training_counts_before_an_evaluation():
    (found,) = diagnose(rollouts(8, dapo_math__unparseable=0.9, eval_held_unparseable=0.1))
    assert (found.rule, found.numbers["unparseable"]) == ("unparseable_answers", pytest.approx(0.9))
    assert "(dapo_math/unparseable)" in found.message


def test_names_in_a_log_cannot_move_a_terminal():
    log = rollouts(8, **{"bad\x1b[2J__unparseable": 0.9})
    (found,) = diagnose(log)
    assert "\x1b" not in found.message


# ---------------------------------------------------------------------------------------------------------- hysteresis


def test_a_finding_is_told_once_and_again_only_after_it_was_gone():
    wrong, fine = 0.9, 0.1
    told = lambda values: [one.step for one in diagnose(rollouts(len(values), dapo__frac_all_wrong=values))]  # noqa: E731
    assert told([wrong] * 30) == [4]
    # 7 calm rollouts are not enough, 8 are: twice the patience of 4
    assert told([wrong] * 4 + [fine] * 7 + [wrong] * 8) == [4]
    assert told([wrong] * 4 + [fine] * 8 + [wrong] * 8) == [4, 16]
    # One calm rollout begins the count anew
    assert told([wrong, wrong, wrong, fine, wrong, wrong, wrong]) == []


def test_a_symptom_that_flickers_is_never_calm_enough_to_be_told_again():
    values = [0.9] * 4 + [0.1, 0.9] * 20
    assert len(diagnose(rollouts(len(values), dapo__frac_all_wrong=values))) == 1
