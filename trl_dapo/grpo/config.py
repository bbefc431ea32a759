"""
`GRPOConfig`: TRL's `GRPOConfig`, with the fields that every online trainer of this package shares.

None of the added fields is a hyper-parameter of the algorithm. They decide how exactly and at what cost the same
gradients are computed. The toggles of DAPO are in `dapo/config.py`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import trl

from ..host.foreign import OwnConfig
from ..host.ranges import check_generation_fields
from ..qlora.precision import check_adapter_dtype
from ..rollouts.engine_settings import check_engine_values
from .generation_calls import check_generation_calls, without_effect
from .generation_fields import check_counts, contradictions
from .recipe import NAIVE, known_fields


# The rows of an update can be dealt to micro-batches in any way if the loss is a sum over tokens divided by one number
# for the whole rollout, or a mean over rows of equal weight
ONE_DENOMINATOR_LOSSES = ("dapo", "cispo", "vespo")
ROW_MEAN_LOSSES = ("grpo", "dr_grpo", "sapo", "luspo")


@dataclass
class GRPOConfig(OwnConfig, trl.GRPOConfig):
    r"""
    Configuration class for the online trainers of this package.

    It takes every parameter of [`~trl.GRPOConfig`]. A plain [`~trl.GRPOConfig`] works too: its fields are kept.

    Parameters:
        > Parameters whose default differs from TRL's

        disable_dropout (`bool`, *optional*, defaults to `True`):
            Turn dropout off. TRL generates in train mode, so dropout would add noise to rollouts, and the importance
            ratio would compare two different dropout masks.

        > Quantized models

        adapter_dtype (`Literal["float32", "bfloat16"]`, *optional*, defaults to `"float32"`):
            Precision of the trainable parameters on a 4-bit or 8-bit base: `"float32"`, or `"bfloat16"` as in TRL. In
            bfloat16, most updates of a small learning rate are rounded away.

        > The update phase

        compact_microbatches (`bool`, *optional*, defaults to `True`):
            Leave rows that cannot change the gradient out of the update, sort the others by length into
            micro-batches, and cut their padding. The gradient is TRL's up to rounding. With `False`, micro-batches are
            TRL's own. They are also TRL's own if the loss depends on how rows are dealt to micro-batches:
            `loss_type="bnpo"`, `top_entropy_quantile` below 1, an entropy bonus, a router's auxiliary loss, and
            `use_liger_kernel`.
        max_tokens_per_microbatch (`int`, *optional*):
            Most tokens in a micro-batch, padding included; a single longer row is still allowed. This bounds the
            memory of the update phase. It also decides the number of micro-batches, while
            `per_device_train_batch_size` and `gradient_accumulation_steps` still decide which rows an update has.

        > Generation with transformers

        drop_finished_rows (`bool`, *optional*, defaults to `True`):
            Stop computing rows that have ended while the others are generated. Completions are the same.
        generation_chunk_size (`int`, *optional*):
            Most completions that one call of `generate` makes on a device; whole groups, so a multiple of
            `num_generations`. This bounds the memory of the rollout. By default, one call makes them all.
        max_tokens_per_generation_call (`int`, *optional*):
            Most tokens, of prompts and completions together and padding included, of one call of `generate`. The
            other way to say `generation_chunk_size`.
        prefill_once (`bool`, *optional*, defaults to `True`):
            Read a prompt that completions share once, and copy its keys and values to each of them.

        > Generation with vLLM

        vllm_sync (`Literal["merged", "adapter", "dense"]`, *optional*):
            What vLLM gets before each rollout: `"merged"`, the weights with the adapter merged into them, as in TRL;
            `"adapter"`, the adapter alone, for an engine that holds the base itself; `"dense"`, the base dequantized,
            with the adapter added. By default `"adapter"` on a 4-bit base, else `"merged"`.
        vllm_base (`Literal["4bit", "16bit"]`, *optional*):
            With `vllm_sync="adapter"`, how the engine holds the base: `"4bit"` or `"16bit"`. By default as training
            does.
        vllm_sync_tolerance (`float`, *optional*):
            With `vllm_sync="adapter"` or `"dense"`, the mean difference of log-probabilities, in nats per token, above
            which engine and trainer count as different models, and the run stops. By default 0.2, and 1.0 where one
            side holds the base in 4 bits and the other in 16; a difference that is large against the spread of the
            trainer's log-probabilities over tokens stops it then, too.

        > Memory of the update

        activation_offloading (`bool`, *optional*, defaults to `False`):
            Keep activations in the CPU's memory between forward and backward.

        > Reward functions

        reward_timeout (`float`, *optional*):
            Seconds after which one call of an asynchronous reward function counts as failed. No limit by default.
    """

    disable_dropout: bool = field(default=True, metadata={"help": "Turn dropout off; it would add noise to rollouts."})
    """Turn dropout off; it would add noise to rollouts."""
    adapter_dtype: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata={
            "help": "Precision of trainable parameters on a 4-bit or 8-bit base: 'float32', or 'bfloat16' as in TRL."
        },
    )
    """Precision of trainable parameters on a 4-bit or 8-bit base: 'float32', or 'bfloat16' as in TRL."""
    compact_microbatches: bool = field(
        default=True,
        metadata={"help": "Drop rows without gradient, sort by length, cut padding: same gradient, less work."},
    )
    """Drop rows without gradient, sort by length, cut padding: same gradient, less work."""
    max_tokens_per_microbatch: int | None = field(
        default=None,
        metadata={"help": "Most tokens in a micro-batch, padding included. Bounds the memory of an update."},
    )
    """Most tokens in a micro-batch, padding included. Bounds the memory of an update."""
    drop_finished_rows: bool = field(
        default=True,
        metadata={"help": "Stop computing rows that have ended: same completions, less work."},
    )
    """Stop computing rows that have ended: same completions, less work."""
    generation_chunk_size: int | None = field(
        default=None, metadata={"help": "Most completions that one call of `generate` makes on a device."}
    )
    """Most completions that one call of `generate` makes on a device."""
    max_tokens_per_generation_call: int | None = field(
        default=None, metadata={"help": "Most tokens of one call of `generate`, prompts and padding included."}
    )
    """Most tokens of one call of `generate`, prompts and padding included."""
    prefill_once: bool = field(
        default=True, metadata={"help": "Read a prompt that completions share once, and copy its keys and values."}
    )
    """Read a prompt that completions share once, and copy its keys and values."""
    vllm_sync: Literal["merged", "adapter", "dense"] | None = field(
        default=None, metadata={"help": "What vLLM gets before each rollout: 'merged', 'adapter' or 'dense'."}
    )
    """What vLLM gets before each rollout: 'merged', 'adapter' or 'dense'."""
    vllm_base: Literal["4bit", "16bit"] | None = field(
        default=None, metadata={"help": "With vllm_sync='adapter', how vLLM holds the base: '4bit' or '16bit'."}
    )
    """With vllm_sync='adapter', how vLLM holds the base: '4bit' or '16bit'."""
    vllm_sync_tolerance: float | None = field(
        default=None,
        metadata={
            "help": "Mean difference of log-probabilities between vLLM and trainer that stops the run, in nats."
        },
    )
    """Mean difference of log-probabilities between vLLM and trainer that stops the run, in nats."""
    activation_offloading: bool = field(
        default=False, metadata={"help": "Keep activations in the CPU's memory between forward and backward."}
    )
    """Keep activations in the CPU's memory between forward and backward."""
    reward_timeout: float | None = field(
        default=None, metadata={"help": "Most seconds that one call of an asynchronous reward function may take."}
    )
    """Most seconds that one call of an asynchronous reward function may take."""

    def __post_init__(self) -> None:
        # First, because the host divides by some of them
        check_generation_fields(self)
        super().__post_init__()
        self.check_update_phase()

    @staticmethod
    def naive(*args: Any, **kwargs: Any) -> "GRPOConfig":
        """
        Returns naive GRPO, the published baseline, as in the [DeepSeekMath
        paper](https://huggingface.co/papers/2402.03300). [`DAPOConfig.naive_grpo`] is the same for [`DAPOTrainer`].

        The loss is a mean over each completion's tokens, then over the group (Eq. 3), clipped symmetrically, with one
        update per rollout. The KL coefficient of 0.04 is the paper's (§4.2), and the KL term (Eq. 4) is not multiplied
        by the importance ratio, as TRL's is by default. The paper does not give epsilon; 0.2 is PPO's. It gives one
        learning rate, so there is no warm-up and no decay. Truncated completions are trained on, a Mixture-of-Experts
        model has no auxiliary loss, and completions are sampled from the policy as it is. Each field that the recipe
        fixes is set, whatever TRL's default. Other fields can be given, and the ones above can be overridden.
        """
        return GRPOConfig(*args, **{**known_fields(NAIVE), **kwargs})

    @property
    def compacts(self) -> bool:
        """Whether rows are packed into other micro-batches than TRL's."""
        return self.compact_microbatches and self.fixed_by() is None

    @property
    def drops_finished_rows(self) -> bool:
        """Whether generation stops computing rows that have ended."""
        return self.drop_finished_rows

    @property
    def batch_size_fields(self) -> tuple[str, ...]:
        """The fields to lower if a generation batch needs more prompts than the dataset has."""
        return "steps_per_generation", "generation_batch_size"

    def inert_parts(self) -> list[str]:
        """Returns one line for each setting that cannot have the effect that its name promises."""
        return contradictions(self) + without_effect(self)

    def fixed_by(self) -> str | None:
        """Returns the field, with its value, that ties the loss to TRL's own micro-batches, or `None`."""
        if self.loss_type is not None and self.loss_type not in ONE_DENOMINATOR_LOSSES + ROW_MEAN_LOSSES:
            return f"loss_type={self.loss_type!r}"
        # With each of these, part of the loss is computed within TRL's micro-batches: other ones would change it
        ties = {
            "top_entropy_quantile": self.top_entropy_quantile < 1,
            "entropy_coef": self.entropy_coef != 0,
            "use_adaptive_entropy": self.use_adaptive_entropy,
            "use_liger_kernel": self.use_liger_kernel,
        }
        return next((f"{name}={getattr(self, name)}" for name, tied in ties.items() if tied), None)

    def check_update_phase(self) -> None:
        """Raises `ValueError`, naming the fix, for values that contradict each other or are out of range."""
        check_counts(self.generation_kwargs)
        check_generation_calls(self)
        check_engine_values(self)
        check_adapter_dtype(self.adapter_dtype)
        if self.reward_timeout is not None and not self.reward_timeout > 0:
            raise ValueError(f"`reward_timeout` must be above 0 seconds, got {self.reward_timeout}.")
        limit = self.max_tokens_per_microbatch
        if limit is None:
            return
        if limit < 1:
            raise ValueError(f"`max_tokens_per_microbatch` must be at least 1 token, got {limit}.")
        if not self.compact_microbatches:
            raise ValueError(
                f"max_tokens_per_microbatch={limit} needs rows to be packed, and compact_microbatches=False keeps "
                "TRL's micro-batches. Set compact_microbatches=True, or leave `max_tokens_per_microbatch` out."
            )
        if tie := self.fixed_by():
            raise ValueError(
                f"max_tokens_per_microbatch={limit} deals rows to other micro-batches than TRL's, and with {tie} that "
                "changes the loss. Leave one of them out, or lower `per_device_train_batch_size` instead."
            )
