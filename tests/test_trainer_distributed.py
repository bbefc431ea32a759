"""Two and three processes over gloo: the same groups everywhere, straddling groups, unequal yields, no hang."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


SCENARIOS = [
    "whole_groups",
    "straddling_groups",
    "one_group_over_both_ranks",
    "unequal_yields",
    "iterable",
    "exhausted",
    "half_exhausted",
    "everything",
    "filter_alone",
    "carried_surplus",
    "selected_prompts",
    "weighted_tokens",
    "bounded",
    "unequal_updates",
    "no_row_lives",
    "moving_fast",
    "seen_scale",
    "environments",
]
AGREEMENTS = [
    "agree",
    "agree_iterable",
    "agree_exhausted",
    "agree_selected",
    "agree_carried",
    "agree_weighted",
    "agree_compact",
    "agree_bounded",
    "agree_grpo",
    "agree_few",
    "agree_none",
]
# The same runs with TRL's own micro-batches
AS_TRL = ["agree_compact_as_trl", "agree_grpo_as_trl", "agree_few_as_trl", "agree_none_as_trl"]
HERE = Path(__file__).parent


def launch(folder: Path, processes: int, scenarios: list[str]) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE}:{HERE.parent}",
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    subprocess.run(
        [*command, str(HERE / "distributed_worker.py"), str(folder), *scenarios],
        env=environment,
        check=True,
        timeout=300,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("distributed")
    launch(target, 2, [*SCENARIOS, "resumed"])
    return target


def ranks(folder: Path, name: str, processes: int = 2) -> list[dict]:
    return [json.loads((folder / f"{name}-{processes}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_ranks_agree(folder, name):
    first, second = ranks(folder, name)
    assert first["parameters"] == second["parameters"]
    assert first["num_items"] == second["num_items"]
    assert first["stream"] == second["stream"]
    # Only the main process keeps logs of its own numbers; the metrics behind them are the same
    assert len(first["prompts"]) == len(second["prompts"]) > 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_rows_of_all_ranks_in_order_are_whole_groups(folder, name):
    parts = ranks(folder, name)
    for rollout in range(len(parts[0]["prompts"])):
        prompts = [prompt for part in parts for prompt in part["prompts"][rollout]]
        assert len({len(part["prompts"][rollout]) for part in parts}) == 1
        groups = [prompts[i : i + 4] for i in range(0, len(prompts), 4)]
        assert all(len(set(group)) == 1 for group in groups)
        assert len({group[0] for group in groups}) == len(groups)


@pytest.mark.parametrize(
    ("name", "rule"), [("whole_groups", 2), ("straddling_groups", 2), ("unequal_yields", 5), ("iterable", 2)]
)
def test_only_informative_groups_are_trained_on(folder, name, rule):
    parts = ranks(folder, name)
    kept = [prompt for part in parts for rollout in part["prompts"] for prompt in rollout]
    assert all(int(prompt.split("+")[0]) % rule == 0 for prompt in kept)
    advantages = [value for part in parts for rollout in part["advantages"] for value in rollout]
    # Half of a group's rows are right: advantages are plus and minus one number
    assert all(abs(abs(value) - abs(advantages[0])) < 1e-6 for value in advantages)
    assert abs(advantages[0]) > 0.5


def test_rows_move_where_the_ranks_yield_unequally(folder):
    # A rank trains on 4 groups of 4 rows. Where it generated fewer, rows come from the other; they arrive whole.
    for part in ranks(folder, "unequal_yields"):
        for prompts, completions in zip(part["prompts"], part["completions"], strict=True):
            assert len(prompts) == len(completions) == 16
            # `scripted_ids`: the sum of a row's ids is odd in odd rows and even in even ones
            assert [sum(ids) % 2 for ids in completions] == [0, 1, 0, 1] * 4


def test_environments_stay_where_they_were_and_rows_move_without_them(folder):
    parts = ranks(folder, "environments")
    moved = [value for part in parts for value in part["environments"] if value is None]
    assert 0 < len(moved) < 32
    for part in parts:
        assert len(part["environments"]) == 16
        # Row 0 of each group added 9; a row that came from the other rank has no environment here
        for place, total in enumerate(part["environments"]):
            assert total in (None, 9 if place % 4 == 0 else 0)


def test_a_run_resumed_inside_a_rollout_equals_never_stopped(folder):
    # Each rank saves the rows that it has still to train on, and the surplus groups that it holds
    for whole, again in ranks(folder, "resumed"):
        assert again == whole


def test_exhaustion_is_the_same_on_every_rank(folder):
    for part in ranks(folder, "exhausted"):
        assert part["num_items"] == [0, 0]
        assert all(value == 0 for rollout in part["advantages"] for value in rollout)
    half = ranks(folder, "half_exhausted")
    assert half[0]["num_items"] == half[1]["num_items"]
    assert min(half[0]["num_items"]) > 0


def test_an_update_without_a_live_row_is_one_on_every_rank(folder):
    for part in ranks(folder, "no_row_lives"):
        updates = [log for log in part["logs"] if "packing/live_rows" in log]
        assert len(updates) == 4
        assert {log["packing/live_rows"] for log in updates} == {0.0}
        assert {log["packing/microbatches"] for log in updates} == {1.0}


def test_ranks_with_fewer_live_rows_run_as_many_micro_batches(folder):
    # Both ranks log the numbers of all
    first, second = ranks(folder, "unequal_updates")
    updates = [log for log in first["logs"] if "packing/live_rows" in log]
    assert len({log["packing/live_rows"] for log in updates}) > 1
    assert all(log["packing/live_rows"] < 0.6 for log in updates)
    assert updates == [log for log in second["logs"] if "packing/live_rows" in log]


def test_metrics_are_those_of_all_ranks(folder):
    logs = ranks(folder, "whole_groups")[0]["logs"]
    # 8 rows on each of 2 ranks and 2 updates: 8 groups of 4
    assert logs[0]["dapo/groups_kept"] == 8
    assert logs[0]["dapo/groups_generated"] > 8
    assert logs[0]["dapo/accuracy_generated"] == pytest.approx(1 + 0.5 * logs[0]["dapo/frac_informative"])


def test_how_often_a_technique_acts_is_counted_over_all_ranks(folder):
    # Ranks have other rows, of other lengths, and log the same
    first, second = ranks(folder, "moving_fast")
    names = ("above_symmetric", "rows_filtered", "weight_moved", "groups_replaced")
    acted = [[{name: log[f"dapo/{name}"] for name in names} for log in part["logs"][:4]] for part in (first, second)]
    assert acted[0] == acted[1]
    assert all(0 < log["rows_filtered"] < 1 and 0 < log["weight_moved"] < 1 for log in acted[0])
    assert max(log["above_symmetric"] for log in acted[0]) > 0


@pytest.mark.slow
def test_the_scale_of_the_length_penalty_is_seen_by_all_processes_together(folder, tmp_path):
    launch(tmp_path, 1, ["seen_scale_alone"])
    (alone,) = ranks(tmp_path, "seen_scale_alone", 1)
    # Rewards are 1 to 1 + n for the largest number n among the prompts generated, which are some of 0 to 63; the
    # factor is half of n
    assert alone["factor"] in range(1, 32)
    for part in ranks(folder, "seen_scale"):
        assert part["factor"] == alone["factor"]
    both = [value for part in ranks(folder, "seen_scale") for value in part["advantages"][0]]
    assert sorted(both) == pytest.approx(sorted(alone["advantages"][0]), abs=1e-6)


@pytest.mark.slow
def test_two_processes_keep_the_groups_that_one_keeps(folder, tmp_path):
    # 16 rows on one process are 8 on each of two: same batch, same refills, same groups, perhaps in another order
    launch(tmp_path, 1, ["one_process"])
    alone = ranks(tmp_path, "one_process", 1)[0]
    both = ranks(folder, "whole_groups")
    for rollout, prompts in enumerate(alone["prompts"]):
        rows = sorted(zip(prompts, map(str, alone["completions"][rollout]), strict=True))
        theirs = [
            pair
            for part in both
            for pair in zip(part["prompts"][rollout], map(str, part["completions"][rollout]), strict=True)
        ]
        assert rows == sorted(theirs)
        assert alone["num_items"][rollout] == both[0]["num_items"][rollout]
    for mine, theirs in zip(alone["logs"], both[0]["logs"], strict=True):
        for name in ("rows_filtered", "weight_moved", "groups_replaced"):
            assert mine.get(f"dapo/{name}") == pytest.approx(theirs.get(f"dapo/{name}"))


def double(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(scope="module")
def agreeing(tmp_path_factory):
    target = tmp_path_factory.mktemp("agreeing")
    for processes in (1, 2, 3):
        launch(target, processes, [*AGREEMENTS, *AS_TRL])
    return target


@pytest.mark.slow
@pytest.mark.parametrize("name", AGREEMENTS)
def test_one_two_and_three_processes_end_with_the_same_parameters(agreeing, name):
    alone = ranks(agreeing, name, 1)[0]
    for processes in (2, 3):
        for part in ranks(agreeing, name, processes):
            assert part["stream"] == alone["stream"]
            assert part["num_items"] == alone["num_items"]
            for key, value in alone["values"].items():
                difference = (double(part["values"][key]) - double(value)).abs().max()
                assert difference < 1e-6, (key, processes)
        kept = [prompt for part in ranks(agreeing, name, processes) for prompt in part["prompts"][0]]
        assert sorted(kept) == sorted(alone["prompts"][0])
    learns = any(value != 0 for values in alone["advantages"] for value in torch.tensor(values).view(-1).tolist())
    assert learns == (name != "agree_none")


@pytest.mark.slow
@pytest.mark.parametrize("name", AS_TRL)
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_compact_micro_batches_end_with_the_parameters_of_trls(agreeing, name, processes):
    for ours, theirs in zip(
        ranks(agreeing, name.removesuffix("_as_trl"), processes), ranks(agreeing, name, processes), strict=True
    ):
        assert ours["num_items"] == theirs["num_items"]
        for key, value in theirs["values"].items():
            assert (double(ours["values"][key]) - double(value)).abs().max() < 1e-6, key


@pytest.mark.slow
def test_three_processes(tmp_path):
    names = ["whole_groups", "straddling_groups", "unequal_yields", "half_exhausted", "iterable", "carried_surplus"]
    launch(tmp_path, 3, names)
    for name in names:
        parts = ranks(tmp_path, name, 3)
        assert parts[0]["parameters"] == parts[1]["parameters"] == parts[2]["parameters"]
        assert parts[0]["num_items"] == parts[1]["num_items"] == parts[2]["num_items"]
