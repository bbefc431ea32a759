"""
The model that training starts from: its reference, whether it moves, and whether sampler and trainer agree.
"""

from typing import Any

import torch

from ..host import probing
from ..host.probed_step import Step, one_step
from ..host.starting_point import as_it_was, reference_difference, tolerance
from .findings import Finding, Status, skipped
from .setup import Setup, spread


REFERENCE, MOVES, AGREEMENT = "reference", "first_step", "sampler_agrees"

# Below, most of a step is rounded away
MOST_MOVE = 0.5
# A token's probability is then wrong by a tenth, half of the clip range
FAR_APART = 0.1
ROWS_COMPARED, TOKENS_COMPARED = 8, 32
# Passes in lower precision, whatever the type of the weights
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_reference(trainer: Any, setup: Setup) -> Finding:
    """Returns whether the reference is the policy that training starts from."""
    if not _has_reference(trainer, setup):
        return skipped(REFERENCE, "there is no reference")
    model = trainer.accelerator.unwrap_model(trainer.model)
    with as_it_was(model):
        difference = reference_difference(trainer, model, probing.probe(trainer))
    numbers = {"difference": difference, "tolerance": tolerance(model)}
    message = f"log-probabilities of policy and reference differ by up to {difference:.3g} nats"
    if difference <= tolerance(model):
        return Finding(REFERENCE, "pass", message, numbers)
    setting = "ref_model: leave it out, and the starting policy is the reference"
    return Finding(REFERENCE, "warn", f"{message}: the KL term begins away from 0", numbers, setting)


def check_first_step(trainer: Any, setup: Setup) -> Finding:
    """Returns whether a step of the config's learning rate moves the trained weights, and the model's outputs."""
    rate = setup.args.learning_rate
    if rate == 0:
        return Finding(
            MOVES, "fail", "learning_rate is 0: nothing is trained", {"learning_rate": 0.0}, "learning_rate: 1e-6"
        )
    model = trainer.accelerator.unwrap_model(trainer.model)
    step = one_step(model, probing.probe(trainer), rate)
    return _judged(step, rate, model)


def _judged(step: Step, rate: float, model: Any) -> Finding:
    share = step.moved / max(1, step.with_gradient)
    numbers = {"moved": share, "entries": float(step.with_gradient), "change": step.change, "learning_rate": rate}
    message = (
        f"a step of learning_rate={rate:g} moves {share:.0%} of {step.with_gradient} weights with a gradient, and "
        f"outputs by up to {step.change:.2g}"
    )
    if not step.with_gradient:
        return Finding(MOVES, "fail", "no trained weight has a gradient", numbers, "peft_config: other target_modules")
    if step.moved and step.change and share >= MOST_MOVE:
        return Finding(MOVES, "pass", message, numbers)
    types = {str(one.dtype).removeprefix("torch.") for one in model.parameters() if one.requires_grad}
    message += f": the rest is rounded away in {' and '.join(sorted(types))}"
    status: Status = "warn" if step.moved and step.change else "fail"
    setting = "dtype: float32 for the trained weights (adapter_dtype on a 4-bit base), or a larger learning_rate"
    return Finding(MOVES, status, message, numbers, setting)


def check_agreement(trainer: Any, setup: Setup) -> Finding:
    """Returns how far the log-probabilities of the tokens that are sampled are from those that are trained on."""
    if trainer.rollout_func is not None:
        return skipped(AGREEMENT, "rollout_func generates, and what it samples from is its own")
    if getattr(trainer, "use_transformers_continuous_batching", False):
        return skipped(AGREEMENT, "continuous batching gives no log-probabilities")
    rows = spread([row["prompt"] for row in setup.sample.rows if "prompt" in row], ROWS_COMPARED)
    torch.manual_seed(setup.args.seed)
    with probing.noting_sampled_logps(trainer) as noted:
        completions = probing.generate(trainer, rows, 1, TOKENS_COMPARED)
    trained, mask = probing.trained_logps(trainer, completions)
    sampled = _as_rows(completions.logps, trained) if completions.logps else torch.cat(noted)
    apart = (sampled[:, : trained.size(1)].to(trained) - trained).abs()[mask.bool()]
    mean, largest = apart.mean().item(), apart.max().item()
    numbers = {"mean": mean, "max": largest, "tokens": float(len(apart))}
    message = (
        f"log-probabilities of {len(apart)} sampled tokens differ by {mean:.2g} on average, {largest:.2g} at most"
    )
    rounded = _rounded_to(trainer, setup.args)
    allowed = max([tolerance(trainer.model), *(8 * torch.finfo(dtype).eps for dtype in rounded.values())])
    numbers["allowed"] = allowed
    message += f"; {' and '.join(rounded)} rounds by up to {allowed:.2g}" if rounded else ""
    if mean <= allowed:
        return Finding(AGREEMENT, "pass", message, numbers)
    status: Status = "fail" if mean > FAR_APART else "warn"
    return Finding(AGREEMENT, status, message, numbers, _agreement_fix(setup.args, rounded))


def _rounded_to(trainer: Any, args: Any) -> dict[str, torch.dtype]:
    """Returns the settings that make a pass less precise than float32, with the type that each rounds to."""
    found = {f"{name}=True": dtype for name, dtype in AUTOCAST.items() if getattr(args, name, False)}
    weights = {one.dtype for one in trainer.model.parameters() if one.dtype in AUTOCAST.values()}
    return found | {f"dtype={str(dtype).removeprefix('torch.')}": dtype for dtype in weights}


def _agreement_fix(args: Any, rounded: dict[str, torch.dtype]) -> str:
    """Returns the setting that makes sampler and trainer agree, by the likeliest cause."""
    given = args.generation_kwargs
    sampled = given.get("temperature", args.temperature) if isinstance(given, dict) else args.temperature
    if sampled != args.temperature:
        return f"temperature: {sampled:g}, and none in generation_kwargs"
    if rounded:
        return "; ".join(f"{one.split('=')[0]}: {'false' if one.endswith('True') else 'float32'}" for one in rounded)
    return "disable_dropout: true, and no dropout in the model's config"


def _has_reference(trainer: Any, setup: Setup) -> bool:
    if setup.kind == "reward" or getattr(trainer, "reference_free", False):
        return False
    if setup.kind == "dpo":
        return True
    # PPO puts the divergence into the reward, and its trainer has a beta of 0
    return setup.args.beta != 0


def _as_rows(logps: list[list[float]], like: torch.Tensor) -> torch.Tensor:
    found = torch.zeros_like(like)
    for place, row in enumerate(logps):
        found[place, : len(row)] = torch.tensor(row)
    return found
