"""That fields act at a checkpoint, in each trainer: from which update on, and that the unchanged branch is the run."""

import json
from pathlib import Path

import pytest

from rewinding import WORDS, here, rewind, train


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
OFFLINE = {name: WORDS[name] for name in ("save_strategy", "save_steps", "logging_steps", "report_to", "disable_tqdm")}
ONLINE = {**OFFLINE, "max_steps": "6", "max_completion_length": "12", "per_device_train_batch_size": "16"}
CLOCKS = ("time", "seconds", "per_second", "runtime")
BASE = 3

# Of each trainer the run, and changes with the first update in whose log they show. The checkpoint of update 3 lies
# inside a rollout of two updates: what is of the loss shows in update 4, and what is of rollouts in update 5, for
# which the next one is drawn. What changes the step alone shows in update 5, which has its weights, or in update 4,
# where other shares of the weights are moved
RUNS: dict[str, tuple[dict[str, str], dict[str, int]]] = {
    "dapo": (
        {**WORDS, "max_steps": "6"},
        {
            "top_entropy_quantile=0.5": 4,
            "token_level_loss=false": 4,
            "importance_sampling_level=sequence": 4,
            "entropy_coef=0.5": 4,
            "overlong_penalty_factor=3.0": 5,
            "overlong_filtering=false": 5,
            "repetition_penalty=1.3": 5,
            "top_p=0.3": 5,
        },
    ),
    "grpo": (
        {**ONLINE, "steps_per_generation": "2"},
        {
            "epsilon=0.0001": 4,
            "loss_type=dr_grpo": 4,
            "delta=1.0": 4,
            "min_p=0.5": 5,
            "mask_truncated_completions=true": 5,
        },
    ),
    "ppo": (
        {**ONLINE, "steps_per_generation": "2"},
        {
            "cliprange_value=1e-5": 4,
            "critic_learning_rate=0.5": 5,
            "critic_max_grad_norm=1e-6": 5,
            "gamma=0.1": 5,
            "lam=0.1": 5,
            "normalize_rewards=true": 5,
            "missing_eos_penalty=1.0": 5,
        },
    ),
    "dpo": (
        {**OFFLINE, "max_steps": "6"},
        {
            "beta=5.0": 4,
            "loss_type=ipo": 4,
            "ld_alpha=0.1": 4,
            "f_divergence_type=js_divergence": 4,
            "max_grad_norm=1e-6": 5,
        },
    ),
    "reward": (
        {**OFFLINE, "max_steps": "6"},
        {"weight_decay=500.0": 4, "center_rewards_coefficient=3.0": 4, "adam_beta1=0.1": 5},
    ),
}


def logs(run: Path) -> dict[str, list[dict]]:
    """The log of each future by its change, without what a clock has measured."""
    found = {}
    for path in (run / "rewind").glob("*/branch.json"):
        changes = json.loads(path.read_text())["changes"]
        name = ",".join(changes)
        entries = json.loads((path.parent / "future.json").read_text())["log"]
        found[name] = [
            {key: value for key, value in entry.items() if not key.endswith(CLOCKS)}
            for entry in entries
            if "train_runtime" not in entry
        ]
    return found


@pytest.mark.parametrize("command", RUNS)
def test_changes_act_from_their_update_on_and_the_unchanged_branch_is_the_run(command, tmp_path, monkeypatch):
    here(monkeypatch)
    words, changes = RUNS[command]
    monkeypatch.setattr("rewinding.WORDS", {})
    monkeypatch.setattr("trl_dapo.cli.built_in_task.TRAINING_PAIRS", 256)
    run = train(tmp_path / "run", command, **words, live_view="off")
    assert rewind(run, "--to", str(BASE), *(word for change in changes for word in ("--set", change))) == 0
    report = json.loads((run / "rewind" / f"{BASE}-report" / "futures.json").read_text())
    assert report["causal"] is True, report["proof"]["difference"]
    assert report["proof"]["checkpoints"] == [6]
    futures = logs(run)
    was = futures.pop("")
    differing = {
        name: next((entry["step"] for entry, other in zip(was, own, strict=True) if entry != other), None)
        for name, own in futures.items()
    }
    assert differing == {change.partition("=")[0]: first for change, first in changes.items()}
