"""
The arena's models: a Llama with 109 thousand parameters as a policy, random or with the shipped weights, and as a
reward model.
"""

from importlib.resources import as_file, files

import torch
from safetensors.torch import load_model
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from .tokenizer import build_tokenizer


# Starts that are made alike, by seed, so that a result can be told from a quirk of one start
SEEDS = (0, 1, 2)

# File of each warm start. Those with a name are for a regime, and go on from the plain one of their seed
WARM_STARTS = {
    "0": "warm_start.safetensors",
    **{str(seed): f"warm_start_{seed}.safetensors" for seed in SEEDS[1:]},
    **{f"rare-steps-{seed}": f"rare_steps_{seed}.safetensors" for seed in SEEDS},
    **{f"long-winded-{seed}": f"long_winded_{seed}.safetensors" for seed in SEEDS},
}


def build_model(seed: int = 0) -> LlamaForCausalLM:
    """
    Randomly initialised policy that depends on `seed` alone. The global random state stays as it was.

    Args:
        seed (`int`, *optional*, defaults to `0`):
            Seed of the weights.
    """
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    # Trainers name runs after the model; without a name they fail or print an empty one
    model.config.name_or_path = "arena"
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model


def load_warm_start(start: int | str = 0) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """
    Policy with the shipped weights, the start of reinforcement learning, and its tokenizer.

    Pass the model to `trl.GRPOTrainer` as `model=` and the tokenizer as `processing_class=`. The policy's accuracy is
    `trl_dapo.arena.warm_start.WARM_START_ACCURACY`.

    Args:
        start (`int` or `str`, *optional*, defaults to `0`):
            Which of the warm starts: the seed that it was made with, 0 to 2, or the name of one that is made for a
            regime, such as `"rare-steps-0"`.

    Raises:
        `ValueError`: If there is no such warm start.
    """
    if str(start) not in WARM_STARTS:
        raise ValueError(f"start={start!r} is no warm start. There are {', '.join(WARM_STARTS)}.")
    model = build_model()
    with as_file(files("trl_dapo.arena") / WARM_STARTS[str(start)]) as path:
        load_model(model, path)
    return model, build_tokenizer()


def load_reward_start(seed: int = 0) -> tuple[LlamaForSequenceClassification, PreTrainedTokenizerFast]:
    """
    Untrained reward model, the body of the warm start with a random head of one label, and its tokenizer.

    The head depends on `seed` alone. The global random state stays as it was.

    Args:
        seed (`int`, *optional*, defaults to `0`):
            Seed of the head.
    """
    policy, tokenizer = load_warm_start()
    config = LlamaConfig.from_dict({**policy.config.to_dict(), "num_labels": 1})
    config.name_or_path = "arena"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(policy.model.state_dict())
    return model, tokenizer
