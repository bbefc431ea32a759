"""Planned memory: sizes by hand, and peaks of passes against what real tensors take."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig

from trl_dapo.planning.fake_linear import bytes_4bit, bytes_8bit
from trl_dapo.planning.known_models import known_config
from trl_dapo.planning.memory import plan_memory
from trl_dapo.planning.optimizer_state import state_bytes, step_bytes
from trl_dapo.planning.run_shape import RunShape
from trl_dapo.planning.traced_passes import Pass
from trl_dapo.planning.traced_step import TracedModel
from trl_dapo.planning.tracker import LiveBytes


def config(layers: int = 2) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip


def shape(layers: int = 2, **settings) -> RunShape:
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    sizes = {"prompt_length": 8, "completion_length": 8, "microbatch_rows": 2, "microbatches": 2, "lora": lora}
    return RunShape("dapo", config(layers), **{**sizes, **settings})


def test_a_4bit_matrix_of_512_by_64_has_512_blocks():
    # 32768 weights: 16384 bytes. 512 blocks of 64. Simple: 512 float32 and the table of 16 float32: 2048 + 64.
    # Double: 512 bytes, 512 / 256 = 2 float32, an offset, tables of 256 and of 16 float32: 512 + 8 + 4 + 1024 + 64.
    assert bytes_4bit(512 * 64, double=False) == (16384, 2112)
    assert bytes_4bit(512 * 64, double=True) == (16384, 1612)


def test_an_8bit_matrix_has_a_scale_per_row():
    assert bytes_8bit(512, 64) == (32768, 2048)


def test_adamw_has_two_numbers_per_number_of_an_adapter():
    # r 16 on 576 -> 1536: 16 x (576 + 1536) = 33792 numbers; two float32 each: 270336 bytes.
    # In 8 bits: A has 9216 = 36 blocks of 256, B has 24576 = 96: 2 x (9216 + 144 + 24576 + 384) = 68640.
    shapes = [(16, 576), (1536, 16)]
    assert state_bytes("adamw_torch", shapes) == 270336
    assert state_bytes("adamw_8bit", shapes) == 68640
    assert state_bytes("sgd", shapes) == 0
    # Rows and columns of each: 4 x (16 + 576 + 1536 + 16)
    assert state_bytes("adafactor", shapes) == 8576


def test_small_tensors_stay_in_float32_in_8bit_optimizers():
    assert state_bytes("adamw_8bit", [(16, 64)]) == 2 * 4 * 1024


def test_the_cache_has_the_heads_of_keys_and_values():
    # Qwen2.5-7B: 28 layers, 4 heads of 128, keys and values, 2 bytes: 57344 bytes a token
    traced = TracedModel(RunShape("dapo", known_config("Qwen/Qwen2.5-7B"), dtype="bfloat16", compute_dtype="bfloat16"))
    assert traced.cache_bytes(3, 10) == 30 * 57344


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
        ("HuggingFaceTB/SmolLM2-1.7B", 1_711_376_384),
    ],
)
def test_known_models_have_the_published_number_of_parameters(name, parameters):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(known_config(name))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_an_unknown_model_has_no_configuration():
    assert known_config("nobody/nothing") is None


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_that_were_not_traced_count_as_those_that_were(monkeypatch, checkpointing):
    given = shape(layers=6, gradient_checkpointing=checkpointing)
    planned = plan_memory(given, "cpu")
    monkeypatch.setattr("trl_dapo.planning.traced_step.DEPTHS", (5, 6))
    monkeypatch.setattr("trl_dapo.planning.memory._MODELS", {})
    assert plan_memory(given, "cpu").bytes == planned.bytes


def test_weights_of_a_quantized_model_are_the_packed_ones():
    # A layer: q and o 32 x 32, k and v 16 x 32, three of 64 x 32: 9216 weights; embeddings: 64 x 32 float32;
    # five norms of 32 float32; two tables of rotary frequencies, 4 float32 each
    weights = TracedModel(shape(quantization="4bit")).weights
    assert weights.base == 2 * 9216 // 2 + 4 * (64 * 32 + 5 * 32 + 2 * 4)


def test_the_larger_run_needs_more():
    def size(**settings):
        return plan_memory(shape(**settings)).bytes

    assert size(microbatch_rows=4) > size()
    assert size(completion_length=64) > size()
    assert size(gradient_checkpointing=True, completion_length=64) < size(completion_length=64)
    assert size(optimizer="sgd") < size()


# The model of `config()`: embeddings 64 x 32, two layers of 9216, five norms of 32, all float32; tables of 32 bytes
PARAMETERS = 4 * (64 * 32 + 2 * 9216 + 5 * 32)
TABLES = 32


def items_of(phase: str, **settings) -> dict[str, int]:
    device = settings.pop("device", "cpu")
    phases = {one.name: one for one in plan_memory(shape(**settings), device).phases}
    return {item.name: item.bytes for item in phases[phase].items}


def test_weights_and_optimizer_of_full_fine_tuning():
    items = items_of("update", lora=None)
    assert items["weights"] == PARAMETERS + TABLES
    assert items["optimizer state"] == 2 * PARAMETERS


def test_deeper_models_have_a_layer_more_each():
    # Layers beyond the three that are traced: 9216 weights and two norms each
    layer = 4 * (9216 + 2 * 32)
    items = items_of("update", lora=None, layers=7)
    assert items["weights"] == PARAMETERS + TABLES + 5 * layer
    assert items["optimizer state"] == 2 * (PARAMETERS + 5 * layer)


def test_a_reference_is_a_model_or_an_adapter_more():
    assert items_of("load", lora=None, reference="model")["reference model"] == PARAMETERS + TABLES
    items = items_of("load", reference="adapter_copy")
    # r 4: q and o 4 x 64 each, k and v 4 x 48, three of 4 x 96; two layers
    assert items["reference adapter"] == items["adapter"] == 4 * 2 * 4 * (2 * 64 + 2 * 48 + 3 * 96)


def test_a_critic_is_trained_too():
    # Its head is one row of 32 in place of the policy's, which is tied and weighs nothing
    items = items_of("update", lora=None, critic="model")
    assert items["critic"] == PARAMETERS + TABLES + 4 * 32
    assert items["optimizer state"] == 4 * PARAMETERS
    assert items["gradients"] >= PARAMETERS


def test_a_critic_has_no_head_of_the_vocabulary():
    untied = config()
    untied.tie_word_embeddings = False
    given = RunShape("ppo", untied, critic="model")
    items = {item.name: item.bytes for item in plan_memory(given, "cpu").phases[0].items}
    # The policy has a head of 64 x 32 beside its embeddings, the critic one row
    assert items["weights"] == PARAMETERS + TABLES + 8192
    assert items["critic"] == PARAMETERS + TABLES + 4 * 32


@pytest.mark.parametrize(
    ("algorithm", "kind", "more"), [("dapo", "update", 0), ("dpo", "dpo", 0), ("reward", "reward", 4 * 32)]
)
def test_a_pass_leaves_the_gradients_of_all_that_is_trained(algorithm, kind, more):
    # A reward model's head is a row of 32 more; where gradients lie already, they are added to and none is new
    given = replace(shape(lora=None), algorithm=algorithm)
    left = [TracedModel(given).peaks(Pass(kind, 2, 8, 8, "cpu", waits))["end"] for waits in (False, True)]
    assert [one.gradients for one in left] == [PARAMETERS + more, 0]


def test_gradients_wait_where_they_are_accumulated():
    once, twice = (items_of("update", lora=None, microbatches=count) for count in (1, 2))
    assert sum(twice.values()) > sum(once.values())


def test_a_rollout_is_ids_masks_and_log_probs():
    # 4 rows of 8 + 8 tokens: id and mask, 16 bytes; of a completion's token mask, two log-probs, 16 more
    assert items_of("update", round_rows=4, chunk_rows=4)["rollout"] == 4 * (16 * 16 + 16 * 8)


def test_a_limit_of_tokens_is_a_limit_of_rows():
    limited = plan_memory(shape(microbatch_tokens=32, microbatch_rows=99), "cpu")
    assert limited.bytes == plan_memory(shape(microbatch_rows=2), "cpu").bytes


def test_a_gpu_loses_a_context_and_fragments():
    given = shape(round_rows=4, chunk_rows=4)
    plan = plan_memory(given)
    assert plan.bytes == int(1.05 * plan.peak.bytes)
    assert plan.peak.bytes - plan_memory(given, context=0).peak.bytes == 2**29
    assert "device context" not in items_of("update")


def test_the_largest_matrix_is_whole_while_it_is_quantized():
    # 64 x 32 in float32; in 16 bits half of it
    assert items_of("load", quantization="4bit")["weight being quantized"] == 8192
    assert items_of("load", quantization="4bit", dtype="bfloat16")["weight being quantized"] == 4096


def test_an_update_needs_two_temporary_tensors_of_the_largest_parameter():
    # 4 x 1536 x 16 bytes twice on the CPU; all parameters at once on a GPU: 4 x (9216 + 24576)
    shapes = [(16, 576), (1536, 16)]
    assert step_bytes("adamw_torch", shapes, "cpu") == 196608
    assert step_bytes("adamw_torch", shapes, "cuda") == 135168
    assert step_bytes("adamw_torch_fused", shapes, "cuda") == 0


def test_checkpointing_changes_no_generation():
    plain, checkpointed = (
        items_of("generate", round_rows=4, chunk_rows=4, gradient_checkpointing=on) for on in (False, True)
    )
    assert plain == checkpointed


def test_live_bytes_counts_a_storage_once_and_until_it_is_gone():
    weight = torch.nn.Parameter(torch.zeros(256))
    there = torch.zeros(256)
    with LiveBytes([weight], vocabulary=16) as live:
        live.ignore(there)
        one = weight.detach() + there  # 1024 bytes
        view = one.detach().view(16, 16)
        assert live.bytes == 1024
        two = view * 2
        del one, view
        assert live.bytes == 1024
        live.enter("second")
        # Peaks stay when less is alive
        del two
        live.enter("second")
        assert live.bytes == 0
    assert live.peaks["forward"].bytes == 2048
    # Sixteen columns or more are logits
    assert (live.peaks["second"].bytes, live.peaks["second"].logits) == (1024, 1024)
