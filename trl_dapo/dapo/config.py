"""
`DAPOConfig`: TRL's `GRPOConfig` with DAPO's five parts as toggles.

A toggle sets the fields of TRL that belong to it. If you set such a field yourself, it must agree with the toggle, so
toggles and fields never contradict each other after construction. What a toggle does is in the other files of this
folder; what a batch of this config holds is in `batch_plan.py`.
"""

import math
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from trl import GRPOConfig as HostConfig

from ..grpo.config import GRPOConfig
from ..grpo.recipe import GRPO, known_fields
from ..host.promotion import with_defaults
from ..host.ranges import check_generation_fields
from ..host.required import required
from .overlong import default_soft_punish_cache


# In the order of the paper's Table 1, in which each row adds one of them
TOGGLES = (
    "overlong_filtering",
    "clip_higher",
    "soft_overlong_punishment",
    "token_level_loss",
    "dynamic_sampling",
)

# The field of TRL that a toggle sets, if there is one
GOVERNED = {
    "overlong_filtering": "mask_truncated_completions",
    "clip_higher": "epsilon_high",
    "token_level_loss": "loss_type",
}

# Switches of dynamic sampling that decide which prompts are generated
PROMPT_SWITCHES = ("skip_degenerate", "skip_solved_above", "prompt_selection")

# Parameters that are refused while their toggle is off, since nothing would read them
RELIANT = {
    "dynamic_sampling": (*PROMPT_SWITCHES, "surplus", "surplus_max_age"),
    "token_level_loss": ("token_level_scope",),
}

# Allowed values of fields that are plain strings to TRL's parser: a misspelt one is caught here
CHOICES = {
    "dynamic_sampling_on_exhaustion": ("fill", "raise"),
    "skip_degenerate": (None, "greso"),
    "prompt_selection": (None, "thompson"),
    "surplus": ("discard", "carry"),
    "token_level_scope": ("batch", "prompt"),
}

# Losses that are a sum over tokens divided by one number for the whole rollout. Only these can be weighted by token
TOKEN_SUM_LOSSES = ("dapo", "cispo")

# What all rows of the paper's Table 1 have in common; the toggles set the rest
PINNED = {name: value for name, value in known_fields(GRPO).items() if name not in GOVERNED.values()} | {"beta": 0.0}

# Names of the rows of the paper's Table 1; each adds one toggle to the row before
LADDER = ("naive GRPO", *("+ " + toggle.replace("_", " ").replace("clip higher", "clip-higher") for toggle in TOGGLES))

# TRL's loss types by how they weight tokens: all alike, or averaged within their completion first
TOKEN_LEVEL_LOSSES = ("dapo", "bnpo", "dr_grpo", "cispo", "vespo")
SEQUENCE_LEVEL_LOSSES = ("grpo", "sapo", "luspo")
UNCLIPPED_LOSSES = ("sapo", "vespo")

PAPER_EPSILON_HIGH = 0.28  # §4.1
PAPER_WARMUP_ROLLOUTS = 20  # §4.1
# The paper's 16 would make a rollout four times as large. With 1, the importance ratio is always 1 and clip-higher has
# no effect
DEFAULT_UPDATES_PER_ROLLOUT = 4


@dataclass
class DAPOConfig(GRPOConfig):
    r"""
    Configuration class for the [`DAPOTrainer`].

    It takes every parameter of [`~trl.GRPOConfig`] and of [`GRPOConfig`]. Section numbers refer to the [DAPO
    paper](https://huggingface.co/papers/2503.14476). With all five toggles off, the trainer behaves as
    [`~trl.GRPOTrainer`], and rows are packed only if `max_tokens_per_microbatch` is set.

    Parameters:
        > The five parts, in the order of the paper's Table 1

        overlong_filtering (`bool`, *optional*, defaults to `True`):
            Leave truncated completions out of the loss (§3.4). Sets `mask_truncated_completions`.
        clip_higher (`bool`, *optional*, defaults to `True`):
            Raise only the upper bound of the clip range (§3.1). Sets `epsilon_high`.
        soft_overlong_punishment (`bool`, *optional*, defaults to `True`):
            Add TRL's `soft_overlong_punishment_reward` (Eq. 13, §3.4) as a reward column that dynamic sampling does
            not look at.
        token_level_loss (`bool`, *optional*, defaults to `True`):
            Give all tokens of an update the same weight (§3.3). Sets `loss_type` to `"dapo"`, or to `"grpo"` when off.
        dynamic_sampling (`bool`, *optional*, defaults to `True`):
            Replace groups whose raw metric is constant with groups of other prompts, until the batch is full (§3.2).

        > Parameters of the parts

        epsilon_high (`float`, *optional*):
            Upper bound of the clip range is `1 + epsilon_high`. Defaults to `0.28` (§4.1) with `clip_higher`, else to
            `epsilon`.
        soft_punish_cache (`int`, *optional*):
            Width in tokens of the penalised band below `max_completion_length`. Defaults to the paper's share of it,
            4096 of 20480 (§4.1).
        overlong_penalty_factor (`float`, *optional*):
            Weight of the length penalty, which is 0 to -1: the reward is `R + overlong_penalty_factor * penalty`. By
            default half of the distance between a wrong and a right answer, as in the paper (rewards of +1 and -1 and
            a penalty down to -1, Eq. 7 and 13). The distance is what the reward functions declare (`reward_range`),
            else the range of the raw metric in the first rollout in which it varies; until then no penalty is paid.
        max_refill_rounds (`int`, *optional*, defaults to `10`):
            Most generation rounds after the first, per rollout. With `0`, degenerate groups are left out of the loss
            and not replaced.
        dynamic_sampling_metric (`str`, *optional*):
            Name of the reward function whose values dynamic sampling looks at, as TRL logs it (`rewards/<name>/mean`).
            Defaults to the weighted sum of all reward functions except soft overlong punishments.
        dynamic_sampling_tolerance (`float`, *optional*, defaults to `1e-6`):
            A group is informative when `max - min` of its metric exceeds this.
        dynamic_sampling_on_exhaustion (`str`, *optional*, defaults to `"fill"`):
            What to do if the batch is not full after the last round: `"fill"` it with degenerate groups that stay out
            of the loss and its denominator, or `"raise"` an error.

        > Which prompts are generated, and how many at once

        max_round_batches (`float`, *optional*, defaults to `1.0`):
            Largest generation round, in generation batches. TRL's generation with transformers holds a whole round in
            memory. With vLLM, or with memory to spare, a larger bound saves refill rounds when few groups are
            informative.
        skip_degenerate (`str`, *optional*):
            `"greso"` skips prompts whose last groups were degenerate. The more of these there were in a row, the more
            likely the prompt is skipped ([GRESO](https://huggingface.co/papers/2506.02177)).
        skip_solved_above (`float`, *optional*):
            Never again generate a prompt if at least this share of its last completions was right (no positive
            resampling; [ScaleRL](https://huggingface.co/papers/2510.13786) uses 0.9).
        prompt_selection (`str`, *optional*):
            `"thompson"` chooses prompts whose pass rate, drawn from its Beta posterior, is closest to 1/2
            ([MoPPS](https://huggingface.co/papers/2507.04632)).
        surplus (`str`, *optional*, defaults to `"discard"`):
            What happens to informative groups that do not fit into the batch: `"discard"` them, which keeps training
            on-policy, or `"carry"` them into the next batch with the log-probs of the policy that generated them.
        surplus_max_age (`int`, *optional*):
            Largest age of a carried group, in optimizer updates. A carried group is used in the next rollout or not at
            all, so its age is the number of updates per rollout. A lower bound is refused.

        > Weights of tokens

        token_level_scope (`str`, *optional*, defaults to `"batch"`):
            Average the loss over the tokens of the `"batch"`, as TRL and verl do, or over the tokens of each group and
            then over groups, `"prompt"`, as in Eq. 12 of the paper.

        > Parameters whose default differs from TRL's

        disable_dropout (`bool`, *optional*, defaults to `True`):
            As in [`GRPOConfig`].
        updates_per_rollout (`int`, *optional*):
            Optimizer updates per pass over a rollout. Sets `steps_per_generation` to this number times
            `gradient_accumulation_steps`, unless `steps_per_generation` or `generation_batch_size` is set. Defaults to
            `4`; the paper uses 16 (§4.1). With 1, the importance ratio is exactly 1 and nothing is ever clipped.
        lr_scheduler_type (`str`, *optional*, defaults to `"constant_with_warmup"`):
            The paper trains with a constant learning rate after a linear warm-up (§4.1).
        warmup_steps (`float`, *optional*):
            Defaults to the paper's 20 rollouts (§4.1) counted in optimizer steps.
        beta (`float`, *optional*, defaults to `0.0`):
            Coefficient of the KL divergence. The paper uses none (§2.3), and 0.0 is TRL's default too.
        use_bias_correction_kl (`bool`, *optional*, defaults to `False`):
            Multiply the KL term by the importance ratio, as TRL does. GRPO's has none, and without `beta` there is no
            KL term.
        mask_truncated_completions (`bool`, *optional*):
            Follows `overlong_filtering`.
        loss_type (`str`, *optional*):
            Follows `token_level_loss`. You can set any other loss type of TRL that agrees with the toggle.
    """

    # The other toggles set fields of TRL's, which its trainer reads
    own_trainer = "DAPOTrainer"
    method_fields = ("soft_overlong_punishment", "dynamic_sampling")
    filled_fields = (
        "overlong_filtering",
        "clip_higher",
        "token_level_loss",
        "soft_punish_cache",
        "updates_per_rollout",
    )

    overlong_filtering: bool = field(
        default=True, metadata={"help": "Leave truncated completions out of the loss (DAPO paper, section 3.4)."}
    )
    clip_higher: bool = field(
        default=True, metadata={"help": "Raise only the upper clip bound (DAPO paper, section 3.1)."}
    )
    soft_overlong_punishment: bool = field(
        default=True, metadata={"help": "Add the length penalty of Eq. 13 (DAPO paper, section 3.4)."}
    )
    token_level_loss: bool = field(
        default=True, metadata={"help": "Give all tokens of an update the same weight (DAPO paper, section 3.3)."}
    )
    dynamic_sampling: bool = field(
        default=True, metadata={"help": "Replace groups whose raw metric is constant (DAPO paper, section 3.2)."}
    )
    epsilon_high: float | None = field(
        default=None,
        metadata={"help": "Upper clip bound is 1 + epsilon_high. 0.28 with clip_higher, else epsilon."},
    )
    soft_punish_cache: int | None = field(
        default=None,
        metadata={"help": "Width in tokens of the penalised band. A fifth of max_completion_length by default."},
    )
    overlong_penalty_factor: float | None = field(
        default=None,
        metadata={"help": "Weight of the length penalty. Half of what a right answer is worth by default."},
    )
    max_refill_rounds: int = field(
        default=10, metadata={"help": "Generation rounds after the first, per rollout. 0: filter without refill."}
    )
    dynamic_sampling_metric: str | None = field(
        default=None,
        metadata={"help": "Reward function that dynamic sampling looks at. All but length penalties by default."},
    )
    dynamic_sampling_tolerance: float = field(
        default=1e-6, metadata={"help": "A group is informative when max - min of its metric exceeds this."}
    )
    dynamic_sampling_on_exhaustion: str = field(
        default="fill",
        metadata={"help": "If rounds run out: 'fill' the batch with groups outside the loss, or 'raise'."},
    )
    max_round_batches: float = field(
        default=1.0, metadata={"help": "Largest generation round, in generation batches."}
    )
    skip_degenerate: str | None = field(
        default=None, metadata={"help": "'greso': skip prompts whose last groups were degenerate."}
    )
    skip_solved_above: float | None = field(
        default=None,
        metadata={"help": "Never again generate a prompt with at least this share of right completions, e.g. 0.9."},
    )
    prompt_selection: str | None = field(
        default=None, metadata={"help": "'thompson': choose prompts with a pass rate close to 1/2."}
    )
    surplus: str = field(
        default="discard",
        metadata={"help": "Informative groups beyond the batch: 'discard' them, or 'carry' them over."},
    )
    surplus_max_age: int | None = field(
        default=None,
        metadata={
            "help": "Largest age of a carried group, in optimizer updates. At least the updates of one rollout."
        },
    )
    token_level_scope: str = field(
        default="batch", metadata={"help": "Tokens are averaged over the 'batch', or over each 'prompt' first."}
    )
    updates_per_rollout: int | None = field(
        default=None, metadata={"help": "Optimizer updates per pass over a rollout. 4 by default; the paper uses 16."}
    )
    lr_scheduler_type: str = field(
        default="constant_with_warmup",
        metadata={"help": "Learning rate schedule; the paper's is constant after a warm-up."},
    )
    warmup_steps: float | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None,
        metadata={"help": "Warm-up in optimizer steps. By default the paper's 20 rollouts."},
    )
    use_bias_correction_kl: bool = field(
        default=False, metadata={"help": "Multiply the KL term by the importance ratio; GRPO's has none."}
    )
    mask_truncated_completions: bool | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None, metadata={"help": "Follows overlong_filtering."}
    )
    loss_type: str | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None, metadata={"help": "'dapo' with token_level_loss, else 'grpo'; or another type of TRL."}
    )

    def __post_init__(self) -> None:
        # First, because the host derives the generation batch from `steps_per_generation`
        self._settle_updates_per_rollout()
        # The host accepts no `None`, and the paper's warm-up can only be counted once the host has set the batch sizes
        warmup_steps, self.warmup_steps = self.warmup_steps, self.warmup_steps or 0
        super().__post_init__()
        if warmup_steps is None:
            self.warmup_steps = self._paper_warmup_steps()
        self._settle_toggles()
        self._check_parameters()

    @classmethod
    def naive_grpo(cls, *args: Any, **kwargs: Any) -> Self:
        """Returns a config with all five toggles off: the first row of the paper's Table 1."""
        values: dict[str, Any] = {**PINNED, **dict.fromkeys(TOGGLES, False), **kwargs}
        return cls(*args, **values)

    @classmethod
    def ladder(cls, output_dir: str = "trainer_output", **kwargs: Any) -> list[Self]:
        """
        Returns the six configs of the paper's Table 1, from naive GRPO to DAPO. Each adds one toggle.

        [`LADDER`] has the names of the rows. Each config has its own folder under `output_dir`. Parameters of a part
        that is off in a row are left out of that row.
        """
        given = [toggle for toggle in TOGGLES if toggle in kwargs]
        if given:
            raise ValueError(f"`ladder` sets the toggles, and got {given[0]}={kwargs[given[0]]}. Leave it out.")
        configs = []
        for row, name in enumerate(LADDER):
            toggles = {toggle: position < row for position, toggle in enumerate(TOGGLES)}
            folder = f"{row}-" + name.removeprefix("+ ").replace(" ", "-").lower()
            off = [governed for toggle, governed in GOVERNED.items() if not toggles[toggle]]
            off += [reliant for toggle, names in RELIANT.items() if not toggles[toggle] for reliant in names]
            values: dict[str, Any] = {**PINNED, **{key: kwargs[key] for key in kwargs if key not in off}, **toggles}
            configs.append(cls(str(Path(output_dir) / folder), **values))
        return configs

    @classmethod
    def from_grpo_config(cls, config: HostConfig) -> tuple[Self, list[str]]:
        """
        Returns the config promoted to DAPO, and one line for each field that changed.

        Fields with [`~trl.GRPOConfig`]'s default take DAPO's default, even if the user wrote that value, which cannot
        be told apart: give a [`DAPOConfig`] to keep it. Other values stay, and so does the size of the rollout. A
        toggle that contradicts such a value is turned off.
        """
        check_generation_fields(config)
        promoted = with_defaults(config, cls)
        promoted.__dict__.update(toggles_beside(vars(config)))
        for name in GOVERNED.values():
            if not _is_set(config, name):
                setattr(promoted, name, None)
        for name, value in (("disable_dropout", True), ("use_bias_correction_kl", False)):
            if not _is_set(config, name):
                setattr(promoted, name, value)
        # The user chose the size of the rollout to fit the memory at hand
        promoted.updates_per_rollout = max(
            1, required(config.steps_per_generation) // config.gradient_accumulation_steps
        )
        if not _is_set(config, "lr_scheduler_type"):
            promoted.lr_scheduler_type = type(config.lr_scheduler_type)("constant_with_warmup")
            if not _is_set(config, "warmup_steps"):
                promoted.warmup_steps = promoted._paper_warmup_steps()
        promoted._settle_toggles()
        promoted._check_parameters()
        return promoted, promoted._changes_since(config)

    def without(self, *toggles: str) -> Self:
        """Returns a copy with these toggles off, e.g. `config.without("clip_higher")`."""
        unknown = [toggle for toggle in toggles if toggle not in TOGGLES]
        if unknown:
            raise ValueError(f"`without` got {unknown[0]!r}, which is not a toggle. The toggles are {list(TOGGLES)}.")
        cls = type(self)
        # Copied, not constructed, for the same reason as in `from_grpo_config`
        copy = object.__new__(cls)
        copy.__dict__.update(vars(self))
        for toggle in toggles:
            setattr(copy, toggle, False)
            if toggle in GOVERNED:
                setattr(copy, GOVERNED[toggle], None)
            for name in RELIANT.get(toggle, ()):
                setattr(copy, name, next(own.default for own in fields(cls) if own.name == name))
        copy._settle_toggles()
        return copy

    @property
    def compacts(self) -> bool:
        """Whether rows are packed into other micro-batches than TRL's."""
        # With every toggle off the trainer is TRL's bit for bit. Packing sums in another order and rounds differently
        asked = self.max_tokens_per_microbatch is not None or any(getattr(self, toggle) for toggle in TOGGLES)
        return asked and super().compacts

    @property
    def drops_finished_rows(self) -> bool:
        """Whether generation stops computing rows that have ended."""
        return super().drops_finished_rows and any(getattr(self, toggle) for toggle in TOGGLES)

    @property
    def batch_size_fields(self) -> tuple[str, ...]:
        """The fields to lower if a generation batch needs more prompts than the dataset has."""
        return "updates_per_rollout", *super().batch_size_fields

    @property
    def selects_prompts(self) -> bool:
        """Whether the prompt history decides which prompts are generated."""
        return any(getattr(self, name) is not None for name in PROMPT_SWITCHES)

    @property
    def updates_between_generations(self) -> float:
        """Optimizer updates from one rollout to the next, over all `num_iterations` passes."""
        return required(self.steps_per_generation) * self.num_iterations / self.gradient_accumulation_steps

    def inert_parts(self) -> list[str]:
        """Returns one line for each part that is on but cannot have the effect that its name promises."""
        lines = super().inert_parts()
        if self.clip_higher and self.loss_type in UNCLIPPED_LOSSES:
            lines.append(f"`clip_higher` has no effect: loss_type={self.loss_type!r} does not clip.")
        elif self.clip_higher and self.updates_between_generations <= 1:
            lines.append(
                "`clip_higher` has no effect: with one optimizer update per rollout the importance ratio is always 1. "
                f"Raise `steps_per_generation` ({self.steps_per_generation}) to a multiple of "
                f"`gradient_accumulation_steps` ({self.gradient_accumulation_steps}): "
                f"{16 * self.gradient_accumulation_steps} is the paper's 16 updates per rollout."
            )
        if self.soft_overlong_punishment and required(self.soft_punish_cache) >= required(self.max_completion_length):
            lines.append(
                f"`soft_overlong_punishment` is not soft: soft_punish_cache={self.soft_punish_cache} is not below "
                f"max_completion_length={self.max_completion_length}, so every token of every completion is "
                "penalised."
            )
        if 0 < self.max_steps < 2 * required(self.warmup_steps):
            lines.append(
                f"Warm-up takes {self.warmup_steps:g} of {self.max_steps} optimizer steps. Lower `warmup_steps` "
                "(by default the paper's 20 rollouts)."
            )
        return lines

    def _settle_updates_per_rollout(self) -> None:
        # Before the host's own checks, which fill in the field that the user left out
        asked = self.updates_per_rollout
        if asked is not None and asked < 1:
            raise ValueError(f"`updates_per_rollout` must be at least 1, got {asked}.")
        chosen = "steps_per_generation" if self.steps_per_generation is not None else "generation_batch_size"
        if getattr(self, chosen) is None:
            self.updates_per_rollout = DEFAULT_UPDATES_PER_ROLLOUT if asked is None else asked
            self.steps_per_generation = self.updates_per_rollout * self.gradient_accumulation_steps
        elif asked is not None:
            raise ValueError(
                f"`updates_per_rollout` ({asked}) and `{chosen}` ({getattr(self, chosen)}) both set the size of a "
                "rollout. Leave one of them out."
            )

    def _paper_warmup_steps(self) -> int:
        return int(PAPER_WARMUP_ROLLOUTS * max(1.0, self.updates_between_generations))

    def _settle_toggles(self) -> None:
        self._settle_overlong_filtering()
        self._settle_clip_higher()
        self._settle_token_level_loss()
        if self.soft_punish_cache is None and self.max_completion_length is not None:
            self.soft_punish_cache = default_soft_punish_cache(self.max_completion_length)
        if self.updates_per_rollout is None:
            self.updates_per_rollout = max(1, required(self.steps_per_generation) // self.gradient_accumulation_steps)

    def _settle_overlong_filtering(self) -> None:
        if self.mask_truncated_completions is None:
            self.mask_truncated_completions = self.overlong_filtering
        if self.mask_truncated_completions != self.overlong_filtering:
            raise ValueError(
                f"overlong_filtering={self.overlong_filtering} contradicts "
                f"mask_truncated_completions={self.mask_truncated_completions}. Leave `mask_truncated_completions` "
                "out; the toggle sets it."
            )

    def _settle_clip_higher(self) -> None:
        if self.epsilon_high is None and self.clip_higher:
            if self.loss_type == "cispo":
                raise ValueError(
                    "clip_higher=True with loss_type='cispo' needs an explicit `epsilon_high`: CISPO reads it as the "
                    "cap of the importance ratio itself, for which TRL recommends 5.0. Set `epsilon_high`, or "
                    "clip_higher=False."
                )
            self.epsilon_high = PAPER_EPSILON_HIGH
        if self.clip_higher and not required(self.epsilon_high) > self.epsilon:
            raise ValueError(
                f"clip_higher=True contradicts epsilon_high={self.epsilon_high}, which is not above "
                f"epsilon={self.epsilon}. Raise `epsilon_high` or set clip_higher=False."
            )
        # CISPO always needs `epsilon_high`, as the cap of the ratio, so there it does not mean clip-higher
        raised = self.epsilon_high is not None and self.epsilon_high > self.epsilon
        if not self.clip_higher and raised and self.loss_type != "cispo":
            raise ValueError(
                f"clip_higher=False contradicts epsilon_high={self.epsilon_high}, which is above "
                f"epsilon={self.epsilon}. Leave `epsilon_high` out or set clip_higher=True."
            )

    def _settle_token_level_loss(self) -> None:
        if self.loss_type is None:
            self.loss_type = "dapo" if self.token_level_loss else "grpo"
        known = TOKEN_LEVEL_LOSSES + SEQUENCE_LEVEL_LOSSES
        if self.loss_type not in known:
            raise ValueError(f"`loss_type` must be one of {list(known)}, got {self.loss_type!r}.")
        agreeing = TOKEN_LEVEL_LOSSES if self.token_level_loss else SEQUENCE_LEVEL_LOSSES
        if self.loss_type not in agreeing:
            raise ValueError(
                f"token_level_loss={self.token_level_loss} contradicts loss_type={self.loss_type!r}. Set "
                f"token_level_loss={not self.token_level_loss}, leave `loss_type` out, or choose one of "
                f"{list(agreeing)}."
            )

    def _check_parameters(self) -> None:
        if self.soft_overlong_punishment and self.max_completion_length is None:
            raise ValueError(
                "soft_overlong_punishment=True is measured from a maximum length, but max_completion_length=None. "
                "Set `max_completion_length`, or soft_overlong_punishment=False."
            )
        if self.soft_punish_cache is not None and self.soft_punish_cache < 1:
            raise ValueError(
                f"`soft_punish_cache` must be at least 1 token, got {self.soft_punish_cache}. To have no length "
                "penalty set soft_overlong_punishment=False."
            )
        for name in ("overlong_penalty_factor", "max_refill_rounds", "dynamic_sampling_tolerance"):
            left_out = name == "overlong_penalty_factor" and self.overlong_penalty_factor is None
            if not left_out and not getattr(self, name) >= 0:  # also true for NaN
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}.")
        if not math.isfinite(self.overlong_penalty_factor or 0.0):
            raise ValueError(f"`overlong_penalty_factor` must be finite, got {self.overlong_penalty_factor}.")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                listed = " or ".join(repr(value) for value in allowed)
                raise ValueError(f"`{name}` must be {listed}, got {getattr(self, name)!r}.")
        if self.dynamic_sampling_on_exhaustion == "raise" and self.max_refill_rounds == 0:
            raise ValueError(
                "max_refill_rounds=0 contradicts dynamic_sampling_on_exhaustion='raise': without refills, the first "
                "degenerate group would end the run. Set 'fill', or allow refills."
            )

        self._check_prompt_switches()
        if self.token_level_scope == "prompt":
            self.check_token_weights("token_level_scope='prompt'")
        self.check_update_phase()

    def _check_prompt_switches(self) -> None:
        if not self.max_round_batches >= 1:
            raise ValueError(f"`max_round_batches` must be at least 1, got {self.max_round_batches}.")
        if self.skip_solved_above is not None and not 0 < self.skip_solved_above <= 1:
            raise ValueError(f"`skip_solved_above` must be above 0 and at most 1, got {self.skip_solved_above}.")
        if self.surplus_max_age is not None and self.surplus_max_age < self.updates_between_generations:
            raise ValueError(
                f"surplus_max_age={self.surplus_max_age} is below the {self.updates_between_generations:g} updates "
                "between two rollouts, so no group could be carried. Raise it, set surplus='discard', or lower "
                "the updates per rollout."
            )
        if self.surplus_max_age is not None and self.surplus != "carry":
            raise ValueError(
                f"surplus_max_age={self.surplus_max_age} says how long surplus groups are carried, and "
                f"surplus={self.surplus!r} carries none. Set surplus='carry', or leave `surplus_max_age` out."
            )
        switched = [name for name in PROMPT_SWITCHES if getattr(self, name) is not None]
        switched += ["surplus"] if self.surplus == "carry" else []
        if switched and not self.dynamic_sampling:
            raise ValueError(
                f"{switched[0]}={getattr(self, switched[0])!r} is a switch of dynamic sampling, and "
                f"dynamic_sampling=False. Leave `{switched[0]}` out, or set dynamic_sampling=True."
            )

    def check_token_weights(self, name: str) -> None:
        """Raises `ValueError` if the loss cannot be weighted by token; `name` is the option that asks for weights."""
        if self.loss_type not in TOKEN_SUM_LOSSES:
            raise ValueError(
                f"`{name}` needs a loss_type among {list(TOKEN_SUM_LOSSES)}, which are a sum over tokens divided by "
                f"one number, and loss_type={self.loss_type!r} is not. Set one of them, or leave `{name}` out."
            )
        if self.beta != 0:
            raise ValueError(
                f"`{name}` weights the tokens of the policy's loss, and the KL penalty of beta={self.beta} would keep "
                f"weights of its own. Set beta=0, or leave `{name}` out."
            )

    def _changes_since(self, config: HostConfig) -> list[str]:
        # Without `beta` there is no KL term to be weighted
        silent = set() if self.beta else {"use_bias_correction_kl"}
        names = [own.name for own in fields(HostConfig) if own.name not in silent]
        changed = [name for name in names if getattr(config, name) != getattr(self, name)]
        lines = [f"{name}: {_plain(getattr(config, name))} -> {_plain(getattr(self, name))}" for name in changed]
        if changed:
            lines.append(
                f"A value that equals TRL's default cannot be told from one that was not set: if you chose one of "
                f"{', '.join(changed)}, give a DAPOConfig with it instead of the GRPOConfig."
            )
        if self._clips and ("epsilon_high" in changed or _is_set(config, "epsilon")):
            high = self.epsilon if self.epsilon_high is None else self.epsilon_high
            lines.append(f"clip range of the importance ratio: {1 - self.epsilon:g} to {1 + high:g}")
        return lines + [f"{toggle}: {self._state_of(toggle)}" for toggle in TOGGLES]

    @property
    def _clips(self) -> bool:
        return self.loss_type not in (*UNCLIPPED_LOSSES, "cispo")

    def _state_of(self, toggle: str) -> str:
        if not getattr(self, toggle):
            return "off"
        inert = any(line.startswith(f"`{toggle}` has no effect") for line in self.inert_parts())
        return "without effect here, see below" if inert else "on"


def toggles_beside(values: dict[str, Any]) -> dict[str, bool]:
    """
    Returns the toggles that agree with TRL's fields as the user has set them.

    Args:
        values (`dict[str, Any]`):
            Values of [`~trl.GRPOConfig`]'s fields by name. A field that is missing or has TRL's default agrees with
            every toggle.
    """
    epsilon_high, epsilon = values.get("epsilon_high"), values.get("epsilon", 0.2)
    loss_type = values.get("loss_type")
    raised = (PAPER_EPSILON_HIGH if epsilon_high is None else epsilon_high) > epsilon
    return {
        "overlong_filtering": True,
        "clip_higher": raised and not (loss_type == "cispo" and epsilon_high is None),
        "soft_overlong_punishment": True,
        "token_level_loss": loss_type not in SEQUENCE_LEVEL_LOSSES,
        "dynamic_sampling": True,
    }


def _is_set(config: HostConfig, name: str) -> bool:
    default = next(own.default for own in fields(HostConfig) if own.name == name)
    return default is MISSING or getattr(config, name) != default


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
