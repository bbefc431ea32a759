"""Sampling: prompts as the trainer encodes them, end tokens, draws that depend on nothing else; models and vLLM."""

import json
import shutil
import sys

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from preferences import nf4
from stand_in_vllm import LLM, install
from tiny import (
    conversational_dataset,
    parity_reward,
    plain_dataset,
    save_tiny_model,
    snapshot,
    tiny_args,
    tiny_lora,
    tiny_model,
    tiny_tokenizer,
)
from training import build
from trl_dapo import GRPOConfig, GRPOTrainer
from trl_dapo.evaluation import models
from trl_dapo.evaluation.generation import SamplingError, Text, TransformersSampler, end_tokens
from trl_dapo.evaluation.models import (
    PolicySource,
    context_length,
    device_of,
    find_policy,
    load_policy,
    load_tokenizer,
    quantization_of,
)
from trl_dapo.evaluation.settings import Protocol
from trl_dapo.evaluation.vllm import VLLMSampler, check_vllm
from trl_dapo.qlora.one_kernel import keep_one_kernel
from trl_dapo.qlora.recorded import FILE, record_quantization


SAMPLING = Protocol(k=2, top_p=1.0, max_new_tokens=12)
PROMPTS = list(plain_dataset(4)["prompt"])


def sampler(tokenizer=None, model=None, sampling=SAMPLING):
    tokenizer = tokenizer or tiny_tokenizer()
    return TransformersSampler(model or tiny_model(tokenizer), Text(tokenizer), sampling)


@pytest.mark.parametrize("dataset", [plain_dataset(4), conversational_dataset(4)], ids=["plain", "conversational"])
def test_prompts_become_the_tokens_that_the_trainer_makes_of_them(tmp_path, dataset):
    tokenizer = tiny_tokenizer()
    args = tiny_args(tmp_path, cls=GRPOConfig)
    trainer = build(GRPOTrainer, args, reward_funcs=parity_reward, train_dataset=dataset, processing_class=tokenizer)
    prompts = list(dataset["prompt"])
    assert Text(tokenizer).encode(prompts) == trainer._tokenize_prompts(prompts)[0]


def test_arguments_of_the_chat_template_reach_it():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ mood }}{{ messages[0]['content'] }}"
    assert tokenizer.decode(Text(tokenizer, {"mood": "glad: "}).encode([[{"role": "user", "content": "hi"}]])[0]) == (
        "glad: hi"
    )


def test_messages_without_a_chat_template_are_refused_in_one_line():
    with pytest.raises(SamplingError, match="the model's tokenizer has no chat template") as caught:
        sampler(tiny_tokenizer(chat=False)).sample(list(conversational_dataset(1)["prompt"]), [0])
    assert "\n" not in str(caught.value)


def test_a_chat_template_that_refuses_the_messages_is_one_line():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system\nmessages') }}"
    with pytest.raises(SamplingError, match="chat template refuses the messages: no system messages"):
        sampler(tokenizer).sample(list(conversational_dataset(1)["prompt"]), [0])


def test_the_draws_of_a_batch_are_a_function_of_its_seed():
    one = sampler()
    first = one.sample(PROMPTS, [5, 6, 7, 8])
    torch.manual_seed(123)
    assert one.sample(PROMPTS, [5, 0, 0, 0]) == first
    assert one.sample(PROMPTS, [6, 6, 7, 8]) != first
    assert [one.seed for one in first] == [5] * 4


def test_sampling_leaves_modes_random_state_and_the_models_config_as_they_were():
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer).train()
    config, state = model.generation_config, torch.random.get_rng_state()
    sampler(tokenizer, model).sample(PROMPTS, [0] * 4)
    assert model.training
    assert model.generation_config is config
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_a_model_brings_of_its_own_does_not_change_the_draws():
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    plain = sampler(tokenizer, model).sample(PROMPTS, [0] * 4)
    model.generation_config.update(top_k=1, repetition_penalty=1.5, min_p=0.5, temperature=0.1, top_p=0.1)
    model.generation_config.update(no_repeat_ngram_size=1, min_new_tokens=9, typical_p=0.1, epsilon_cutoff=0.02)
    assert sampler(tokenizer, model).sample(PROMPTS, [0] * 4) == plain


def scripted(model, rows):
    """Makes a model generate these tokens behind its prompts."""
    model.generate = lambda input_ids, **kwargs: torch.cat([input_ids, torch.tensor(rows)], dim=1)
    return model


def test_every_end_token_of_the_model_ends_a_completion_and_none_means_truncated():
    tokenizer = tiny_tokenizer()
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    other = tokenizer.convert_tokens_to_ids("</think>")
    model = tiny_model(tokenizer)
    model.generation_config.eos_token_id = [other]
    assert end_tokens(model, tokenizer) == [eos, other]
    a, b, c = tokenizer("abc")["input_ids"]
    rows = [[a, eos, pad, pad], [a, b, other, pad], [a, b, c, a], [a, b, c, eos]]
    found = sampler(tokenizer, scripted(model, rows)).sample(PROMPTS, [0] * 4)
    assert [one.ids for one in found] == [[a, eos], [a, b, other], [a, b, c, a], [a, b, c, eos]]
    assert [one.truncated for one in found] == [False, False, True, False]
    assert [one.text for one in found] == ["a", "ab</think>", "abca", "abc"]


def test_greedy_decoding_is_the_models_most_likely_token():
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    found = sampler(tokenizer, model, Protocol(k=1, temperature=0.0, max_new_tokens=3)).sample(PROMPTS, [0] * 4)
    ids = torch.tensor([tokenizer(PROMPTS[0])["input_ids"]])
    assert found[0].ids[0] == model(ids).logits[0, -1].argmax().item()
    assert (
        sampler(tokenizer, model, Protocol(k=1, temperature=0.0, max_new_tokens=3)).sample(PROMPTS, [9] * 4)[0].ids
        == found[0].ids
    )


def test_memory_that_runs_out_is_one_line_about_the_batch_size():
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)

    def generate(**kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    model.generate = generate
    with pytest.raises(SamplingError, match="batch_size: 4 completions at once do not fit into the memory of cpu"):
        sampler(tokenizer, model).sample(PROMPTS, [0] * 4)


# ------------------------------------------------------------------------------------------------------------- models


@pytest.fixture
def base(tmp_path):
    return save_tiny_model(tmp_path / "base", tiny_tokenizer())


@pytest.fixture
def adapter(tmp_path, base):
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora(init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter")


def loaded(name):
    source = find_policy(name)
    tokenizer = load_tokenizer(source)
    return load_policy(source, tokenizer), tokenizer


def logits(model):
    return model(torch.tensor([[20, 21, 22]])).logits


def test_a_model_a_merged_model_and_an_adapter_are_loaded(base, adapter, tmp_path):
    plain, _ = loaded(base)
    adapted, tokenizer = loaded(adapter)  # the base's tokenizer: the adapter's folder has none
    assert not torch.allclose(logits(plain), logits(adapted))
    loaded(adapter)[0].merge_and_unload().save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(loaded(str(tmp_path / "merged"))[0]), logits(adapted), atol=1e-5)
    assert not adapted.training
    assert context_length(find_policy(adapter)) == context_length(find_policy(base)) == 4096


def test_the_output_folder_of_a_run_and_its_checkpoints_are_policies(tmp_path):
    args = tiny_args(tmp_path / "run", cls=GRPOConfig, max_steps=1, save_strategy="steps", save_steps=1)
    trainer = build(GRPOTrainer, args, reward_funcs=parity_reward)
    trainer.train()
    message = r"there is no model in the folder; it has checkpoints; give one of them, such as .*checkpoint-1"
    with pytest.raises(ValueError, match=message):
        find_policy(str(tmp_path / "run"))
    trainer.save_model(str(tmp_path / "run"))
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-1"):
        model, _ = loaded(str(folder))
        for name, parameter in snapshot(trainer.model).items():
            assert torch.equal(parameter, dict(model.named_parameters())[name])


def test_a_model_is_loaded_in_four_bits(tmp_path):
    # bitsandbytes takes no narrower layers on a CPU
    source = find_policy(save_tiny_model(tmp_path / "wide", tiny_tokenizer(), hidden=64))
    tokenizer = load_tokenizer(source)
    model = load_policy(source, tokenizer, dtype="float32", device="cpu", load_in_4bit=True)
    assert model.is_loaded_in_4bit
    assert len(sampler(tokenizer, model).sample(PROMPTS, [0] * 4)) == 4


def test_the_base_of_an_adapter_is_quantized_as_it_was_in_training(tmp_path):
    base = save_tiny_model(tmp_path / "wide", tiny_tokenizer(), hidden=64)
    trained = AutoModelForCausalLM.from_pretrained(base, quantization_config=nf4())
    trained = get_peft_model(trained, tiny_lora(init_lora_weights=False), autocast_adapter_dtype=False)
    keep_one_kernel(trained)
    trained.save_pretrained(tmp_path / "adapter")
    record_quantization(tmp_path / "adapter", trained.get_base_model())
    source = find_policy(str(tmp_path / "adapter"))
    tokenizer = load_tokenizer(source)
    found = load_policy(source, tokenizer, dtype="float32", device="cpu")
    assert found.is_loaded_in_4bit
    assert torch.equal(logits(found), logits(trained.eval()))
    # With the record, how is known: double quantization, the type for computing
    assert quantization_of(source, True).to_dict() == quantization_of(source).to_dict() == nf4().to_dict()
    assert quantization_of(source, False) is None
    assert not getattr(load_policy(source, tokenizer, device="cpu", load_in_4bit=False), "is_loaded_in_4bit", False)
    (tmp_path / "adapter" / FILE).write_text("{")
    with pytest.raises(ValueError, match=r"base_quantization.json does not say how the base was quantized"):
        quantization_of(source)


def test_the_record_of_an_adapter_on_the_hub_is_read(tmp_path, monkeypatch):
    (tmp_path / FILE).write_text(json.dumps(nf4().to_dict(), default=str))

    def download(name, file, revision):
        if name != "some/qlora" or (file, revision) != (FILE, "v2"):
            raise EntryNotFoundError("no such file")
        return str(tmp_path / FILE)

    monkeypatch.setattr(models, "hf_hub_download", download)
    assert quantization_of(PolicySource("some/qlora", "some/base", "v2")).load_in_4bit
    assert quantization_of(PolicySource("some/lora", "some/base", "v2")) is None
    # A whole model is asked for none
    assert quantization_of(PolicySource("some/qlora", None, "v2")) is None


def test_an_adapter_without_its_base_is_one_line(base, adapter):
    shutil.rmtree(base)
    with pytest.raises(ValueError, match=r"the adapter was trained on the base .* no such model here") as caught:
        find_policy(adapter)
    assert adapter in str(caught.value)
    assert "adapter_config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_of_a_reward_model_is_no_policy(adapter):
    config = LoraConfig.from_pretrained(adapter)
    config.task_type = "SEQ_CLS"
    config.save_pretrained(adapter)
    with pytest.raises(ValueError, match="task_type='SEQ_CLS', which generates no text"):
        find_policy(adapter)


def test_folders_without_a_model_or_a_tokenizer_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no model in the folder; give a saved one"):
        find_policy(str(tmp_path / "empty"))
    tiny_model(tiny_tokenizer()).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="has no tokenizer that can be loaded"):
        load_tokenizer(find_policy(str(tmp_path / "bare")))


def test_the_fingerprint_follows_the_weights_and_not_the_place(tmp_path, base, adapter):
    first = find_policy(base).fingerprint()
    shutil.copytree(base, tmp_path / "copy")
    assert find_policy(str(tmp_path / "copy")).fingerprint() == first
    save_tiny_model(tmp_path / "copy", tiny_tokenizer(), seed=1)
    assert find_policy(str(tmp_path / "copy")).fingerprint() != first
    of_adapter = find_policy(adapter).fingerprint()
    save_tiny_model(base, tiny_tokenizer(), seed=1)
    assert find_policy(adapter).fingerprint() != of_adapter


def test_a_device_that_is_not_there_is_named():
    assert device_of("cpu") == torch.device("cpu")
    for name in ("cuda:99", "toaster"):
        with pytest.raises(ValueError, match=f"device={name}: this machine has no such device"):
            device_of(name)


# --------------------------------------------------------------------------------------------------------------- vLLM


@pytest.fixture
def vllm(monkeypatch):
    install(monkeypatch)


def test_vllm_draws_each_completion_with_its_own_seed(vllm):
    tokenizer = tiny_tokenizer()
    sampling = Protocol(k=2, max_new_tokens=9, seed=3)
    one = VLLMSampler("name", Text(tokenizer), sampling, [5, 6], engine={"dtype": "bfloat16"})
    found = one.sample(PROMPTS[:2], [12, 7])
    prompts, params, request = one._engine.requests
    assert LLM.made == {"model": "name", "dtype": "bfloat16", "seed": 3, "revision": None}
    assert [prompt["prompt_token_ids"] for prompt in prompts] == tokenizer(PROMPTS[:2])["input_ids"]
    assert [(one.temperature, one.top_p, one.max_tokens, one.n) for one in params] == [(1.0, 0.7, 9, 1)] * 2
    assert [one.stop_token_ids for one in params] == [[5, 6]] * 2
    assert request is None
    assert [(one.text[:2], one.truncated, one.seed) for one in found] == [("12", False, 12), ("7", True, 7)]
    assert found[0].ids[-1] == 5


def test_vllm_loads_an_adapter_on_its_base(vllm, base, adapter):
    one = VLLMSampler(base, Text(tiny_tokenizer()), SAMPLING, [5], adapter=adapter)
    one.sample(list(conversational_dataset(1)["prompt"]), [2])
    assert LLM.made["enable_lora"] is True
    assert LLM.made["max_lora_rank"] == 8  # the adapter's is 4, and 8 is vLLM's least
    assert one._engine.requests[2].path == adapter


def test_without_vllm_one_line_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (check_vllm, lambda: VLLMSampler("name", Text(tiny_tokenizer()), SAMPLING, [])):
        with pytest.raises(SamplingError, match=r"pip install 'trl-dapo\[vllm\]', or leave it out"):
            call()
