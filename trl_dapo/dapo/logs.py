"""
What a rollout of several rounds logs: TRL's keys for the rows that are trained on, and the `dapo/*` keys.

A table of candidates in, numbers by name out. The `dapo/*` numbers themselves are computed in `metrics.py`.
"""

import torch

from .metrics import Generated, Trained, length_metrics, rollout_metrics
from .sampling.candidates import Candidates
from .sampling.groups import Selection, Verdicts, judge_groups
from .sampling.rollouts import weighted_means


CALLS, FAILURES = "tools/call_frequency", "tools/failure_frequency"


def host_metrics(candidates: Candidates, groups: list[int]) -> dict[str, float]:
    """
    Returns what TRL's `_generate` would have logged for the rows of `groups`.

    Only lengths are known by row. Everything else is a mean over all rows that were generated.
    """
    rows = [len(one.rows) for one in candidates.rounds]
    generated = weighted_means(zip((one.host_metrics for one in candidates.rounds), rows, strict=True))
    # TRL logs failures as a share of the calls, not of the rows
    calls = [
        sum(one.host_metrics.get(CALLS, [])) * weight for one, weight in zip(candidates.rounds, rows, strict=True)
    ]
    failures = ({FAILURES: one.host_metrics.get(FAILURES, [])} for one in candidates.rounds)
    numbers = candidates.row_numbers(groups)
    trained = length_metrics(candidates.column("lengths")[numbers], candidates.column("truncated")[numbers])
    return {**generated, **weighted_means(zip(failures, calls, strict=True)), **trained}


def user_metrics(candidates: Candidates, groups: list[int]) -> dict[str, float]:
    """Returns what reward functions logged with `log_metric`, each round weighted by its rows in `groups`."""
    shares = candidates.kept_shares(groups)
    return weighted_means(zip((one.user_metrics for one in candidates.rounds), shares, strict=True))


def group_metrics(
    candidates: Candidates,
    selection: Selection,
    metric_B: torch.Tensor,
    shaped_B: torch.Tensor,
    length_penalty_columns: list[int],
    tolerance: float,
    filters_truncated: bool,
    updates_per_rollout: float,
    step: int,
) -> dict[str, float]:
    """
    Returns the `dapo/*` metrics of a rollout, except the seconds.

    Args:
        candidates ([`Candidates`]):
            Everything that was generated, B rows.
        selection ([`Selection`]):
            The groups that are trained on.
        metric_B (`torch.Tensor`):
            Raw metric of the candidates, shape `(B,)`, including those carried over from an earlier rollout.
        shaped_B (`torch.Tensor`):
            Their [`~dead_groups.shaped_rewards`], shape `(B,)`.
        length_penalty_columns (`list[int]`):
            Reward columns that hold length penalties.
        tolerance (`float`):
            Largest range of a group that counts as constant.
        filters_truncated (`bool`):
            Whether overlong filtering takes truncated rows out of the loss.
        updates_per_rollout (`float`):
            Optimizer updates until the next rollout.
        step (`int`):
            Optimizer updates so far.
    """
    numbers = candidates.row_numbers(selection.groups)
    rewards, lengths = candidates.column("rewards")[numbers], candidates.column("lengths")[numbers]
    filtered = candidates.column("truncated")[numbers] & filters_truncated
    filler = torch.tensor(selection.filler).repeat_interleave(candidates.num_generations)
    informative, carried = candidates.informative, candidates.carried_groups
    shaped_PG = shaped_B.view(-1, candidates.num_generations)
    alive = judge_groups(shaped_PG, torch.ones_like(shaped_PG, dtype=torch.bool), tolerance).informative_P.tolist()
    ages = step - candidates.column("steps")[:: candidates.num_generations]
    verdicts = candidates.verdicts
    generated = Generated(
        metric_B=metric_B[candidates.new_rows],
        lengths_B=candidates.column("lengths")[candidates.new_rows],
        truncated_B=candidates.column("truncated")[candidates.new_rows],
        verdicts=Verdicts(
            verdicts.informative_P[carried:], verdicts.all_correct_P[carried:], verdicts.all_wrong_P[carried:]
        ),
        refill_rounds=candidates.refill_rounds,
    )
    trained = Trained(
        informative_groups=sum(informative[group] for group in selection.groups),
        dead_groups=sum(informative[group] and not alive[group] for group in selection.groups),
        surplus_groups=len(candidates.surplus(selection)),
        replaced_groups=informative.count(False) - sum(not informative[group] for group in selection.groups),
        ages_of_carried_P=ages[[group for group in selection.groups if group < carried]],
        exhausted=any(selection.filler),
        length_penalties_B=rewards[:, length_penalty_columns].sum(dim=1),
        filtered_B=filtered & ~filler,
        lengths_in_loss_B=lengths * ~(filtered | filler),
        updates_per_rollout=updates_per_rollout,
    )
    return rollout_metrics(generated, trained)
