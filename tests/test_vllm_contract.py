"""The names of vLLM that are used here, against the installed vLLM where there is one."""

import dataclasses
import inspect
from importlib import import_module
from importlib.metadata import version

import pytest
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from trl_dapo.host.vllm_names import NAMES, READ_FROM
from trl_dapo.rollouts.engine import seeded
from trl_dapo.rollouts.servable import RANKS


USED = {
    "vllm.entrypoints.llm:LLM.generate": {"prompts", "sampling_params", "use_tqdm", "lora_request"},
    "vllm.entrypoints.llm:LLM.wake_up": {"tags"},
    "vllm.engine.arg_utils:EngineArgs": {"enable_lora", "max_loras", "max_lora_rank", "quantization", "load_format"},
    "vllm.lora.request:LoRARequest": {"lora_name", "lora_int_id", "lora_path", "load_inplace"},
    "vllm.v1.engine.llm_engine:LLMEngine.add_lora": {"lora_request"},
    "vllm.sampling_params:SamplingParams": {"temperature", "max_tokens", "prompt_logprobs", "seed"},
}


@pytest.mark.parametrize("name", USED)
def test_the_table_has_what_is_used(name):
    assert USED[name] <= set(NAMES[name])


@pytest.mark.parametrize("name", USED)
def test_the_installed_vllm_has_what_is_used(name):
    pytest.importorskip("vllm", reason=f"vLLM is not installed; the table was read from {READ_FROM}")
    module, path = name.split(":")
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if dataclasses.is_dataclass(found):
        held = {one.name for one in dataclasses.fields(found)}
    elif hasattr(found, "__struct_fields__"):
        held = set(found.__struct_fields__)
    else:
        held = set(inspect.signature(found).parameters)
    assert USED[name] <= held, f"vLLM {version('vllm')}"


def test_the_installed_vllm_has_these_ranks():
    lora = pytest.importorskip("vllm.config.lora", reason="vLLM is not installed")
    assert lora.MaxLoRARanks.__args__ == RANKS


def test_a_copy_of_the_installed_parameters_takes_a_seed():
    vllm = pytest.importorskip("vllm", reason="vLLM is not installed")
    (one, other), given = seeded(vllm.SamplingParams(temperature=0.7), 2), vllm.SamplingParams(seed=3)
    assert one.seed != other.seed
    assert one.sampling_type.name == "RANDOM_SEED"
    assert [each.seed for each in seeded(given, 2)] == [3, 3]


def test_trl_has_the_seams_of_the_engine():
    assert grpo_trainer.VLLMGeneration is VLLMGeneration
    for name in ("_init_vllm", "_iter_named_params", "sync_weights", "generate"):
        assert callable(getattr(VLLMGeneration, name))
    host = inspect.getsource(vllm_generation)
    assert "self.llm = LLM(" in host
    assert "self._llm_weights_sleeping" in host
    assert callable(vllm_generation.empty_cache)
