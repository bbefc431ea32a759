"""The four pairs of `docs/dpo.md`, given to TRL's own loss through our trainer."""

import re
from pathlib import Path

import pytest
import torch

from preferences import pairs, preference_args, saved
from tiny import tiny_model, tiny_tokenizer
from trl_dapo import DPOConfig, DPOTrainer


PAGE = (Path(__file__).parents[1] / "docs" / "dpo.md").read_text()
NUMBER = r"(-?\d+(?:\.\d+)?)"
ROWS = [
    [float(number) for number in row]
    for row in re.findall(
        rf"^\| [a-z ]+ \| {NUMBER}, {NUMBER} \| {NUMBER}, {NUMBER}" + rf" \| {NUMBER}" * 5 + r" \|$", PAGE, re.M
    )
]

# By hand, with beta 0.1: margins 0.1 * (10 + 10), 0, 0.1 * (-5 - 5), 0.1 * (-20 + 60). log(1 + e^-2) = 0.12693,
# log 2 = 0.69315, log(1 + e) = 1.31326, log(1 + e^-4) = 0.01815. Without a reference, margins 4, 0, -1 and 6:
# log(1 + e^-4) = 0.01815, log(1 + e^-6) = 0.00248.
LOSSES = [0.12693, 0.69315, 1.31326, 0.01815]
FREE_LOSSES = [0.01815, 0.69315, 1.31326, 0.00248]
WEIGHTS = [0.11920, 0.5, 0.73106, 0.01799]


def scripted(log_probs: list[float]):
    """A model that gives the only token of each completion, 20, this log-probability."""
    values = torch.tensor(log_probs).unsqueeze(1)
    distribution = torch.full((len(values), 2, 21), -300.0)
    distribution[:, :-1, 20] = values
    distribution[:, :-1, 0] = torch.log(-torch.expm1(values))

    class Output(dict):
        logits = distribution  # of TRL before 1.14, which has no fused head
        log_probs = values
        entropy = mean_logits = torch.zeros_like(values)
        is_top1 = torch.zeros_like(values, dtype=torch.bool)

    return lambda **kwargs: Output()


def loss_and_metrics(tmp_path, free: bool):
    tokenizer = tiny_tokenizer()
    base = saved(tmp_path / "base", tiny_model(tokenizer), tokenizer)
    settings = {"reference_free": True} if free else {"precompute_ref_log_probs": True}
    args = preference_args(DPOConfig, tmp_path / "run", beta=0.1, **settings)
    trainer = DPOTrainer(base, args=args, train_dataset=pairs(), processing_class=tokenizer)
    chosen, chosen_ref, rejected, rejected_ref, *_ = (torch.tensor(column) for column in zip(*ROWS, strict=True))
    batch = {
        "input_ids": torch.full((8, 2), 20),
        "attention_mask": torch.ones(8, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]] * 8),
    }
    if not free:
        batch |= {"ref_chosen_logps": chosen_ref, "ref_rejected_logps": rejected_ref}
    loss = trainer.compute_loss(scripted([*chosen.tolist(), *rejected.tolist()]), batch).item()
    metrics = trainer._metrics["train" if trainer.model.training else "eval"]
    return loss, {name: values[-1] for name, values in metrics.items() if values}


def test_the_pages_table_is_what_follows_by_hand():
    assert len(ROWS) == 4
    for row, loss, weight in zip(ROWS, LOSSES, WEIGHTS, strict=True):
        chosen, chosen_ref, rejected, rejected_ref, margin, probability, shown_loss, shown_weight, free = row
        assert margin == pytest.approx(0.1 * (chosen - chosen_ref - rejected + rejected_ref))
        assert free == pytest.approx(0.1 * (chosen - rejected))
        assert (shown_loss, shown_weight) == (pytest.approx(loss, abs=5e-4), pytest.approx(weight, abs=5e-4))
        assert probability == pytest.approx(1 - weight, abs=5e-4)


def test_the_trainer_has_the_pages_numbers(tmp_path):
    loss, metrics = loss_and_metrics(tmp_path, free=False)
    assert loss == pytest.approx(sum(LOSSES) / 4, abs=1e-5)
    assert f"The mean loss is {loss:.3f}" in PAGE
    assert metrics["rewards/accuracies"] == 0.5
    assert metrics["rewards/margins"] == pytest.approx((2 + 0 - 1 + 4) / 4)
    assert metrics["implicit_advantage/mean"] == pytest.approx(sum(WEIGHTS) / 4, abs=1e-5)
    assert metrics["implicit_advantage/frac_below_0.05"] == 0.25


def test_the_trainer_without_a_reference_has_the_pages_number(tmp_path):
    loss, metrics = loss_and_metrics(tmp_path, free=True)
    assert loss == pytest.approx(sum(FREE_LOSSES) / 4, abs=1e-5)
    assert f"is {loss:.3f}." in PAGE
    assert metrics["rewards/margins"] == pytest.approx((4 + 0 - 1 + 6) / 4)
