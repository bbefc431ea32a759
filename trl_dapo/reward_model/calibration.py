"""
How far the rewards of pairs can be trusted: calibration, ties, and the influence of length.

Pure functions. A pair's margin is `r(x, y+) - r(x, y-)`, and `sigmoid(margin)` is the probability that a Bradley-Terry
model gives to the preference in the data. Adding the same number to all rewards changes no result.
"""

import math

import torch


# Pairs of a bin whose chance is added up exactly
MOST_EXACT = 256


def expected_calibration_error(margins_B: torch.Tensor, bins: int = 10) -> float:
    r"""
    Returns the expected calibration error of a reward model's choices, from 0 (calibrated) to 1; NaN without pairs.

    The model chooses the completion with the higher reward, and its confidence is `sigmoid(|margin|)`:

        ECE = sum_b n_b / N * |accuracy_b - confidence_b|

    over `bins` bins of equal width from 0.5 to 1 (Guo et al. 2017, https://huggingface.co/papers/1706.04599, Eq. 3).
    With few pairs it is above 0 by chance, even for a calibrated model: see [`chance_calibration_error`]. The
    confidence is that of the model's choice, which can be right or wrong. `sigmoid(margin)` could not be calibrated:
    it is the probability of the preference in the data, and that is always the outcome.

    Args:
        margins_B (`torch.Tensor`):
            Margins of pairs, shape `(B,)`. A margin of 0 is a coin flip: confidence 0.5, half right.
        bins (`int`, *optional*, defaults to `10`):
            Number of bins.
    """
    margins_B = margins_B.double()
    if len(margins_B) == 0:
        return math.nan
    confidence_B = torch.sigmoid(margins_B.abs())
    correct_B = (margins_B.sign() + 1) / 2
    bin_B = ((confidence_B - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=margins_B.device)
    gaps.index_add_(0, bin_B, correct_B - confidence_B)  # n_b * (accuracy_b - confidence_b)
    return (gaps.abs().sum() / len(margins_B)).item()


def chance_calibration_error(margins_B: torch.Tensor, bins: int = 10) -> float:
    r"""
    Returns the mean of [`expected_calibration_error`] if the model were calibrated: what the number of pairs alone
    makes of it; NaN without pairs.

    A sum of absolute values is above 0 by chance: with 8 pairs about 0.3. In
    each bin the number of right choices is then a sum of coins of the pairs' confidences, and the mean of its distance
    from the sum of confidences is taken over its exact distribution.

    Args:
        margins_B (`torch.Tensor`):
            Margins of pairs, shape `(B,)`.
        bins (`int`, *optional*, defaults to `10`):
            Number of bins.
    """
    margins_B = margins_B.double()
    if len(margins_B) == 0:
        return math.nan
    confidence_B = torch.sigmoid(margins_B.abs())
    bin_B = ((confidence_B - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    # A tie counts as half right, whatever happens
    distances = [_mean_distance(confidence_B[(bin_B == number) & (margins_B != 0)]) for number in range(bins)]
    return sum(distances) / len(margins_B)


def _mean_distance(chances: torch.Tensor) -> float:
    """The mean of `|K - sum(p)|`, with K the number of heads of coins of chances p."""
    if len(chances) > MOST_EXACT:
        # Close to normal: the mean of a normal distance from its mean
        return math.sqrt(2 / math.pi * (chances * (1 - chances)).sum().item())
    heads = torch.ones(1, dtype=torch.float64)
    for chance in chances.cpu():
        heads = torch.cat([heads * (1 - chance), heads.new_zeros(1)]) + torch.cat([heads.new_zeros(1), heads * chance])
    counts = torch.arange(len(heads), dtype=torch.float64)
    return (heads * (counts - chances.cpu().sum()).abs()).sum().item()


def brier_score(margins_B: torch.Tensor) -> float:
    r"""
    Returns the Brier score `mean((1 - sigmoid(margin))**2)`, from 0 to 1; NaN without pairs.

    A model that always says one half has 0.25.

    Args:
        margins_B (`torch.Tensor`):
            Margins of pairs, shape `(B,)`.
    """
    return torch.sigmoid(-margins_B.double()).square().mean().item()


def pearson_correlation(x_B: torch.Tensor, y_B: torch.Tensor) -> float:
    """Returns Pearson's correlation of two tensors of shape `(B,)`; NaN if one of them does not vary."""
    x_B, y_B = x_B.double(), y_B.double()
    if len(x_B) < 2 or x_B.min() == x_B.max() or y_B.min() == y_B.max():
        return math.nan
    return torch.corrcoef(torch.stack([x_B, y_B]))[0, 1].clamp(-1, 1).item()


def pair_metrics(rewards_B2: torch.Tensor, lengths_B2: torch.Tensor) -> dict[str, float]:
    """
    Returns what a reward trainer logs besides TRL's `accuracy` and `margin`; NaN for a metric without any pairs.

    - `calibration_error`, `calibration_error_chance`, `brier_score`: see the functions of this module.
    - `calibration_pairs`: the number of pairs, which decides how much of `calibration_error` is chance.
    - `ties`: share of pairs with equal rewards, which `accuracy` counts as wrong.
    - `accuracy_chosen_longer`, `accuracy_chosen_shorter`: accuracy on pairs whose chosen completion has more, or
      fewer, tokens. They are 1 and 0 for a model that has learnt nothing but length.
    - `reward_length_correlation`: over all completions.

    Args:
        rewards_B2 (`torch.Tensor`):
            Rewards of the chosen and the rejected completions, shape `(B, 2)`.
        lengths_B2 (`torch.Tensor`):
            Their lengths in tokens, prompt included, shape `(B, 2)`.
    """
    margins_B = rewards_B2[:, 0] - rewards_B2[:, 1]
    longer_B = lengths_B2[:, 0] - lengths_B2[:, 1]
    correct_B = (margins_B > 0).double()
    return {
        "calibration_error": expected_calibration_error(margins_B),
        "calibration_error_chance": chance_calibration_error(margins_B),
        "calibration_pairs": float(len(margins_B)),
        "brier_score": brier_score(margins_B),
        "ties": (margins_B == 0).double().mean().item(),
        "accuracy_chosen_longer": correct_B[longer_B > 0].mean().item(),
        "accuracy_chosen_shorter": correct_B[longer_B < 0].mean().item(),
        "reward_length_correlation": pearson_correlation(rewards_B2.flatten(), lengths_B2.flatten()),
    }
