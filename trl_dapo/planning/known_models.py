"""
Configurations of common models, so that a plan needs no download: the values of each model's `config.json`.
"""

from typing import Any

from transformers import AutoConfig, PretrainedConfig


def _qwen2(hidden: int, inner: int, layers: int, heads: int, kv: int, tied: bool, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        **more,
    }


def _qwen3(hidden: int, inner: int, layers: int, heads: int, tied: bool) -> dict[str, Any]:
    return {
        **_qwen2(hidden, inner, layers, heads, 8, tied),
        "model_type": "qwen3",
        "head_dim": 128,
        "max_position_embeddings": 40960,
    }


def _llama(
    hidden: int, inner: int, layers: int, heads: int, kv: int, vocabulary: int, tied: bool, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        **more,
    }


_SMOL = {"max_position_embeddings": 8192, "rope_theta": 100000.0}

_QWEN25 = {
    "0.5B": _qwen2(896, 4864, 24, 14, 2, True),
    "1.5B": _qwen2(1536, 8960, 28, 12, 2, True),
    "3B": _qwen2(2048, 11008, 36, 16, 2, True),
    "7B": _qwen2(3584, 18944, 28, 28, 4, False, vocab_size=152064),
}
_QWEN3 = {
    "0.6B": _qwen3(1024, 3072, 28, 16, True),
    "1.7B": _qwen3(2048, 6144, 28, 16, True),
    "4B": _qwen3(2560, 9728, 36, 32, True),
    "8B": _qwen3(4096, 12288, 36, 32, False),
    "14B": _qwen3(5120, 17408, 40, 40, False),
}
_LLAMA = {
    "Llama-3.2-1B": _llama(2048, 8192, 16, 32, 8, 128256, True, head_dim=64),
    "Llama-3.2-3B": _llama(3072, 8192, 28, 24, 8, 128256, True, head_dim=128),
    "Llama-3.1-8B": _llama(4096, 14336, 32, 32, 8, 128256, False),
}
_SMOLLM2 = {
    "135M": _llama(576, 1536, 30, 9, 3, 49152, True, **_SMOL),
    "360M": _llama(960, 2560, 32, 15, 5, 49152, True, **_SMOL),
    "1.7B": _llama(2048, 8192, 24, 32, 32, 49152, True, max_position_embeddings=8192, rope_theta=130000.0),
}

CONFIGS: dict[str, dict[str, Any]] = {
    **{f"Qwen/Qwen2.5-{size}": config for size, config in _QWEN25.items()},
    **{f"Qwen/Qwen2.5-{size}-Instruct": config for size, config in _QWEN25.items()},
    **{f"Qwen/Qwen3-{size}": config for size, config in _QWEN3.items()},
    **{f"Qwen/Qwen3-{size}-Base": config for size, config in _QWEN3.items()},
    **{f"meta-llama/{name}": config for name, config in _LLAMA.items()},
    **{f"meta-llama/{name}-Instruct": config for name, config in _LLAMA.items()},
    **{f"HuggingFaceTB/SmolLM2-{size}": config for size, config in _SMOLLM2.items()},
    **{f"HuggingFaceTB/SmolLM2-{size}-Instruct": config for size, config in _SMOLLM2.items()},
}


def known_config(name: str) -> PretrainedConfig | None:
    """
    Returns the configuration of a common model, or `None` for any other.

    Args:
        name (`str`):
            Its id on the Hub, such as `"Qwen/Qwen2.5-0.5B-Instruct"`.
    """
    found = CONFIGS.get(name)
    if found is None:
        return None
    config = dict(found)
    return AutoConfig.for_model(config.pop("model_type"), **config)
