"""
A stand-in for vLLM that holds a model: it takes the arguments of the real one alone, and keeps its rules.

It answers from its base, or from the base with an adapter that it read from a folder. It refuses to compute while it
sleeps, loses its weights at sleep level 2, and answers from keys and values of earlier prompts until they are cleared.
Requests without a seed are drawn from random numbers of the engine's own, which no checkpoint holds.
"""

import sys
import types
from importlib.machinery import ModuleSpec
from typing import ClassVar

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl.generation import vllm_generation

from trl_dapo.host.vllm_names import NAMES


def _known(where: str, given: dict) -> None:
    unknown = set(given) - set(NAMES[where])
    if unknown:
        raise TypeError(f"{where} has no {sorted(unknown)}")


class SamplingParams:
    def __init__(self, **given):
        _known("vllm.sampling_params:SamplingParams", given)
        self.__dict__.update(
            {"n": 1, "temperature": 1.0, "max_tokens": 16, "logprobs": None, "prompt_logprobs": None, "seed": None}
            | given
        )
        assert self.n == 1


class LoRARequest:
    def __init__(self, lora_name, lora_int_id, lora_path="", **given):
        _known("vllm.lora.request:LoRARequest", given)
        if lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {lora_int_id}")
        assert lora_path, "lora_path cannot be empty"
        self.lora_name, self.lora_int_id, self.lora_path = lora_name, lora_int_id, lora_path
        self.load_inplace = given.get("load_inplace", False)


class Logprob:
    def __init__(self, logprob, rank):
        self.logprob, self.rank = logprob, rank


class LLM:
    """See the module. `made` holds all engines since `install`."""

    made: ClassVar[list["LLM"]] = []

    def __init__(self, model, **given):
        own = NAMES["vllm.entrypoints.llm:LLM.__init__"] + NAMES["vllm.engine.arg_utils:EngineArgs"]
        if unknown := set(given) - set(own):
            raise TypeError(f"EngineArgs has no {sorted(unknown)}")
        self.arguments = given
        self.calls: list[str] = []
        self.asleep: set[str] = set()
        self._prefixes: dict[tuple, torch.Tensor] = {}
        self._adapted: PeftModel | None = None
        self._draws = torch.Generator().manual_seed(given.get("seed", 0))
        more = {}
        if given.get("quantization") == "bitsandbytes":
            kind = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
            )
            more = {"quantization_config": kind, "device_map": "cpu"}
        self.model = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, **more
        ).train()  # as bitsandbytes repacks 4-bit weights on a CPU in eval mode
        limit = given.get("max_model_len") or self.model.config.max_position_embeddings
        runner = types.SimpleNamespace(model=types.SimpleNamespace(load_weights=self._load_weights))
        worker = types.SimpleNamespace(driver_worker=types.SimpleNamespace(model_runner=runner))
        self.llm_engine = types.SimpleNamespace(
            model_config=types.SimpleNamespace(max_model_len=limit), model_executor=worker, add_lora=self._add_lora
        )
        LLM.made.append(self)

    # Weights

    def _load_weights(self, weights):
        self._need("weights")
        held = dict(self.model.named_parameters())
        for name, tensor in weights:
            if name not in held:
                raise KeyError(name)
            assert held[name].shape == tensor.shape, name
            held[name].data.copy_(tensor)

    def _add_lora(self, lora_request):
        self._need("weights")
        self.calls.append("add_lora")
        if not self.arguments.get("enable_lora"):
            raise RuntimeError("LoRA is not enabled")
        if self._adapted is not None and not lora_request.load_inplace:
            return True
        rank = PeftConfig.from_pretrained(lora_request.lora_path).r
        if rank > self.arguments.get("max_lora_rank", 16):
            raise ValueError(f"LoRA rank {rank} is greater than max_lora_rank {self.arguments['max_lora_rank']}.")
        with torch.random.fork_rng(devices=[]):  # PEFT draws a start that the folder's weights take the place of
            if self._adapted is None:
                self._adapted = PeftModel.from_pretrained(self.model, lora_request.lora_path, adapter_name="held")
            else:
                self._adapted.load_adapter(lora_request.lora_path, adapter_name="held")
        self._adapted.train()  # see above
        for module in self._adapted.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # an engine has none
        return True

    # Sleep

    def _need(self, *tags):
        if self.asleep & set(tags):
            raise RuntimeError(f"asleep: {self.asleep & set(tags)}")

    def sleep(self, level=1, mode="abort"):
        assert self.arguments.get("enable_sleep_mode"), "sleep mode is not enabled"
        self.calls.append(f"sleep {level}")
        self.asleep = {"weights", "kv_cache"}
        self._prefixes.clear()
        if level == 2:
            for parameter in self.model.parameters():
                parameter.data.zero_()

    def wake_up(self, tags=None):
        self.calls.append(f"wake_up {tags}")
        self.asleep -= set(tags or ["weights", "kv_cache"])

    def reset_prefix_cache(self, reset_running_requests=False, reset_connector=False):
        self.calls.append("reset_prefix_cache")
        self._prefixes.clear()
        return True

    # Answers

    def generate(self, prompts, sampling_params=None, **given):
        _known("vllm.entrypoints.llm:LLM.generate", given)
        self._need("weights", "kv_cache")
        self.calls.append("generate")
        many = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        request = given.get("lora_request")
        if request is not None:
            self._before(request)
        with torch.no_grad():
            return [
                self._answer(one["prompt_token_ids"], params, request)
                for one, params in zip(prompts, many, strict=True)
            ]

    def _before(self, request):
        """As vLLM does: a request that asks for it has its folder read again."""
        if self._adapted is None or request.load_inplace:
            self._add_lora(request)

    def _logits(self, ids, request):
        inputs = torch.tensor([ids])
        if self._adapted is None:
            return self.model(inputs).logits[0]
        if request is None:
            with self._adapted.disable_adapter():
                return self._adapted(inputs).logits[0]
        return self._adapted(inputs).logits[0]

    def _answer(self, prompt, params, request):
        ids, drawn = list(prompt), []
        draws = self._draws if params.seed is None else torch.Generator().manual_seed(params.seed)
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        read = None
        if params.prompt_logprobs is not None:
            logps = self._logits(ids, request).log_softmax(-1)
            read = [None, *({ids[i + 1]: Logprob(logps[i, ids[i + 1]].item(), 1)} for i in range(len(ids) - 1))]
        key = (tuple(prompt), request is not None)
        for place in range(params.max_tokens):
            if place == 0 and read is None and key in self._prefixes:
                logits = self._prefixes[key]
            else:
                logits = self._logits(ids, request)[-1]
            if place == 0 and read is None:
                self._prefixes[key] = logits
            scaled = logits / params.temperature if params.temperature else logits
            logps = scaled.log_softmax(-1)
            if params.temperature:
                token = torch.multinomial(logps.exp(), 1, generator=draws).item()
            else:
                token = logps.argmax().item()
            ids.append(token)
            drawn.append({token: Logprob(logps[token].item(), 1)})
            if token in ends:
                break
        output = types.SimpleNamespace(
            token_ids=ids[len(prompt) :],
            logprobs=None if params.logprobs is None else drawn,
            finish_reason="stop" if ids[-1] in ends else "length",
        )
        return types.SimpleNamespace(prompt_token_ids=list(prompt), prompt_logprobs=read, outputs=[output])


def install(monkeypatch, engine=LLM):
    """Makes TRL and `import vllm` find the stand-in, or a class derived from it; returns the engines made since."""
    module, request = types.ModuleType("vllm"), types.ModuleType("vllm.lora.request")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams, request.LoRARequest = engine, SamplingParams, LoRARequest
    modules = {"vllm": module, "vllm.lora": types.ModuleType("vllm.lora"), "vllm.lora.request": request}
    for name, value in modules.items():
        monkeypatch.setitem(sys.modules, name, value)
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_generation, "LLM", engine, raising=False)
    monkeypatch.setattr(vllm_generation, "SamplingParams", SamplingParams, raising=False)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):  # TRL sets them
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)
    monkeypatch.setattr(LLM, "made", [])
    return LLM.made
