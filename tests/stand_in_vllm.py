"""A stand-in for vLLM: the part of its interface that an evaluation uses, and answers that tell their seed."""

import sys
import types
from importlib.machinery import ModuleSpec

from tiny import tiny_tokenizer


class SamplingParams:
    """The arguments of vLLM's that are used; others would be refused here as there."""

    def __init__(
        self,
        n=1,
        repetition_penalty=1.0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        seed=None,
        stop_token_ids=None,
        max_tokens=16,
    ):
        self.temperature, self.top_p, self.seed = temperature, top_p, seed
        self.stop_token_ids, self.max_tokens, self.n = stop_token_ids, max_tokens, n


class LLM:
    """Answers with tokens that tell the seed: "7" ends, and an odd seed is cut off."""

    made: dict

    def __init__(self, model, *, dtype="auto", seed=None, revision=None, trust_remote_code=False, **kwargs):
        LLM.made = {"model": model, "dtype": dtype, "seed": seed, "revision": revision, **kwargs}

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        self.requests = prompts, sampling_params, lora_request
        tokenizer = tiny_tokenizer()
        found = []
        for prompt, one in zip(prompts, sampling_params, strict=True):
            ids = tuple(tokenizer(str(one.seed))["input_ids"])
            ended = one.seed % 2 == 0
            output = types.SimpleNamespace(
                token_ids=ids + ((one.stop_token_ids[0],) if ended else ()),
                finish_reason="stop" if ended else "length",
            )
            found.append(types.SimpleNamespace(prompt_token_ids=prompt["prompt_token_ids"], outputs=[output]))
        return found


class LoRARequest:
    """An adapter that a request is answered with."""

    def __init__(self, lora_name, lora_int_id, lora_path):
        self.path = lora_path


def install(monkeypatch):
    """Makes `import vllm` give the stand-in."""
    module, request = types.ModuleType("vllm"), types.ModuleType("vllm.lora.request")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams, request.LoRARequest = LLM, SamplingParams, LoRARequest
    modules = {"vllm": module, "vllm.lora": types.ModuleType("vllm.lora"), "vllm.lora.request": request}
    for name, value in modules.items():
        monkeypatch.setitem(sys.modules, name, value)
