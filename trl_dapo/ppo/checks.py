"""
What PPO cannot be built from, told before a model is loaded.
"""

from typing import Any

from peft import LoraConfig, PeftModel

from .config import PPOConfig
from .critic import VALUE_ADAPTER


def check_arguments(args: PPOConfig, given: dict[str, Any], value_peft_config: Any) -> None:
    """
    Raises `ValueError`, with the fix, for arguments that [`PPOTrainer`] cannot work with.

    Args:
        args ([`PPOConfig`]):
            Its config.
        given (`dict[str, Any]`):
            Arguments of the constructor by name.
        value_peft_config (`Any`):
            What is to be the critic's LoRA.
    """
    _check_distribution(args)
    if given.get("optimizers", (None, None)) != (None, None):
        raise ValueError(
            "`optimizers` was given, and its parameters do not include the critic's, which PPOTrainer makes itself. "
            "Leave it out, and choose the optimizer by `optim` and `learning_rate` of the config."
        )
    if hasattr(given.get("processing_class"), "image_processor"):
        raise ValueError("PPOTrainer is for text: `processing_class` must be a tokenizer, not a processor of images.")
    _check_adapters(args, given, value_peft_config)


def _check_distribution(args: PPOConfig) -> None:
    for name in ("deepspeed", "fsdp"):
        if getattr(args, name):
            raise ValueError(
                f"{name}={getattr(args, name)!r}: PPO's critic goes backward apart from the policy, which is not "
                "tested with sharded models. Train with DDP, or on one device."
            )
    kind = args.distributed_state.distributed_type if args.distributed_state is not None else None
    if kind in ("DEEPSPEED", "FSDP"):
        raise ValueError(f"PPOTrainer does not support {kind} yet. Launch with DDP, or on one device.")


def _check_adapters(args: PPOConfig, given: dict[str, Any], value_peft_config: Any) -> None:
    policy_config, model = given.get("peft_config"), given["model"]
    present = model.peft_config if isinstance(model, PeftModel) else {}
    if policy_config is None and not present:
        if value_peft_config is not None:
            raise ValueError(
                "`value_peft_config` was given, and the policy has no adapter to stand beside. Give `peft_config` "
                "too, or leave it out to train the policy and a copy of it as critic in full."
            )
        if args.reward_adapter is not None:
            raise ValueError(
                f"reward_adapter={args.reward_adapter!r} stands beside the policy's adapter, and the policy has none. "
                "Give `peft_config`, or use the reward model as one of `reward_funcs`."
            )
        return
    if VALUE_ADAPTER in present:
        raise ValueError(
            f"`model` has an adapter {VALUE_ADAPTER!r}, which is the critic's name here. Delete it, or load the "
            "policy's adapter alone; to go on with a run, use `resume_from_checkpoint`."
        )
    policys = present.get("default") if policy_config is None else policy_config
    for name, one in (("peft_config", policys), ("value_peft_config", value_peft_config)):
        if one is not None and not isinstance(one, LoraConfig):
            raise ValueError(f"`{name}` must be a LoraConfig, got {type(one).__name__}.")
