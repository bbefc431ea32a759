"""
`DAPOConfig`: TRL's `GRPOConfig` with DAPO's five parts as toggles.

A toggle sets the fields of TRL that belong to it. If you set such a field yourself, it must agree with the toggle, so
toggles and fields never contradict each other after construction. What a toggle does is in the other files of this
folder; what a batch of this config holds is in `batch_plan.py`.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from trl import GRPOConfig as HostConfig

from ..grpo.config import GRPOConfig
from ..grpo.recipe import NAIVE, known_fields
from ..host.promotion import with_defaults
from ..host.ranges import check_generation_fields
from ..host.required import required
from .checks import check_parameters, check_token_weights
from .deviations import Deviations, deviations_of
from .paper import PINNED, SCRIPT_WARMUP_ROLLOUTS, batch_fields, evaluation_batch_field, paper_fields
from .rollout_size import paper_warmup_steps, settle_updates_per_rollout
from .toggles import GOVERNED, LADDER, PROMPT_SWITCHES, RELIANT, TOGGLES, settle_toggles, toggles_beside
from .told import changes_since, inert_toggles, is_set


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
        dynamic_sampling_on_exhaustion (`Literal["fill", "raise"]`, *optional*, defaults to `"fill"`):
            What to do if the batch is not full after the last round: `"fill"` it with degenerate groups that stay out
            of the loss and its denominator, or `"raise"` an error.

        > Which prompts are generated, and how many at once

        max_round_batches (`float`, *optional*, defaults to `1.0`):
            Largest generation round, in generation batches. TRL's generation with transformers holds a whole round in
            memory. With vLLM, or with memory to spare, a larger bound saves refill rounds when few groups are
            informative. Below 1, several smaller rounds fill a batch.
        skip_degenerate (`Literal["greso"]`, *optional*):
            `"greso"` skips prompts whose last groups were degenerate. The more of these there were in a row, the more
            likely the prompt is skipped ([GRESO](https://huggingface.co/papers/2506.02177)).
        skip_solved_above (`float`, *optional*):
            Never again generate a prompt if at least this share of its last completions was right (no positive
            resampling; [ScaleRL](https://huggingface.co/papers/2510.13786) uses 0.9).
        prompt_selection (`Literal["thompson"]`, *optional*):
            `"thompson"` chooses prompts whose pass rate, drawn from its Beta posterior, is closest to 1/2
            ([MoPPS](https://huggingface.co/papers/2507.04632)).
        surplus (`Literal["discard", "carry"]`, *optional*, defaults to `"discard"`):
            What happens to informative groups that do not fit into the batch: `"discard"` them, which keeps training
            on-policy, or `"carry"` them into the next batch with the log-probs of the policy that generated them.
        surplus_max_age (`int`, *optional*):
            Largest age of a carried group, in optimizer updates. A carried group is used in the next rollout or not at
            all, so its age is the number of updates per rollout. A lower bound is refused.

        > Weights of tokens

        token_level_scope (`Literal["batch", "prompt"]`, *optional*, defaults to `"batch"`):
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
    """Leave truncated completions out of the loss (DAPO paper, section 3.4)."""
    clip_higher: bool = field(
        default=True, metadata={"help": "Raise only the upper clip bound (DAPO paper, section 3.1)."}
    )
    """Raise only the upper clip bound (DAPO paper, section 3.1)."""
    soft_overlong_punishment: bool = field(
        default=True, metadata={"help": "Add the length penalty of Eq. 13 (DAPO paper, section 3.4)."}
    )
    """Add the length penalty of Eq. 13 (DAPO paper, section 3.4)."""
    token_level_loss: bool = field(
        default=True, metadata={"help": "Give all tokens of an update the same weight (DAPO paper, section 3.3)."}
    )
    """Give all tokens of an update the same weight (DAPO paper, section 3.3)."""
    dynamic_sampling: bool = field(
        default=True, metadata={"help": "Replace groups whose raw metric is constant (DAPO paper, section 3.2)."}
    )
    """Replace groups whose raw metric is constant (DAPO paper, section 3.2)."""
    epsilon_high: float | None = field(
        default=None,
        metadata={"help": "Upper clip bound is 1 + epsilon_high. 0.28 with clip_higher, else epsilon."},
    )
    """Upper clip bound is 1 + epsilon_high. 0.28 with clip_higher, else epsilon."""
    soft_punish_cache: int | None = field(
        default=None,
        metadata={"help": "Width in tokens of the penalised band. A fifth of max_completion_length by default."},
    )
    """Width in tokens of the penalised band. A fifth of max_completion_length by default."""
    overlong_penalty_factor: float | None = field(
        default=None,
        metadata={"help": "Weight of the length penalty. Half of what a right answer is worth by default."},
    )
    """Weight of the length penalty. Half of what a right answer is worth by default."""
    max_refill_rounds: int = field(
        default=10, metadata={"help": "Generation rounds after the first, per rollout. 0: filter without refill."}
    )
    """Generation rounds after the first, per rollout. 0: filter without refill."""
    dynamic_sampling_metric: str | None = field(
        default=None,
        metadata={"help": "Reward function that dynamic sampling looks at. All but length penalties by default."},
    )
    """Reward function that dynamic sampling looks at. All but length penalties by default."""
    dynamic_sampling_tolerance: float = field(
        default=1e-6, metadata={"help": "A group is informative when max - min of its metric exceeds this."}
    )
    """A group is informative when max - min of its metric exceeds this."""
    dynamic_sampling_on_exhaustion: Literal["fill", "raise"] = field(
        default="fill",
        metadata={"help": "If rounds run out: 'fill' the batch with groups outside the loss, or 'raise'."},
    )
    """If rounds run out: 'fill' the batch with groups outside the loss, or 'raise'."""
    max_round_batches: float = field(
        default=1.0, metadata={"help": "Largest generation round, in generation batches."}
    )
    """Largest generation round, in generation batches."""
    skip_degenerate: Literal["greso"] | None = field(
        default=None, metadata={"help": "'greso': skip prompts whose last groups were degenerate."}
    )
    """'greso': skip prompts whose last groups were degenerate."""
    skip_solved_above: float | None = field(
        default=None,
        metadata={"help": "Never again generate a prompt with at least this share of right completions, e.g. 0.9."},
    )
    """Never again generate a prompt with at least this share of right completions, e.g. 0.9."""
    prompt_selection: Literal["thompson"] | None = field(
        default=None, metadata={"help": "'thompson': choose prompts with a pass rate close to 1/2."}
    )
    """'thompson': choose prompts with a pass rate close to 1/2."""
    surplus: Literal["discard", "carry"] = field(
        default="discard",
        metadata={"help": "Informative groups beyond the batch: 'discard' them, or 'carry' them over."},
    )
    """Informative groups beyond the batch: 'discard' them, or 'carry' them over."""
    surplus_max_age: int | None = field(
        default=None,
        metadata={
            "help": "Largest age of a carried group, in optimizer updates. At least the updates of one rollout."
        },
    )
    """Largest age of a carried group, in optimizer updates. At least the updates of one rollout."""
    token_level_scope: Literal["batch", "prompt"] = field(
        default="batch", metadata={"help": "Tokens are averaged over the 'batch', or over each 'prompt' first."}
    )
    """Tokens are averaged over the 'batch', or over each 'prompt' first."""
    updates_per_rollout: int | None = field(
        default=None, metadata={"help": "Optimizer updates per pass over a rollout. 4 by default; the paper uses 16."}
    )
    """Optimizer updates per pass over a rollout. 4 by default; the paper uses 16."""
    lr_scheduler_type: str = field(
        default="constant_with_warmup",
        metadata={"help": "Learning rate schedule; the paper's is constant after a warm-up."},
    )
    """Learning rate schedule; the paper's is constant after a warm-up."""
    warmup_steps: float | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None,
        metadata={"help": "Warm-up in optimizer steps. By default the paper's 20 rollouts."},
    )
    """Warm-up in optimizer steps. By default the paper's 20 rollouts."""
    use_bias_correction_kl: bool = field(
        default=False, metadata={"help": "Multiply the KL term by the importance ratio; GRPO's has none."}
    )
    """Multiply the KL term by the importance ratio; GRPO's has none."""
    mask_truncated_completions: bool | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None, metadata={"help": "Follows overlong_filtering."}
    )
    """Follows overlong_filtering."""
    loss_type: str | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None, metadata={"help": "'dapo' with token_level_loss, else 'grpo'; or another type of TRL."}
    )
    """'dapo' with token_level_loss, else 'grpo'; or another type of TRL."""

    def __post_init__(self) -> None:
        # First, because the host derives the generation batch from `steps_per_generation`
        settle_updates_per_rollout(self)
        # The host accepts no `None`, and the paper's warm-up can only be counted once the host has set the batch sizes
        warmup_steps, self.warmup_steps = self.warmup_steps, self.warmup_steps or 0
        super().__post_init__()
        if warmup_steps is None:
            self.warmup_steps = paper_warmup_steps(self)
        settle_toggles(self)
        check_parameters(self)
        self.check_update_phase()

    @classmethod
    def naive_grpo(cls, *args: Any, **kwargs: Any) -> Self:
        """
        Returns naive GRPO for [`DAPOTrainer`]: [`GRPOConfig.naive`], field by field, with all five toggles off.

        It has a KL term, a constant learning rate without warm-up and one update per rollout, as published, so it
        differs from DAPO in more than the toggles. For one change at a time, see [`DAPOConfig.ladder_start`].
        """
        recipe = {name: value for name, value in known_fields(NAIVE).items() if name not in GOVERNED.values()}
        values: dict[str, Any] = {**recipe, **dict.fromkeys(TOGGLES, False), **kwargs}
        if values.get("steps_per_generation") is None and values.get("generation_batch_size") is None:
            values = {"updates_per_rollout": 1, **values}
        return cls(*args, **values)

    @classmethod
    def ladder_start(cls, *args: Any, **kwargs: Any) -> Self:
        """
        Returns the config that the ladder starts from: GRPO without KL, with all five toggles off, else DAPO's
        defaults.

        Schedule, updates per rollout and `beta=0` are DAPO's, so that whatever is compared with it differs in its
        parts alone.
        """
        values: dict[str, Any] = {**PINNED, **dict.fromkeys(TOGGLES, False), **kwargs}
        return cls(*args, **values)

    @classmethod
    def paper(cls, output_dir: str = "trainer_output", *, script: bool = False, **kwargs: Any) -> Self:
        """
        Returns the paper's run: its hyper-parameters (§4.1), all five parts, and its batches on the processes at hand.

        512 prompts of 16 completions per rollout, 16 updates, a learning rate of 1e-6 that is constant after 20
        rollouts of linear warm-up, 16,384 + 4,096 tokens, a clip range of 0.8 to 1.28, no KL, AdamW, and completions
        sampled from the policy as it is. `per_device_train_batch_size` and `gradient_accumulation_steps` follow from
        the number of processes; you can set either.

        Overlong filtering is on, since the last row of the paper's Table 1 contains it. The authors' recipe says
        that most of the paper's experiments, the best one among them, were run without it: that is `script=True`, or
        `overlong_filtering=False`.

        The rewards have to be -1 and +1 (Eq. 7), which no config knows: `overlong_penalty_factor` is 1 for them.
        The paper evaluates with avg@32 at temperature 1.0 and top_p 0.7. What differs even so is in
        [`DAPOConfig.deviations`].

        Args:
            output_dir (`str`, *optional*, defaults to `"trainer_output"`):
                Where checkpoints go.
            script (`bool`, *optional*, defaults to `False`):
                Follow the script that the authors published instead, where it says something else than the paper or
                the paper is silent: no overlong filtering, 10 rollouts of warm-up, a mean over the tokens of the batch
                and not of each group, at most 10 batches of 1536 prompts per rollout and then an error, a weight decay
                of 0.1, gradients clipped at 1.0, a dual clip of 10 (TRL's `delta`).
            kwargs:
                Fields that win over the paper's. `generation_batch_size` is the number of completions per rollout.

        Raises:
            `ValueError`: If an update's 512 completions cannot be dealt to the processes equally.
        """
        values = paper_fields(script, kwargs)
        # How many processes there are is known once a config is made, of whatever batch size
        sizes = {"per_device_train_batch_size": values["num_generations"], "gradient_accumulation_steps": 1}
        probe: dict[str, Any] = {**values, **sizes, "eval_strategy": "no", "generation_batch_size": None}
        processes = cls(output_dir, **probe).world_size
        sizes = {**evaluation_batch_field(kwargs, processes), **batch_fields(kwargs, processes)}
        whole: dict[str, Any] = {**values, **sizes, "generation_batch_size": None}
        config = cls(output_dir, **whole)
        if script and kwargs.get("warmup_steps") is None:
            config.warmup_steps = paper_warmup_steps(config, SCRIPT_WARMUP_ROLLOUTS)
        return config

    @classmethod
    def ladder(cls, output_dir: str = "trainer_output", **kwargs: Any) -> list[Self]:
        """
        Returns the six configs of the paper's Table 1, from GRPO without KL to DAPO. Each adds one toggle.

        [`LADDER`] has the names of the rows. The first is [`DAPOConfig.ladder_start`], not
        [`DAPOConfig.naive_grpo`], from which the second would differ in the KL term too. Each config has its own
        folder under `output_dir`. Parameters of a part that is off in a row are left out of that row.

        Args:
            output_dir (`str`, *optional*, defaults to `"trainer_output"`):
                Folder of the folders.
            **kwargs:
                Fields that all rows share. The toggles are set row by row.

        Raises:
            `ValueError`: If a toggle is given.
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
            if not is_set(config, name):
                setattr(promoted, name, None)
        for name, value in (("disable_dropout", True), ("use_bias_correction_kl", False)):
            if not is_set(config, name):
                setattr(promoted, name, value)
        # The user chose the size of the rollout to fit the memory at hand
        promoted.updates_per_rollout = max(
            1, required(config.steps_per_generation) // config.gradient_accumulation_steps
        )
        if not is_set(config, "lr_scheduler_type"):
            promoted.lr_scheduler_type = type(config.lr_scheduler_type)("constant_with_warmup")
            if not is_set(config, "warmup_steps"):
                promoted.warmup_steps = paper_warmup_steps(promoted)
        settle_toggles(promoted)
        check_parameters(promoted)
        promoted.check_update_phase()
        return promoted, changes_since(promoted, config)

    def without(self, *toggles: str) -> Self:
        """
        Returns a copy with these toggles off, e.g. `config.without("clip_higher")`.

        Args:
            *toggles (`str`):
                Names of toggles.

        Raises:
            `ValueError`: For a name that is not a toggle.
        """
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
        settle_toggles(copy)
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
        return super().inert_parts() + inert_toggles(self)

    def check_token_weights(self, name: str) -> None:
        """Raises `ValueError` if the loss cannot be weighted by token; `name` is the option that asks for weights."""
        check_token_weights(self, name)

    def deviations(self) -> Deviations:
        """
        Returns what this config does otherwise than the paper: a list of rows that `print` shows as lines and rich as
        a table.

        Effective values count: prompts per rollout and not the batch fields, a warm-up in rollouts, vLLM's correction
        where vLLM generates. Where the paper is silent, a value is held against the authors' script. What no config
        knows, as rewards, data and model, has no row.
        """
        return deviations_of(self)
