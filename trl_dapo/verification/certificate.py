"""
The certificate: every check that makes sense for a trainer, in one report, with the trainer left as it was.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Any

from accelerate.logging import get_logger
from trl import DPOTrainer, RewardTrainer
from trl import GRPOTrainer as HostTrainer

from ..dapo.trainer import DAPOTrainer
from ..host import probing
from ..ppo.trainer import PPOTrainer
from . import model_checks, preference_checks, probe_checks
from .data_checks import check_data
from .end_token_check import check_end_tokens, end_tokens
from .findings import Finding, Report, skipped
from .penalty_check import check_penalty
from .probe import Limits, run_probe
from .prompt_checks import check_prompts
from .reward_checks import check_rewards
from .reward_range import Range, declared_ends, observed_range, range_of_answers
from .settings_checks import check_settings
from .setup import Setup, sample_rows


logger = get_logger(__name__)

Listener = Callable[[str], None]

OF_MODELS = (model_checks.REFERENCE, model_checks.MOVES)


def verify(
    trainer: Any,
    prompts: int = 8,
    completions: int | None = None,
    max_new_tokens: int | None = 256,
    listener: Listener | None = None,
) -> Report:
    """
    Returns what can be told of a run before it is started: one finding per check, each with the setting to change.

    The trainer is left as it was, bit for bit: weights, logs, counts and random numbers. Training afterwards is the
    same as without. Reward functions are called; what they keep elsewhere than in plain attributes stays changed.

    Example:

    ```python
    >>> from trl_dapo import verify

    >>> report = verify(trainer)
    >>> print(report)
    >>> assert report.status != "fail"
    ```

    Args:
        trainer (`Any`):
            A trainer of this package, or TRL's `GRPOTrainer`, `DPOTrainer` or `RewardTrainer`, constructed and not yet
            training.
        prompts (`int`, *optional*, defaults to `8`):
            Prompts of the probe, from all over the train dataset.
        completions (`int`, *optional*):
            Completions of each. By default `num_generations`, at least 8 and at most 16.
        max_new_tokens (`int`, *optional*, defaults to `256`):
            Longest completion of the probe, in tokens; never above `max_completion_length`.
        listener (`Callable[[str], None]`, *optional*):
            Told what begins.

    Raises:
        `TypeError`: If it is no such trainer.
        `ValueError`: If a number is below 1, or several processes train.
    """
    limits = Limits(prompts, completions, max_new_tokens)
    if trainer.accelerator.num_processes > 1:
        raise ValueError("`verify` looks at one process, and there are several. Call it in a run of one process.")
    return examine(trainer, setup_of(trainer), limits, listener)


def kind_of(trainer: Any) -> str:
    """Returns which kind of training a trainer does; raises `TypeError` if it is none that can be verified."""
    kinds: tuple[tuple[Any, str], ...] = (
        (DAPOTrainer, "dapo"),
        (PPOTrainer, "ppo"),
        (HostTrainer, "grpo"),
        (DPOTrainer, "dpo"),
        (RewardTrainer, "reward"),
    )
    for cls, kind in kinds:
        if isinstance(trainer, cls):
            return kind
    raise TypeError(
        f"`trainer` is a {type(trainer).__name__}. Give a trainer of trl_dapo, or TRL's GRPOTrainer, DPOTrainer or "
        "RewardTrainer."
    )


def setup_of(trainer: Any) -> Setup:
    """Returns the [`Setup`] of a constructed trainer."""
    kind, model = kind_of(trainer), trainer.accelerator.unwrap_model(trainer.model)
    functions, names, weights = [], [], []
    if kind in ("dapo", "grpo", "ppo"):
        # DAPO's own length penalty stands behind the user's functions
        own = len(trainer.reward_funcs) - (getattr(trainer, "length_penalty", None) is not None)
        functions, names = trainer.reward_funcs[:own], trainer.reward_func_names[:own]
        weights = [float(weight) for weight in trainer.reward_weights[:own]]
    stops = getattr(trainer, "eos_token_ids", None)
    return Setup(
        kind,
        trainer.args,
        sample_rows(trainer.train_dataset),
        functions,
        names,
        weights,
        trainer.processing_class,
        ends=end_tokens(trainer.processing_class, model, stops),
        context=context_of(model.config),
    )


def context_of(config: Any) -> int | None:
    """Returns how many tokens a model has positions for, or `None` where its config does not say."""
    with suppress(AttributeError):
        config = config.get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def examine(
    trainer: Any,
    setup: Setup,
    limits: Limits,
    listener: Listener | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """
    Returns the report of a trainer, or of a [`Setup`] alone.

    Args:
        trainer (`Any`):
            The trainer; `None` for the checks that need no model.
        setup ([`Setup`]):
            What the user asked for, which on another machine can differ from what the trainer has.
        limits ([`Limits`]):
            How much is generated.
        listener (`Callable[[str], None]`, *optional*):
            Told what begins.
        notes (`Sequence[str]`, *optional*):
            Lines for the report.
    """
    started, tell = time.perf_counter(), listener or (lambda line: None)
    with nullcontext() if trainer is None else probing.left_as_found(trainer, setup.functions):
        tell("settings, data and reward")
        findings = _without_model(setup)
        metric = _range(setup) if setup.generates else None
        if trainer is None:
            findings += _made(check_penalty, "length_penalty", setup, metric) if setup.generates else []
            findings += [skipped(name, "the model was not loaded") for name in _names_with_model(setup)]
        else:
            findings += _with_model(trainer, setup, limits, metric, tell)
    return Report(setup.kind, tuple(findings), tuple(notes), time.perf_counter() - started)


def _without_model(setup: Setup) -> list[Finding]:
    findings = [*check_settings(setup), *_made(check_data, "answers", setup)]
    if setup.generates:
        findings += _made(check_prompts, "chat_template", setup)
        findings += _made(check_end_tokens, "end_tokens", setup)
        findings += _made(check_rewards, "answer_format", setup)
    return findings


def _range(setup: Setup) -> Range | None:
    """Returns the range of the raw metric as it is declared, else over answers written by hand."""
    with suppress(ValueError):  # a declaration that is none, which the penalty's check names
        if (declared := declared_ends(setup)) is not None:
            return declared
    return range_of_answers(setup)


def _with_model(trainer: Any, setup: Setup, limits: Limits, metric: Range | None, tell: Listener) -> list[Finding]:
    tell("the model's first step")
    findings = _made(model_checks.check_reference, model_checks.REFERENCE, trainer, setup)
    findings += _made(model_checks.check_first_step, model_checks.MOVES, trainer, setup)
    if not setup.generates:
        findings += _made(preference_checks.check_first_loss, preference_checks.FIRST_LOSS, trainer, setup)
        if setup.kind == "reward":
            findings.append(preference_checks.check_head(trainer))
        return findings
    penalty = _made(check_penalty, "length_penalty", setup, metric)
    if why := probing.why_not_generated(trainer) or (None if setup.sample.rows else setup.sample.missing):
        names = (model_checks.AGREEMENT, *probe_checks.NAMES)
        return [*findings, *penalty, *(skipped(name, why) for name in names)]
    tell("sampler and trainer")
    findings += _made(model_checks.check_agreement, model_checks.AGREEMENT, trainer, setup)
    tell(f"{limits.prompts} prompts with {limits.completions_of(setup.args)} completions each")
    return findings + _of_probe(trainer, setup, limits, metric, penalty)


def _of_probe(
    trainer: Any, setup: Setup, limits: Limits, metric: Range | None, penalty: list[Finding]
) -> list[Finding]:
    try:
        probe = run_probe(trainer, setup, limits)
    except Exception as error:
        others = [name for name in probe_checks.NAMES if name != probe_checks.RIGHT]
        crashed = _crashed(probe_checks.RIGHT, error)
        return [*penalty, crashed, *(skipped(name, f"see {probe_checks.RIGHT}") for name in others)]
    metric = metric or observed_range(probe.metric.tolist())
    return [*_made(check_penalty, "length_penalty", setup, metric), *probe_checks.check_probe(setup, probe, metric)]


def _made(check: Callable[..., Any], name: str, *args: Any) -> list[Finding]:
    """Returns what a check finds; what it trips over, the run would too."""
    try:
        found = check(*args)
    except Exception as error:
        return [_crashed(name, error)]
    return list(found) if isinstance(found, list) else [found]


def _crashed(name: str, error: Exception) -> Finding:
    logger.debug("A check was not made.", exc_info=error)
    return Finding(name, "fail", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _names_with_model(setup: Setup) -> tuple[str, ...]:
    if setup.generates:
        return (*OF_MODELS, model_checks.AGREEMENT, *probe_checks.NAMES)
    head = (preference_checks.HEAD_TRAINED,) if setup.kind == "reward" else ()
    return (*OF_MODELS, preference_checks.FIRST_LOSS, *head)
