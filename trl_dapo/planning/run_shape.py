"""
What decides on the memory and time of a run on one device: sizes only, no weights, no trainer.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RunShape:
    """
    A run as one device sees it.

    Args:
        algorithm (`str`):
            `"dapo"`, `"grpo"`, `"ppo"`, `"dpo"` or `"reward"`.
        model_config ([`~transformers.PretrainedConfig`]):
            Of the model that is trained.
        dtype (`str`):
            Of weights that are not quantized: `"float32"`, `"bfloat16"` or `"float16"`.
        compute_dtype (`str`):
            Of activations.
        quantization (`str`, *optional*):
            `"4bit"`, `"8bit"`, or `None`.
        double_quantization (`bool`):
            Whether the constants of 4-bit weights are quantized too.
        lora ([`~peft.LoraConfig`], *optional*):
            Adapter; without it, all parameters are trained.
        adapter_dtype (`str`):
            Of the adapter on a quantized base.
        optimizer (`str`):
            `optim` of the training arguments.
        attention (`str`):
            `attn_implementation`: `"sdpa"`, `"eager"`, `"flash_attention_2"`.
        gradient_checkpointing, activation_offloading (`bool`):
            As in the training arguments.
        prompt_length, completion_length (`int`):
            Tokens of the longest prompt and the longest completion. DPO and reward models: prompt and answer.
        num_generations (`int`):
            Completions per prompt. DPO and reward models: 2.
        round_rows (`int`):
            Rows that one round generates on the device; 0 without generation.
        chunk_rows (`int`):
            Rows of one call of `generate`.
        rounds (`float`):
            Rounds per rollout that are expected, the first included.
        scoring_rows (`int`):
            Rows of one pass without gradient, or the most that fit `microbatch_tokens`.
        microbatch_rows (`int`):
            Rows of one forward and backward pass.
        microbatch_tokens (`int`, *optional*):
            Most tokens of one forward and backward pass; `None` where rows alone bound it.
        microbatches (`int`):
            Forward and backward passes per update.
        updates (`float`):
            Optimizer updates per rollout, iterations included.
        reference (`str`):
            `"none"`, `"adapter_off"`, `"adapter_copy"` or `"model"`.
        critic (`str`):
            `"none"`, `"adapter"` or `"model"`.
        reward_model_bytes (`int`):
            Weights of reward models that stand on the device.
        vllm_share (`float`, *optional*):
            Share of the card that vLLM takes in the same process; `None` where vLLM does not share the device.
        vllm_sleeps (`bool`):
            Whether vLLM leaves the card during the update.
        prefill_once, drops_finished_rows (`bool`):
            As in the training arguments, where the run can.
    """

    algorithm: str
    model_config: Any
    dtype: str = "float32"
    compute_dtype: str = "float32"
    quantization: str | None = None
    double_quantization: bool = False
    lora: Any = None
    adapter_dtype: str = "float32"
    optimizer: str = "adamw_torch"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    activation_offloading: bool = False
    prompt_length: int = 256
    completion_length: int = 256
    num_generations: int = 8
    round_rows: int = 0
    chunk_rows: int = 0
    rounds: float = 1.0
    scoring_rows: int = 0
    microbatch_rows: int = 1
    microbatch_tokens: int | None = None
    microbatches: int = 1
    updates: float = 1.0
    reference: str = "none"
    critic: str = "none"
    reward_model_bytes: int = 0
    vllm_share: float | None = None
    vllm_sleeps: bool = False
    prefill_once: bool = True
    drops_finished_rows: bool = True
