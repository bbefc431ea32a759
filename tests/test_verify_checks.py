"""Data, prompts, end tokens, settings and what a probe says: each check with and without the fault."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOConfig

from tiny import tiny_args, tiny_model, tiny_tokenizer
from trl_dapo import PPOConfig
from trl_dapo.verification.data_checks import check_data, copies_of_a_row
from trl_dapo.verification.display import print_report, printable
from trl_dapo.verification.end_token_check import check_end_tokens, end_tokens, template_end
from trl_dapo.verification.findings import Finding, Report
from trl_dapo.verification.group_shares import choose_size, informative_share
from trl_dapo.verification.probe import Limits, Probe
from trl_dapo.verification.probe_checks import check_probe, informative_and_dead, recommended_length
from trl_dapo.verification.prompt_checks import check_prompts
from trl_dapo.verification.reward_range import Range
from trl_dapo.verification.settings_checks import check_settings
from trl_dapo.verification.setup import Sample
from verifying import by_name, ends_right, setup, sums


# ---------------------------------------------------------------------------------------------------------- the report


def report(*statuses: str) -> Report:
    return Report("dapo", tuple(Finding(f"check_{i}", one, "message") for i, one in enumerate(statuses)))


@pytest.mark.parametrize(
    ("statuses", "status", "code"),
    [
        (["pass", "skipped"], "pass", 0),
        (["pass", "warn"], "warn", 0),
        (["warn", "fail", "pass"], "fail", 1),
        ([], "pass", 0),
    ],
)
def test_a_report_is_as_bad_as_its_worst_finding(statuses, status, code):
    assert (report(*statuses).status, report(*statuses).exit_code) == (status, code)


def test_of_several_findings_of_a_check_the_worst_is_found():
    both = Report("dapo", (Finding("a", "pass", "one"), Finding("a", "fail", "two"), Finding("a", "skipped", "three")))
    assert both.finding("a").message == "two"
    with pytest.raises(KeyError):
        both.finding("b")


def test_json_holds_every_finding_and_no_number_that_json_has_not():
    finding = Finding("a", "fail", "m", {"x": math.nan, "y": 1.5}, "b: 2", {"list": [1, {"deep": math.inf}]})
    read = json.loads(Report("ppo", (finding,), ("a note",), 1.5).as_json())
    assert read["findings"][0]["numbers"] == {"x": None, "y": 1.5}
    assert read["findings"][0]["details"] == {"list": [1, {"deep": None}]}
    assert (read["trainer"], read["status"], read["exit_code"], read["notes"]) == ("ppo", "fail", 1, ["a note"])


def test_lines_name_status_check_message_and_setting(capsys):
    print_report(Report("dapo", (Finding("a", "warn", "two\nlines \x1b[31m[red]", {}, "b: 2"),), ("note",), 2.4))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "warn    a: two lines \\x1b[31m[red] Set: b: 2"
    assert lines[1:] == ["note: note", "warn: 0 passed, 1 warned, 0 failed, 0 skipped, in 2 s"]


def test_a_table_takes_nothing_in_a_message_for_markup():
    class Terminal:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

        def isatty(self):
            return True

    terminal = Terminal()
    print_report(Report("dapo", (Finding("a", "pass", "[bold]x[/bold] [/red]"),)), terminal)
    assert "[bold]x[/bold] [/red]" in terminal.text
    assert printable("a\x1b]0;x\x07") == "a\\x1b]0;x\\x07"


def test_a_misspelt_status_is_refused():
    with pytest.raises(ValueError, match="`status`"):
        Finding("a", "ok", "m")  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize("wrong", [{"prompts": 0}, {"completions": 1}, {"max_new_tokens": 0}])
def test_limits_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be at least"):
        Limits(**wrong)


# ---------------------------------------------------------------------------------------------------------------- data


def test_rows_with_answers_pass(tmp_path):
    found = by_name(check_data(setup(tmp_path, functions=(ends_right,))))
    assert {name: one.status for name, one in found.items()} == {"answers": "pass", "copies": "pass"}


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_rows_without_an_answer_are_counted(tmp_path, empty):
    rows = sums(n=8)
    rows[3]["solution"] = empty
    finding = by_name(check_data(setup(tmp_path, rows, (ends_right,))))["answers"]
    assert (finding.status, finding.numbers["missing"]) == ("warn", 1)
    assert "row 3" in finding.message
    nothing = [{**row, "solution": empty} for row in rows]
    assert by_name(check_data(setup(tmp_path, nothing, (ends_right,))))["answers"].status == "fail"


def test_a_column_that_is_not_there_is_named(tmp_path):
    rows = [{"prompt": row["prompt"], "reply": row["solution"]} for row in sums()]
    finding = by_name(check_data(setup(tmp_path, rows, (ends_right,))))["answers"]
    assert (finding.status, finding.setting) == ("fail", "rename a column to solution")


@pytest.mark.parametrize(
    ("value", "setting"),
    [
        ({"ground_truth": "34", "style": "rule"}, "answer_column: solution.ground_truth"),
        (["34"], "answer_column: solution.0"),
    ],
)
def test_a_nested_answer_names_its_path(tmp_path, value, setting):
    rows = [{**row, "solution": value} for row in sums()]
    finding = by_name(check_data(setup(tmp_path, rows, (ends_right,))))["answers"]
    assert (finding.status, finding.setting) == ("fail", setting)


def test_copies_are_counted_over_rows():
    # 3 copies of a and 1 of b: rows have 3, 3, 3 and 1 copies, 2.5 on average
    assert copies_of_a_row(["a", "a", "b", "a"], 4) == 2.5
    assert copies_of_a_row(["a", "b", "c"], 3) == 1.0
    assert copies_of_a_row(["a"], 1) == 1.0
    # 1 pair among the 3 of 4 drawn, and 6 pairs exist of 4: 1 + 3 * (1 / 3)
    assert copies_of_a_row(["a", "b", "a"], 4) == 2.0


@given(st.lists(st.sampled_from("abcd"), min_size=3, max_size=7), st.integers(2, 3))
def test_a_draw_estimates_the_copies_without_bias(rows, drawn):
    draws = list(itertools.combinations(rows, drawn))
    mean = sum(copies_of_a_row(list(draw), len(rows)) for draw in draws) / len(draws)
    assert mean == pytest.approx(copies_of_a_row(rows, len(rows)))


def test_a_hundred_copies_are_a_warning(tmp_path):
    finding = by_name(check_data(setup(tmp_path, sums(n=4) * 100, (ends_right,))))["copies"]
    assert (finding.status, finding.numbers["copies"]) == ("warn", 100.0)
    few = by_name(check_data(setup(tmp_path, sums(n=4) * 4, (ends_right,))))["copies"]
    assert (few.status, few.numbers["copies"]) == ("pass", 4.0)
    stream = setup(tmp_path, functions=(ends_right,), sample=Sample(sums(n=4) * 100, None))
    assert by_name(check_data(stream))["copies"].status == "skipped"


def test_identical_pairs_teach_nothing(tmp_path):
    rows = [{"prompt": f"{i}", "chosen": "a", "rejected": "b"} for i in range(4)]
    assert by_name(check_data(setup(tmp_path, rows, kind="dpo")))["pairs"].status == "pass"
    rows[1]["rejected"] = "a"
    finding = by_name(check_data(setup(tmp_path, rows, kind="dpo")))["pairs"]
    assert (finding.status, finding.numbers["identical"]) == ("warn", 1)
    alike = [{**row, "rejected": "a"} for row in rows]
    assert by_name(check_data(setup(tmp_path, alike, kind="reward")))["pairs"].status == "fail"


# ------------------------------------------------------------------------------------------------------------- prompts


def test_messages_through_a_template_within_the_context_pass(tmp_path):
    found = by_name(check_prompts(setup(tmp_path, context=4096)))
    assert [one.status for one in found.values()] == ["pass", "pass"]


def test_plain_prompts_of_a_model_with_a_template_are_a_warning(tmp_path):
    finding = check_prompts(setup(tmp_path, sums(chat=False), context=4096))[0]
    assert (finding.status, finding.numbers["plain"]) == ("warn", 1.0)
    assert '"role": "user"' in str(finding.setting)
    base = setup(tmp_path, sums(chat=False), context=4096, tokenizer=tiny_tokenizer(chat=False))
    assert check_prompts(base)[0].status == "pass"


def test_messages_without_a_template_fail(tmp_path):
    found = check_prompts(setup(tmp_path, context=4096, tokenizer=tiny_tokenizer(chat=False)))
    assert [one.status for one in found] == ["fail", "skipped"]


@pytest.mark.parametrize(
    ("context", "status", "setting"),
    [
        # Prompts of 3 to 5 characters, completions of 8 tokens
        (13, "pass", None),
        (12, "warn", "max_completion_length: 7"),
        (10, "fail", "max_completion_length: 5"),
        (4, "fail", "dataset_name: one without these prompts"),
    ],
)
def test_prompts_and_completions_are_held_against_the_context(tmp_path, context, status, setting):
    rows = [{"prompt": "1+2"}, {"prompt": "11+22"}]
    one = setup(tmp_path, rows, context=context, tokenizer=tiny_tokenizer(chat=False))
    finding = by_name(check_prompts(one))["context"]
    assert (finding.status, finding.setting) == (status, setting)
    assert finding.numbers["longest"] == 5


def test_what_is_not_on_this_machine_is_skipped_with_the_reason(tmp_path):
    nothing = setup(tmp_path, tokenizer=None, no_tokenizer="the tokenizer is elsewhere")
    assert {one.message for one in check_prompts(nothing)} == {"the tokenizer is elsewhere"}
    assert check_end_tokens(nothing).message == "the tokenizer is elsewhere"
    assert check_prompts(setup(tmp_path))[1].status == "skipped"


# ---------------------------------------------------------------------------------------------------------- end tokens


def ends(tokenizer, **eos):
    """A model whose configs name these end tokens."""
    model = tiny_model(tokenizer)
    for name, value in eos.items():
        getattr(model, name).eos_token_id = value
    return end_tokens(tokenizer, model)


def test_one_end_that_all_name_passes(tmp_path):
    tokenizer = tiny_tokenizer()
    finding = check_end_tokens(setup(tmp_path, ends=ends(tokenizer)))
    assert finding.status == "pass"
    assert "<|im_end|>" in finding.message


def test_the_templates_end_is_the_special_token_behind_a_turn():
    tokenizer = tiny_tokenizer()
    assert template_end(tokenizer) == tokenizer.eos_token_id
    assert template_end(tiny_tokenizer(chat=False)) is None


def test_a_template_that_ends_with_a_token_at_which_nothing_stops_fails(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|image_pad|>"
    finding = check_end_tokens(setup(tmp_path, tokenizer=tokenizer, ends=ends(tokenizer)))
    assert (finding.status, finding.setting) == ("fail", "processing_class: eos_token='<|im_end|>'")


def test_an_end_of_the_config_at_which_generation_does_not_stop_is_a_warning(tmp_path):
    tokenizer = tiny_tokenizer(chat=False)
    finding = check_end_tokens(setup(tmp_path, tokenizer=tokenizer, ends=ends(tokenizer, config=7)))
    assert finding.status == "warn"
    assert finding.setting == f"generation_config: eos_token_id={sorted([7, tokenizer.eos_token_id])}"
    several = ends(tokenizer, config=7, generation_config=[7, tokenizer.eos_token_id])
    assert check_end_tokens(setup(tmp_path, tokenizer=tokenizer, ends=several)).status == "pass"


def test_padding_with_the_end_token_is_named_and_no_fault(tmp_path):
    # Many models do, and TRL does it for a tokenizer without padding: rows end at their first end token
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    finding = check_end_tokens(setup(tmp_path, tokenizer=tokenizer, ends=ends(tokenizer)))
    assert (finding.status, finding.setting) == ("pass", None)
    assert "pads" in finding.message


# ------------------------------------------------------------------------------------------------------------ settings


def test_several_updates_per_rollout_let_the_clip_range_act(tmp_path):
    found = by_name(check_settings(setup(tmp_path, updates_per_rollout=2, warmup_steps=1)))
    assert [one.status for one in found.values()] == ["pass", "pass"]
    assert found["clipping"].numbers == {"updates_per_rollout": 2.0}


def test_one_update_per_rollout_is_one_warning_of_the_clip_range(tmp_path):
    found = by_name(check_settings(setup(tmp_path, updates_per_rollout=1, warmup_steps=1)))
    assert [(one.status, one.setting) for one in found.values()] == [
        ("warn", "updates_per_rollout: 4"),
        ("pass", None),
    ]


def test_of_a_config_of_trls_too(tmp_path):
    one = setup(tmp_path, kind="grpo", args=tiny_args(tmp_path, cls=GRPOConfig))
    assert by_name(check_settings(one))["clipping"].setting == "steps_per_generation: 4"
    ppo = setup(tmp_path, kind="ppo", args=tiny_args(tmp_path, cls=PPOConfig, num_generations=1))
    assert by_name(check_settings(ppo))["clipping"].status == "pass"  # 4 passes over a rollout


def test_parts_that_cannot_act_are_listed(tmp_path):
    one = setup(tmp_path, updates_per_rollout=2, warmup_steps=3, max_steps=4)
    finding = by_name(check_settings(one))["inert_parts"]
    assert (finding.status, finding.numbers) == ("warn", {"parts": 1.0})
    assert "Warm-up" in finding.message


# ---------------------------------------------------------------------------------------------------------- group size


def test_the_informative_share_is_derived_by_hand():
    # 3 right and 1 wrong. Groups of 2: C(4, 2) = 6, of which 3 are all right: 1 - 3/6. Groups of 4: the one there is
    assert informative_share((3, 1), 2) == 0.5
    assert informative_share((3, 1), 4) == 1.0
    # Larger than what was generated: that of a group of all
    assert informative_share((3, 1), 16) == 1.0
    assert informative_share((4,), 2) == 0.0
    assert informative_share((), 4) == 0.0


@pytest.mark.parametrize("size", [2, 3, 5])
def test_it_is_an_unbiased_estimate(size):
    # All outcomes of 5 completions with p = 0.3: the mean is 1 - p^G - (1 - p)^G
    p, n = 0.3, 5
    mean = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * informative_share((c, n - c), size) for c in range(n + 1))
    assert mean == pytest.approx(1 - p**size - (1 - p) ** size)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_it_is_a_share_that_rises_with_the_size(counts):
    shares = [informative_share(counts, size) for size in range(2, 40)]
    assert all(0 <= share <= 1 for share in shares)
    assert all(first <= second + 1e-12 for first, second in itertools.pairwise(shares))


def test_the_smallest_size_with_half_of_the_groups_informative_is_recommended():
    assert choose_size([(8, 8)]).recommended == 4
    # 1 of 16: groups of G have it with probability G/16, so 8 reach a half
    choice = choose_size([(1, 15)])
    assert (choice.recommended, choice.is_enough) == (8, True)
    assert [choice.shares[size] for size in (4, 8, 16)] == [0.25, 0.5, 1.0]


def test_where_no_size_is_enough_the_last_doubling_that_pays_is_recommended():
    # One prompt of four is informative, at 1 of 32: shares are G/128 = 1/32, 1/16, 1/8, 1/4. Doublings add 1/32, which
    # is below 0.05, at once
    prompts = [(1, 31), (32,), (32,), (32,)]
    choice = choose_size(prompts)
    assert (choice.recommended, choice.is_enough) == (4, False)
    # 1 of 16 in one of three: 1/12, 1/6, 1/3, 1/3
    assert choose_size([(1, 15), (16,), (16,)]).recommended == 16


# ----------------------------------------------------------------------------------------------------------- the probe

BINARY = Range(0.0, 1.0, "declared")


def probe(rewards, lengths=None, cut=None, each=4, penalties=None, limit=8, run_limit=8) -> Probe:
    count = len(rewards)
    return Probe(
        each,
        torch.tensor(rewards, dtype=torch.float64).unsqueeze(1),
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor([4] * count if lengths is None else lengths),
        torch.tensor([False] * count if cut is None else cut),
        None if penalties is None else torch.tensor(penalties, dtype=torch.float64),
        limit,
        run_limit,
    )


MIXED = [1, 0, 1, 0, 1, 1, 0, 0]


def test_a_probe_with_contrast_passes(tmp_path):
    found = by_name(check_probe(setup(tmp_path, functions=(ends_right,)), probe(MIXED, penalties=[0.0] * 8), BINARY))
    assert {name: one.status for name, one in found.items()} == {
        "truncation": "pass",
        "right_answers": "pass",
        "group_size": "pass",
        "dead_groups": "pass",
    }
    assert found["right_answers"].numbers["pass_rate"] == 0.5
    assert found["right_answers"].details["pass_rates"] == [0.5, 0.5]


@pytest.mark.parametrize(("cut", "status"), [(0, "pass"), (1, "warn"), (4, "warn"), (5, "fail")])
def test_completions_without_an_end_are_counted(tmp_path, cut, status):
    one = probe(MIXED, cut=[True] * cut + [False] * (8 - cut))
    finding = by_name(check_probe(setup(tmp_path), one, BINARY))["truncation"]
    assert (finding.status, finding.numbers["cut"]) == (status, cut / 8)
    assert finding.setting == (None if status == "pass" else "max_completion_length: 16")


def test_what_a_shorter_probe_cuts_is_not_held_against_the_run(tmp_path):
    one = probe(MIXED, cut=[True] * 8, limit=8, run_limit=64)
    finding = by_name(check_probe(setup(tmp_path), one, BINARY))["truncation"]
    assert (finding.status, "max_new_tokens 64" in finding.message) == ("skipped", True)


def test_the_length_that_is_needed_is_read_off_the_finished_ones():
    # 100 finished lengths 1 to 100: 99 % need 99 or 100 tokens, in whole 8s 104
    one = probe([0.0] * 101, lengths=[*range(1, 101), 900], cut=[False] * 100 + [True], each=1)
    assert recommended_length(one) == 104
    assert recommended_length(probe([0.0], cut=[True], each=1)) is None


def test_no_right_answer_in_any_group_fails(tmp_path):
    finding = by_name(check_probe(setup(tmp_path), probe([0.0] * 8), BINARY))["right_answers"]
    assert finding.status == "fail"
    assert "answer_format" in str(finding.setting)
    unknown = by_name(check_probe(setup(tmp_path), probe([0.0] * 8), None))["right_answers"]
    assert (unknown.status, "nothing can be learned" in unknown.message) == ("fail", True)


def test_unfinished_completions_say_nothing_about_right_answers(tmp_path):
    one = probe([0.0] * 8, cut=[True] * 8, limit=8, run_limit=64)
    found = by_name(check_probe(setup(tmp_path), one, BINARY))
    assert {name: one.status for name, one in found.items()} == dict.fromkeys(found, "skipped")
    finished = probe([0.0] * 8, limit=8, run_limit=64)
    assert by_name(check_probe(setup(tmp_path), finished, BINARY))["right_answers"].status == "fail"


def test_only_right_answers_are_a_warning(tmp_path):
    assert by_name(check_probe(setup(tmp_path), probe([1.0] * 8), BINARY))["right_answers"].status == "warn"


def test_rewards_that_do_not_apply_are_no_rewards(tmp_path):
    finding = by_name(check_probe(setup(tmp_path), probe([math.nan] * 8), BINARY))["right_answers"]
    assert (finding.status, "no reward function applies" in finding.message) == ("fail", True)
    half = by_name(check_probe(setup(tmp_path), probe([math.nan, 1, 0, 1] * 2), BINARY))["right_answers"]
    assert half.numbers["unscored"] == 0.25
    assert half.numbers["pass_rate"] == pytest.approx(2 / 3)


def test_a_group_that_is_too_small_is_a_warning_with_a_size(tmp_path):
    # One right of 16: groups of 4 are informative a quarter of the time, groups of 8 half of it
    finding = by_name(check_probe(setup(tmp_path), probe([1.0] + [0.0] * 15, each=16), BINARY))["group_size"]
    assert (finding.status, finding.setting) == ("warn", "num_generations: 8")
    assert finding.numbers["share_4"] == 0.25
    enough = setup(tmp_path, num_generations=8)
    assert by_name(check_probe(enough, probe([1.0] + [0.0] * 15, each=16), BINARY))["group_size"].status == "pass"


def test_sizes_beyond_the_probe_are_not_judged(tmp_path):
    # One of four prompts is informative
    one = probe([1.0, 0, 1, 0] + [0.0] * 12, each=4)
    finding = by_name(check_probe(setup(tmp_path), one, BINARY))["group_size"]
    assert (finding.status, finding.numbers["share_4"]) == ("pass", 0.25)
    assert "more completions in the probe" in finding.message


def test_prompts_that_no_group_size_helps_are_a_warning(tmp_path):
    # Of 20 prompts, one is informative
    one = probe([1.0] + [0.0] * 79, each=4)
    finding = by_name(check_probe(setup(tmp_path), one, BINARY))["group_size"]
    assert (finding.status, finding.numbers["share_4"]) == ("warn", pytest.approx(0.05))
    assert "No size helps" in finding.message
    nothing = by_name(check_probe(setup(tmp_path), probe([0.0] * 16, each=4), BINARY))["group_size"]
    assert (nothing.status, "see right_answers" in nothing.message) == ("skipped", True)


def test_ppo_has_no_groups(tmp_path):
    ppo = setup(tmp_path, kind="ppo", args=tiny_args(tmp_path, cls=PPOConfig, num_generations=1))
    found = by_name(check_probe(ppo, probe(MIXED), BINARY))
    assert [found[name].status for name in ("group_size", "dead_groups")] == ["skipped", "skipped"]


def test_dead_groups_are_derived_by_hand():
    # Two groups of 2. First: right at full length, wrong and short: 1 - 1 and 0 - 0, both 0. Second: right and wrong,
    # both short: 1 and 0
    metric, penalties = torch.tensor([1.0, 0, 1, 0]), torch.tensor([-1.0, 0, 0, 0])
    assert informative_and_dead(metric, metric + penalties, 2, 1e-6) == (2, 1)
    assert informative_and_dead(metric, metric + 0.5 * penalties, 2, 1e-6) == (2, 0)


def test_groups_that_the_penalty_kills_fail(tmp_path):
    # Right answers fill the band, wrong ones are short: with factor 1, all score 0
    one = probe(MIXED, penalties=[-reward for reward in MIXED])
    finding = by_name(check_probe(setup(tmp_path, functions=(ends_right,), overlong_penalty_factor=1.0), one, BINARY))[
        "dead_groups"
    ]
    assert (finding.status, finding.numbers["dead"]) == ("fail", 2)
    half = setup(tmp_path, functions=(ends_right,), overlong_penalty_factor=0.5)
    assert by_name(check_probe(half, one, BINARY))["dead_groups"].status == "pass"
