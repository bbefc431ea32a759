"""The proof that a branch is the run: what is compared, what is not, and what is told of a difference."""

import pytest
import torch
from safetensors.torch import save_file

from trl_dapo.rewind.proof import compare_weights, prove


LOG = [
    {"step": 1, "loss": 0.5, "reward": 0.1},
    {"step": 2, "loss": 0.25, "entropy": float("nan"), "step_time": 1.0},
    {"step": 2, "eval_reward": 0.75, "eval_runtime": 3.0, "eval_samples_per_second": 9.0},
    {"step": 3, "loss": 0.125, "clip": None},
    {"step": 3, "train_runtime": 9.0, "train_loss": 0.3},
]


def test_equal_logs_are_the_run_and_clocks_do_not_count():
    other = [{**entry, "step_time": 2.0} if entry["step"] == 2 and "loss" in entry else entry for entry in LOG[:4]]
    proof = prove(LOG, other, {}, 1, 3)
    # Of step 2: step, loss, entropy, eval_reward; of step 3: step, loss, clip. The summary at the end is left out
    assert proof.holds
    assert (proof.values, proof.last) == (7, 3)
    assert "bit for bit: 7 logged numbers of steps 2 to 3 (no checkpoint" in str(proof)


def test_the_first_difference_is_told_with_step_key_and_values():
    other = [{**entry, "loss": 0.125000000001} if entry.get("loss") == 0.125 else entry for entry in LOG]
    proof = prove(LOG, other, {}, 1, 3)
    assert not proof.holds
    assert (proof.difference.step, proof.difference.key) == (3, "loss")
    assert "NOT the run: step 3, loss: 0.125 in the run, 0.125000000001 in the branch" in str(proof)
    assert "not causal" in str(proof)


def test_a_key_that_the_branch_lacks_is_a_difference_and_a_further_one_is_not():
    assert prove(LOG, [{**entry, "held_out": 1.0} for entry in LOG], {}, 1, 3).holds
    lacking = [{key: value for key, value in entry.items() if key != "eval_reward"} for entry in LOG]
    assert prove(LOG, lacking, {}, 1, 3).difference.branch == "nothing"


def test_where_the_log_ends_at_the_checkpoint_nothing_is_proven():
    proof = prove(LOG, LOG, {}, 3, 5)
    assert not proof.holds
    assert "Nothing is proven" in str(proof)


def test_weights_are_compared_by_their_bits(tmp_path):
    run, same, other = tmp_path / "run", tmp_path / "same", tmp_path / "other"
    tensors = {"a": torch.tensor([1.0, float("nan"), 0.0]), "b": torch.ones(2, dtype=torch.bfloat16)}
    for folder, values in ((run, tensors), (same, tensors), (other, {**tensors, "a": tensors["a"] * -1})):
        folder.mkdir()
        save_file(values, folder / "model.safetensors")
    assert compare_weights(run, same) == (2, None)
    assert compare_weights(run, other) == (0, "a")
    proof = prove(LOG, LOG, {2: (run, same), 3: (run, other)}, 1, 3)
    assert (proof.checkpoints, proof.tensors, proof.difference.key) == ((2, 3), 2, "weights a")


@pytest.mark.parametrize("bits", [(0.0, -0.0)])
def test_zeros_of_either_sign_are_other_bits(tmp_path, bits):
    for name, value in zip(("run", "branch"), bits, strict=True):
        (tmp_path / name).mkdir()
        save_file({"a": torch.tensor([value])}, tmp_path / name / "model.safetensors")
    assert compare_weights(tmp_path / "run", tmp_path / "branch") == (0, "a")


def test_of_a_step_whose_log_differs_the_log_is_told_and_not_the_weights(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    for folder, value in ((run, 1.0), (other, 2.0)):
        folder.mkdir()
        save_file({"a": torch.tensor([value])}, folder / "model.safetensors")
    later = [{**entry, "loss": 7.0} if entry.get("loss") == 0.125 else entry for entry in LOG]
    proof = prove(LOG, later, {3: (run, other)}, 1, 3)
    assert (proof.difference.step, proof.difference.key, proof.checkpoints) == (3, "loss", ())
