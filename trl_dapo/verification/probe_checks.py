"""
What the probe says about the run: are completions finished, is any right, and is there contrast within groups?
"""

import math

import torch

from ..dapo.dead_groups import TOLD_ABOVE, shaped_rewards
from ..dapo.raw_metric import PENALTY_NAME
from .findings import Finding, skipped
from .group_shares import ENOUGH, SIZES, choose_size, informative_share
from .penalty_check import distance_of, penalty_factor
from .probe import Probe
from .reward_range import Range
from .setup import Setup


TRUNCATION, RIGHT, GROUPS, DEAD = "truncation", "right_answers", "group_size", "dead_groups"
NAMES = (TRUNCATION, RIGHT, GROUPS, DEAD)

# As in the documentation of `dapo/overlong_frac`
MANY_CUT, MOST_CUT = 0.1, 0.5
# A recommended length is what this share of the finished completions needs
NEEDED = 0.99
MOST_DEAD = 0.5
# As in the documentation of `dapo/frac_informative`: below, a batch costs ten times its size
FEW_INFORMATIVE = 0.1


def check_probe(setup: Setup, probe: Probe, metric: Range | None) -> list[Finding]:
    """Returns the findings of a probe; `metric` is the range of the raw metric, where it is known."""
    return [_truncation(probe), _right(probe, metric), _group_size(setup, probe), _dead(setup, probe, metric)]


def recommended_length(probe: Probe) -> int | None:
    """Returns the tokens that 99 % of the finished completions need, in whole 8s; `None` where none is finished."""
    finished = probe.lengths[~probe.cut].double()
    if len(finished) == 0:
        return None
    return 8 * math.ceil(torch.quantile(finished, NEEDED, interpolation="higher").item() / 8)


def _truncation(probe: Probe) -> Finding:
    share, needed = probe.cut.double().mean().item(), recommended_length(probe)
    finished = probe.lengths[~probe.cut].double()
    numbers = {"cut": share, "limit": float(probe.limit or 0)}
    if len(finished):
        numbers["p95_finished"] = torch.quantile(finished, 0.95).item()
        numbers["p99_finished"] = torch.quantile(finished, NEEDED).item()
    where = f"{probe.limit} tokens" + (f" of the run's {probe.run_limit}" if probe.is_shortened else "")
    message = f"{share:.0%} of {len(probe.cut)} completions have no end after {where}"
    message += f"; 99 % of the finished ones need {needed}" if needed is not None else ""
    if share <= MANY_CUT:
        return Finding(TRUNCATION, "pass", message, numbers)
    if probe.is_shortened:
        higher = probe.run_limit or "higher"
        why = f"{message}. What the run's limit cuts is not known: probe with max_new_tokens {higher}"
        return Finding(TRUNCATION, "skipped", why, numbers)
    status = "fail" if share > MOST_CUT else "warn"
    return Finding(TRUNCATION, status, message, numbers, f"max_completion_length: {2 * (probe.run_limit or 0)}")


def _right(probe: Probe, metric: Range | None) -> Finding:
    known = probe.metric.isfinite()
    if not known.any():
        message = "no reward function applies to any completion of the probe"
        return Finding(RIGHT, "fail", message, setting="reward_funcs: one that applies to these rows")
    is_unfinished = probe.is_shortened and probe.cut.double().mean().item() > MANY_CUT
    if is_unfinished and (metric is None or not (probe.metric > metric.middle).any()):
        return skipped(
            RIGHT, f"none is right, and {int(probe.cut.sum())} of {len(probe.cut)} completions are unfinished"
        )
    if metric is None:
        value = probe.metric[known][0].item()
        message = f"all {int(known.sum())} completions have the reward {value:g}, so that nothing can be learned"
        return Finding(
            RIGHT, "fail", message, {"reward": value}, "see answer_format, and the difficulty of the prompts"
        )
    right = (probe.metric > metric.middle) & known
    share = right.sum().item() / known.sum().item()
    rates = [
        int(row.sum()) / max(1, int(seen.sum()))
        for row, seen in zip(right.view(-1, probe.per_prompt), known.view(-1, probe.per_prompt), strict=True)
    ]
    numbers = {
        "pass_rate": share,
        "reward": probe.metric[known].mean().item(),
        "unscored": 1 - known.double().mean().item(),
    }
    details = {"pass_rates": rates}
    message = f"{share:.0%} of {int(known.sum())} completions are right; {_spread(rates)}"
    message += ", unfinished ones counted" if probe.is_shortened and probe.cut.any() else ""
    if share == 0:
        setting = "see answer_format and truncation, else easier prompts or a warm start"
        return Finding(RIGHT, "fail", f"{message}. No group can teach anything", numbers, setting, details)
    if share == 1:
        return Finding(RIGHT, "warn", f"{message}. There is nothing left to learn", numbers, "harder prompts", details)
    return Finding(RIGHT, "pass", message, numbers, details=details)


def _group_size(setup: Setup, probe: Probe) -> Finding:
    if not setup.has_groups:
        return skipped(GROUPS, f"{setup.kind} compares with a critic, not within groups")
    own = setup.args.num_generations
    prompts = probe.counts(setup.tolerance)
    if not any(informative_share(counts, probe.per_prompt) for counts in prompts):
        return skipped(GROUPS, f"no prompt has completions of different rewards, see {RIGHT}")
    choice = choose_size(prompts)
    share = sum(informative_share(counts, own) for counts in prompts) / len(prompts)
    numbers = {f"share_{size}": choice.shares[size] for size in SIZES} | {
        f"share_{own}": share,
        "recommended": float(choice.recommended),
    }
    listed = ", ".join(f"{size}: {choice.shares[size]:.0%}" for size in SIZES)
    note = f" (at least, of {probe.per_prompt} completions each)" if max(own, *SIZES) > probe.per_prompt else ""
    message = f"groups of {own} are informative {share:.0%} of the time; {listed}{note}"
    if share >= ENOUGH:
        return Finding(GROUPS, "pass", f"{message}. {choice.recommended} is enough", numbers)
    if choice.recommended > own:
        return Finding(GROUPS, "warn", message, numbers, f"num_generations: {choice.recommended}")
    if share < FEW_INFORMATIVE:
        return Finding(
            GROUPS,
            "warn",
            f"{message}. No size helps: the prompts are too hard or too easy",
            numbers,
            "dataset_name: prompts with pass rates nearer to a half",
        )
    what = "Larger ones take more completions in the probe" if own >= probe.per_prompt else "A larger one adds little"
    return Finding(GROUPS, "pass", f"{message}. {what}", numbers)


def informative_and_dead(metric: torch.Tensor, shaped: torch.Tensor, size: int, tolerance: float) -> tuple[int, int]:
    """
    Returns how many groups are informative, and how many of them have no advantage left after shaping.

    Args:
        metric, shaped (`torch.Tensor`):
            Raw metric, and [`~dapo.dead_groups.shaped_rewards`], of shape `(B,)`; rows of a group together.
        size (`int`):
            Completions of a group, a divisor of B.
        tolerance (`float`):
            Largest range that still counts as constant.
    """
    varied = _range(metric.view(-1, size)) > tolerance
    return int(varied.sum()), int((varied & (_range(shaped.view(-1, size)) <= tolerance)).sum())


def _dead(setup: Setup, probe: Probe, metric: Range | None) -> Finding:
    if not setup.has_groups or not (probe.penalties is not None or PENALTY_NAME in setup.names):
        return skipped(DEAD, "no length penalty shapes the reward")
    rewards, weights = probe.rewards.double(), setup.weights
    if probe.penalties is not None:
        factor = penalty_factor(setup, distance_of(setup, metric))
        if factor is None:
            return skipped(DEAD, "the scale of the length penalty is not known before rewards vary")
        rewards = torch.cat([rewards, probe.penalties.unsqueeze(1)], dim=1)
        weights = [*weights, factor]
    size = math.gcd(probe.per_prompt, setup.args.num_generations)
    size = size if size > 1 else probe.per_prompt
    shaped = shaped_rewards(rewards, torch.tensor(weights), size, setup.args.multi_objective_aggregation)
    informative, dead = informative_and_dead(probe.metric, shaped, size, setup.tolerance)
    if not informative:
        return skipped(DEAD, f"no group of the probe is informative, see {RIGHT}")
    share = dead / informative
    numbers = {"informative": float(informative), "dead": float(dead), "groups_of": float(size), "share": share}
    message = f"{dead} of {informative} informative groups have no advantage left after the length penalty"
    message += f", of completions of up to {probe.limit} tokens" if probe.is_shortened else ""
    if share <= TOLD_ABOVE:
        return Finding(DEAD, "pass", message, numbers)
    field = "reward_weights" if PENALTY_NAME in setup.names else "overlong_penalty_factor"
    return Finding(DEAD, "fail" if share > MOST_DEAD else "warn", message, numbers, f"{field}: see length_penalty")


def _range(rows: torch.Tensor) -> torch.Tensor:
    finite = rows.isfinite()
    return rows.masked_fill(~finite, -math.inf).amax(dim=1) - rows.masked_fill(~finite, math.inf).amin(dim=1)


def _spread(rates: list[float]) -> str:
    never, always = sum(rate == 0 for rate in rates), sum(rate == 1 for rate in rates)
    return f"of {len(rates)} prompts, {never} never and {always} always"
