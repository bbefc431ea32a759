"""When the check of a sync stops a run: limits by hand, on models of any spread, and without false alarms."""

import math
import types

import pytest
import torch
from peft import get_peft_model
from transformers import BitsAndBytesConfig, LlamaForCausalLM

import stand_in_engine
from stand_in_engine import LLM, LoRARequest
from test_engine_runs import go
from tiny import save_tiny_model, tiny_lora, tiny_model, tiny_tokenizer
from trl_dapo.rollouts.engine_settings import EngineSettings, Limits
from trl_dapo.rollouts.saved_adapter import saved_adapter
from trl_dapo.rollouts.sync_check import SyncCheck, SyncError, engine_logps, probe_tokens, share_of_spread


def test_the_share_by_hand():
    # Mean -2, variance (1 + 1) / 2 = 1. Differences .3 and .4: root of (.09 + .16) / 2 = .125
    policy = torch.tensor([-1.0, -3.0], dtype=torch.float64)
    sampler = torch.tensor([-1.3, -2.6], dtype=torch.float64)
    assert share_of_spread(sampler, policy) == pytest.approx(math.sqrt(0.125))
    assert share_of_spread(policy, policy) == 0
    # The policy's spread counts, not the sampler's. Variance .16, the differences are the same
    scaled = torch.tensor([-1.6, -2.4], dtype=torch.float64)
    assert share_of_spread(scaled + policy - sampler, scaled) == pytest.approx(math.sqrt(0.125) / 0.4)
    flat = torch.tensor([-2.0, -2.0])
    assert share_of_spread(flat, flat) == 0
    assert share_of_spread(flat - 1, flat) == math.inf


@pytest.mark.parametrize("seed", range(5))
def test_an_engine_that_knows_nothing_has_a_share_of_one_or_more(seed):
    draws = torch.Generator().manual_seed(seed)
    policy = torch.randn(64, generator=draws, dtype=torch.float64) * 10.0 ** (seed - 3) - 5
    for constant in (-9.0, -5.0, policy.mean().item(), policy.median().item()):
        assert share_of_spread(torch.full_like(policy, constant), policy) >= 1 - 1e-12
    other = torch.randn(64, generator=draws, dtype=torch.float64)
    apart = policy - policy.mean()
    other = other - other.mean()
    # Nothing in common
    other = other - apart * (other @ apart) / (apart @ apart)
    for size in (1e-4, 1.0, 1e3):
        assert share_of_spread(other * size, policy) >= 1


SAID = [
    # `vllm_sync`, `vllm_base`, tolerance, whether the model is quantized; nats and share
    (("adapter", None, None), True, Limits(0.2, 0.25)),
    (("adapter", "4bit", None), True, Limits(0.2, 0.25)),
    (("adapter", "16bit", None), True, Limits(1.0, 0.5)),
    (("adapter", "4bit", None), False, Limits(1.0, 0.5)),
    (("adapter", None, None), False, Limits(0.2, 0.25)),
    (("dense", None, None), True, Limits(0.2, 0.25)),
    (("adapter", "16bit", 3.0), True, Limits(3.0, None)),
]


@pytest.mark.parametrize(("settings", "quantized", "limits"), SAID)
def test_which_limits_hold(settings, quantized, limits):
    model = types.SimpleNamespace(is_loaded_in_4bit=quantized, is_loaded_in_8bit=False, is_quantized=quantized)
    assert EngineSettings(*settings).limits_of(model) == limits


# Engines


class Engine:
    """Answers with log-probabilities that are given to it."""

    def __init__(self, logps):
        self.logps, self.asked = logps, []

    def generate(self, prompts, sampling_params=None, use_tqdm=True, **given):
        self.asked.append(given)
        ids = prompts[0]["prompt_token_ids"]
        read = [
            {token: types.SimpleNamespace(logprob=value)} for token, value in zip(ids[1:], self.logps, strict=True)
        ]
        return [types.SimpleNamespace(prompt_logprobs=[None, *read])]


@pytest.fixture
def policy(monkeypatch):
    stand_in_engine.install(monkeypatch)
    torch.manual_seed(0)
    return get_peft_model(tiny_model(tiny_tokenizer(), hidden=64), tiny_lora(init_lora_weights=False))


def check_of(model, limits):
    return SyncCheck(model, tiny_tokenizer(), limits, "adapter")


def test_each_limit_stops_at_its_place(policy):
    check = check_of(policy, Limits(0.2, 0.25))
    held = check._trainer_logps()
    spread = held.std(correction=0).item()
    signs = torch.tensor([1.0, -1.0]).repeat(len(held))[: len(held)]
    below = min(0.2, 0.25 * spread) * 0.99
    assert check.difference(Engine((held + below * signs).tolist())) == pytest.approx(below, rel=1e-4)
    # The spread of a random model is small, so that the share comes first
    assert 0.25 * spread < 0.2
    with pytest.raises(SyncError, match=r"above 25% of the spread of log-probabilities over tokens \(it is 26%"):
        check_of(policy, Limits(0.2, 0.25)).difference(Engine((held + 0.255 * spread * signs).tolist()))
    assert check_of(policy, Limits(0.2, None)).difference(Engine((held + 0.199 * signs).tolist())) < 0.2
    with pytest.raises(SyncError, match=r"differ by 0\.201 nats per token, above vllm_sync_tolerance=0\.2: "):
        check_of(policy, Limits(0.2, None)).difference(Engine((held + 0.201 * signs).tolist()))


@pytest.mark.parametrize("limits", [Limits(0.2, 0.25), Limits(9.0, None)])
def test_a_number_that_is_none_stops_the_run(policy, limits):
    held = check_of(policy, limits)._trainer_logps().tolist()
    held[7] = math.nan
    with pytest.raises(SyncError, match="differ by nan"):
        check_of(policy, limits).difference(Engine(held))


def test_an_engine_with_the_base_or_an_earlier_policy_is_said_by_name(policy):
    limits = Limits(99.0, None)
    check = check_of(policy, limits)
    first = check._trainer_logps()
    with policy.disable_adapter():
        base = check._trainer_logps()
    with pytest.raises(SyncError, match=r"samples from the base, as if no adapter were applied"):
        check_of(policy, limits).difference(Engine(base.tolist()))
    check.difference(Engine(first.tolist()))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-2.0)
    with pytest.raises(SyncError, match=r"samples from the policy of the sync before.*vllm_sync='adapter' did not"):
        check.difference(Engine(first.tolist()))
    # Halfway is nearer to neither: twice the distance to the other is not below that to the policy
    halfway = (check._trainer_logps() + first) / 2
    check_of(policy, limits).difference(Engine(halfway.tolist()))


def test_an_adapter_that_is_zero_is_no_alarm(monkeypatch):
    stand_in_engine.install(monkeypatch)
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora())
    check = check_of(model, Limits(0.2, 0.25))
    assert check.difference(Engine(check._trainer_logps().tolist())) < 1e-6


def test_a_policy_that_float32_does_not_tell_from_the_base_is_no_alarm(policy):
    check = check_of(policy, Limits(0.2, 0.25))
    held = check._trainer_logps()
    base = held.clone()
    base[::8] += 1e-6  # a mean difference of about 1e-7
    check._base = base
    assert 0 < check.difference(Engine(base.tolist())) < 1e-6


def test_the_request_reaches_the_engine(policy):
    check = check_of(policy, Limits(0.2, 0.25))
    engine = Engine(check._trainer_logps().tolist())
    check.difference(engine, "request")
    check.difference(engine)
    assert engine.asked == [{"lora_request": "request"}, {}]


def test_the_model_is_left_as_it_was(policy):
    policy.add_adapter("value", tiny_lora(init_lora_weights=False))
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(".default." in name or ".value." in name)
    policy.train()
    policy.base_model.model.model.layers[0].eval()
    trainable = {name: one.requires_grad for name, one in policy.named_parameters()}
    modes = [module.training for module in policy.modules()]
    state = torch.get_rng_state()
    check = check_of(policy, Limits(0.2, 0.25))
    for _ in range(2):
        check.difference(Engine(check._trainer_logps().tolist()))
    # Leaving `disable_adapter` freezes all adapters but the active one
    assert {name: one.requires_grad for name, one in policy.named_parameters()} == trainable
    assert [module.training for module in policy.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


# Another base


class LosesTheBase(LLM):
    def sleep(self, level=1, mode="abort"):
        super().sleep(level=2)


class HasNoBase(LLM):
    def __init__(self, model, **given):
        super().__init__(model, **given)
        for parameter in self.model.parameters():
            parameter.data.zero_()


class HasAnother(LLM):
    seed = 1

    def __init__(self, model, **given):
        fresh = save_tiny_model(f"{model}-{self.seed}", tiny_tokenizer(), seed=self.seed)
        super().__init__(fresh, **given)


class HasAThird(HasAnother):
    seed = 2


@pytest.mark.parametrize("base", ["4bit", "16bit"])
@pytest.mark.parametrize("engine", [LosesTheBase, HasNoBase, HasAnother, HasAThird])
def test_an_engine_with_another_base_stops_the_run_by_default(tmp_path, monkeypatch, engine, base):
    stand_in_engine.install(monkeypatch, engine)
    # In nats, these differ by less than the tolerance: a random model is nearly uniform
    with pytest.raises(SyncError, match=r"of the spread of log-probabilities over tokens"):
        go(tmp_path, vllm_enable_sleep_mode=True, vllm_base=base)


@pytest.mark.parametrize("scale", [1.0, 0.0])
@pytest.mark.parametrize(("seed", "hidden", "layers"), [(0, 16, 1), (1, 64, 2), (2, 64, 4)])
def test_4_bits_against_16_are_no_alarm(tmp_path, monkeypatch, seed, hidden, layers, scale):
    stand_in_engine.install(monkeypatch)
    path = save_tiny_model(tmp_path / "base", tiny_tokenizer(), seed=seed, hidden=hidden, layers=layers)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    quantized = LlamaForCausalLM.from_pretrained(path, quantization_config=nf4, device_map="cpu", dtype=torch.float32)
    torch.manual_seed(0)
    model = get_peft_model(quantized, tiny_lora(init_lora_weights=False)).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(scale)
    engine = LLM(path, enable_lora=True)
    with saved_adapter(model, "default") as folder:
        request = LoRARequest("policy", 1, folder)
        engine._add_lora(request)
    check = check_of(model, EngineSettings("adapter", "16bit", None).limits_of(model))
    assert check.difference(engine, request) > 0
    # The other way round: a 16-bit trainer, an engine in 4 bits
    sampler = engine_logps(engine, probe_tokens(tiny_tokenizer()), request)
    assert share_of_spread(check._trainer_logps(), sampler) < 0.5
