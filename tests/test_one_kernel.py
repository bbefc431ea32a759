"""4-bit weights on a CPU: what an evaluation inside a run leaves of the gradients."""

import pytest
import torch
from bitsandbytes.functional import has_avx512bf16
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from preferences import nf4, saved
from tiny import plain_dataset, share_reward, tiny_args, tiny_model, tiny_tokenizer
from trl_dapo import EvaluationCallback, GRPOConfig, GRPOTrainer
from trl_dapo.qlora.one_kernel import HAS_CHANGED, MAY_CHANGE, keep_one_kernel


# Only there is the layout another one in eval mode; elsewhere the tests hold because nothing happens
CHANGES = has_avx512bf16()
IDS = torch.arange(20, 44).view(3, 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("base"), tiny_model(tiny_tokenizer(), hidden=64, layers=3))


def adapted(base):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=nf4())
    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(model, settings).train()


def layers(model):
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


def evaluated(model):
    model.eval()
    with torch.no_grad():
        found = model(input_ids=IDS).logits
    model.train()
    return found


def gradients(model):
    model.zero_grad()
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def changed(model):
    return sum(bool(getattr(layer.weight.quant_state, HAS_CHANGED, False)) for layer in layers(model))


def test_layers_of_bitsandbytes_have_the_name_that_is_set(base):
    model = adapted(base)
    assert len(layers(model)) == 21  # 3 layers of 4 projections of attention and 3 of the MLP
    assert all(getattr(layer, MAY_CHANGE) == CHANGES for layer in layers(model))


def test_an_evaluation_leaves_gradients_as_they_are(base):
    model = adapted(base)
    keep_one_kernel(model)
    before = gradients(model)
    logits = evaluated(model)
    assert changed(model) == 0
    after = gradients(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, logits)


@pytest.mark.skipif(not CHANGES, reason="this processor has one layout")
def test_without_it_gradients_are_lost(base):
    # The control: below the last layer, what the frozen weights pass on is missing
    model = adapted(base)
    before = gradients(model)
    evaluated(model)
    assert changed(model) == 21
    after = gradients(model)
    first = next(name for name in before if "layers.0.self_attn.q_proj.lora_B" in name)
    assert torch.cosine_similarity(before[first].flatten(), after[first].flatten(), 0) < 0.99


@pytest.mark.skipif(not CHANGES, reason="this processor has one layout")
def test_a_model_that_was_evaluated_before_is_refused(base, tmp_path):
    model = adapted(base)
    evaluated(model)
    args = tiny_args(tmp_path / "run", cls=GRPOConfig)
    with pytest.raises(ValueError, match="was used in eval mode before"):
        GRPOTrainer(model, share_reward, args, plain_dataset(16), processing_class=tiny_tokenizer())
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_not_quantized_is_left_as_it_is():
    model = tiny_model(tiny_tokenizer())
    keep_one_kernel(model)
    assert not hasattr(model.model.layers[0].mlp.up_proj, MAY_CHANGE)


def test_a_run_that_is_evaluated_inside_is_the_run_that_is_not(base, tmp_path):
    def run(folder, at_start):
        args = tiny_args(folder, cls=GRPOConfig, max_steps=2)
        trainer = GRPOTrainer(adapted(base), share_reward, args, plain_dataset(16), processing_class=tiny_tokenizer())
        if at_start:
            problems = plain_dataset(4).rename_column("answer", "solution")
            trainer.add_callback(EvaluationCallback(trainer, problems, "number", k=2, every=1, save=False))
        trainer.train()
        return {name: one.detach().clone() for name, one in trainer.model.named_parameters() if one.requires_grad}

    plain, watched = run(tmp_path / "plain", False), run(tmp_path / "watched", True)
    assert plain
    assert all(torch.equal(one, watched[name]) for name, one in plain.items())
