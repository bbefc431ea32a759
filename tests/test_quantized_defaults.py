"""`load_in_4bit` alone is a correct QLoRA run, and what cannot be trained on a quantized base is refused."""

import json
import logging

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from preferences import lora_a, nf4, pairs, preference_args, saved
from tiny import conversational_dataset, plain_dataset, share_reward, tiny_args, tiny_model, tiny_tokenizer
from trl_dapo import (
    DAPOConfig,
    DAPOTrainer,
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    PPOConfig,
    PPOTrainer,
    RewardConfig,
    RewardTrainer,
    four_bit,
)
from trl_dapo.cli import quantized_defaults
from trl_dapo.cli.commands import COMMANDS
from trl_dapo.cli.errors import UsageError
from trl_dapo.cli.main import main
from trl_dapo.cli.script import make_parser
from trl_dapo.qlora import four_bit as setup


ONLINE = [(DAPOTrainer, DAPOConfig), (GRPOTrainer, GRPOConfig), (PPOTrainer, PPOConfig)]
OFFLINE = [(DPOTrainer, DPOConfig), (RewardTrainer, RewardConfig)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("base"), tiny_model(tiny_tokenizer(), hidden=64))


def parsed(*words, command="dapo"):
    """The arguments of a command, as its script parses them."""
    parser = make_parser(COMMANDS[command])
    return parser.parse(["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", "--use_cpu", *words])


# ------------------------------------------------------------------------------------------------------ what is filled


@pytest.mark.parametrize(
    ("command", "task"), [(name, "SEQ_CLS" if name == "reward" else "CAUSAL_LM") for name in COMMANDS]
)
def test_the_flag_alone_is_qlora(command, task):
    arguments = parsed("--load_in_4bit", command=command)
    model = arguments.model_args
    assert (model.use_peft, model.lora_r, model.lora_alpha, model.lora_dropout) == (True, 16, 32, 0.0)
    # The host makes one name of a list of one
    assert model.lora_target_modules == "all-linear"
    assert model.lora_task_type == task
    assert (model.bnb_4bit_quant_type, model.use_bnb_nested_quant, model.dtype) == ("nf4", True, "float32")
    assert (arguments.training_args.bf16, arguments.training_args.fp16) == (False, False)
    (note,) = [line for line in arguments.script_args.notes if line.startswith("load_in_4bit")]
    assert "use_peft=True" in note
    assert "lora_target_modules=all-linear" in note


def test_what_the_user_set_stays():
    words = ["--load_in_4bit", "--lora_r", "4", "--lora_dropout", "0.1", "--lora_target_modules", "q_proj", "v_proj"]
    words += [
        "--bnb_4bit_quant_type",
        "fp4",
        "--dtype",
        "bfloat16",
        "--use_bnb_nested_quant",
        "false",
        "--bf16",
        "true",
    ]
    model = parsed(*words).model_args
    assert (model.lora_r, model.lora_dropout, model.lora_target_modules) == (4, 0.1, ["q_proj", "v_proj"])
    assert (model.bnb_4bit_quant_type, model.dtype, model.use_bnb_nested_quant) == ("fp4", "bfloat16", False)
    assert model.lora_alpha == 32


def test_without_the_flag_nothing_is_filled_in():
    arguments = parsed()
    assert not arguments.model_args.use_peft
    assert arguments.model_args.lora_dropout == 0.05
    assert not [line for line in arguments.script_args.notes if "load_in_4bit" in line]


@pytest.mark.parametrize(
    ("card", "scales", "expected"),
    [
        ("bfloat16", True, {"dtype": "bfloat16", "bf16": True, "fp16": False}),
        ("float16", True, {"dtype": "float16", "bf16": False, "fp16": True}),
        # PPO's critic is not scaled, so float16 would lose its gradients
        ("float16", False, {"dtype": "float32", "bf16": False, "fp16": False}),
        ("float32", True, {"dtype": "float32", "bf16": False, "fp16": False}),
    ],
)
def test_the_card_decides_what_is_computed_in(monkeypatch, card, scales, expected):
    monkeypatch.setattr(quantized_defaults, "card_dtype", lambda use_cpu: card)
    values = {"load_in_4bit": True, "model_name_or_path": "m", "bf16": None, "fp16": False, "dtype": "float32"}
    quantized_defaults.fill_in_quantized(values, set(), scales_losses=scales)
    assert {name: values[name] for name in expected} == expected


def test_a_plan_for_another_machine_does_not_ask_this_one(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    values = {"load_in_4bit": True, "model_name_or_path": "m", "bf16": None, "fp16": False, "dtype": "float32"}
    quantized_defaults.fill_in_quantized(values, set(), elsewhere=True)
    assert (values["dtype"], values["bf16"]) == ("bfloat16", True)


def test_precision_that_was_asked_for_decides_the_dtype():
    values = {"load_in_4bit": True, "model_name_or_path": "m", "bf16": True, "fp16": False, "dtype": "float32"}
    quantized_defaults.fill_in_quantized(values, {"bf16"})
    assert (values["dtype"], values["bf16"], values["fp16"]) == ("bfloat16", True, False)


@pytest.mark.slow
def test_a_file_for_trl_runs_as_it_is(base, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i}+1=", "solution": str(i + 1)}) + "\n" for i in range(8)))
    config = tmp_path / "grpo.yaml"
    config.write_text(
        f"""
model_name_or_path: {base}
datasets:
  - path: json
    data_files: {rows}
reward_funcs: [number]
output_dir: {tmp_path / "run"}
load_in_4bit: true
use_peft: true
lora_r: 4
lora_alpha: 8
lora_target_modules: [q_proj, v_proj]
bnb_4bit_quant_type: nf4
per_device_train_batch_size: 4
num_generations: 4
max_completion_length: 8
max_steps: 1
use_cpu: true
bf16: false
gradient_checkpointing: false
report_to: none
"""
    )
    assert main(["grpo", "--config", str(config)]) == 0
    saved_config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert (saved_config["r"], sorted(saved_config["target_modules"])) == (4, ["q_proj", "v_proj"])
    assert json.loads((tmp_path / "run" / "base_quantization.json").read_text())["load_in_4bit"] is True


# --------------------------------------------------------------------------------------------------------- in a script


@pytest.mark.parametrize(("cls", "config"), ONLINE)
def test_one_line_sets_an_online_trainer_up(base, tmp_path, cls, config):
    args = tiny_args(tmp_path, cls=config, max_steps=2)  # in the first, `lora_B` leaves 0
    trainer = cls(base, share_reward, args, conversational_dataset(), **four_bit(r=4))
    before = lora_a(trainer.model)
    trainer.train()
    assert not torch.equal(before, lora_a(trainer.model))
    quantization = trainer.model.get_base_model().config.quantization_config
    assert (quantization.bnb_4bit_quant_type, quantization.bnb_4bit_use_double_quant) == ("nf4", True)


def test_what_is_computed_in_must_be_a_type(monkeypatch):
    with pytest.raises(ValueError, match=r"`dtype` must be .* got 'int8'"):
        four_bit(dtype="int8")
    assert four_bit(dtype="float16")["quantization_config"].bnb_4bit_compute_dtype == torch.float16
    assert four_bit("SEQ_CLS", lora_dropout=0.1)["peft_config"].lora_dropout == 0.1
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    # A T4: bfloat16 only by emulation
    assert setup.card_dtype() == "float16"
    assert setup.card_dtype(use_cpu=True) == "float32"


# --------------------------------------------------------------------------------------------------- going on from it


def test_an_adapter_goes_on_on_a_4_bit_base_and_the_reference_is_said(base, tmp_path, caplog):
    args = tiny_args(tmp_path / "first", cls=GRPOConfig, max_steps=2, beta=0.1)
    with caplog.at_level(logging.WARNING):
        first = GRPOTrainer(base, share_reward, args, conversational_dataset(), **four_bit(r=4))
    assert "The reference is the base model: the adapter, switched off." in caplog.text
    first.train()
    first.save_model()
    caplog.clear()
    args = tiny_args(tmp_path / "second", cls=GRPOConfig, max_steps=2, beta=0.1)
    with caplog.at_level(logging.WARNING):
        second = GRPOTrainer(
            args.output_dir.replace("second", "first"),
            share_reward,
            args,
            conversational_dataset(),
            quantization_config=four_bit()["quantization_config"],
        )
    assert "The reference is the adapter as it is at the start: a copy, frozen." in caplog.text
    assert second.model.get_base_model().is_loaded_in_4bit
    assert torch.equal(lora_a(second.model), lora_a(first.model))
    assert {one.dtype for one in second.model.parameters() if one.requires_grad} == {torch.float32}
    second.train()
    # At the first step, policy and reference are one model, which the KL divergence says
    assert second.state.log_history[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert not torch.equal(lora_a(second.model), lora_a(first.model))


def test_an_adapter_folder_gets_no_second_adapter(base, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    values = {"load_in_4bit": True, "model_name_or_path": str(tmp_path), "use_peft": False, "lora_dropout": 0.05}
    quantized_defaults.fill_in_quantized(values, {"use_peft"})
    assert (values["use_peft"], values["lora_dropout"]) == (False, 0.05)


# ----------------------------------------------------------------------------------------------------------- bad input


def build(cls, config, base, folder, **kwargs):
    if (cls, config) in OFFLINE:
        return cls(base, args=preference_args(config, folder), train_dataset=pairs(), **kwargs)
    return cls(base, share_reward, tiny_args(folder, cls=config), plain_dataset(), **kwargs)


@pytest.mark.parametrize(("cls", "config"), ONLINE + OFFLINE)
def test_packed_weights_are_not_trained(base, tmp_path, cls, config):
    with pytest.raises(ValueError, match="packed integers cannot be trained: give `peft_config`"):
        build(cls, config, base, tmp_path / "a", quantization_config=nf4())
    if cls is RewardTrainer:
        return
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=nf4())
    with pytest.raises(ValueError, match="packed integers cannot be trained"):
        build(cls, config, model, tmp_path / "b")
    assert not (tmp_path / "a").exists()


def test_full_fine_tuning_in_4_bits_is_refused_on_the_command_line():
    with pytest.raises(UsageError, match="load_in_4bit=True with use_peft=False: 4-bit weights are packed integers"):
        parsed("--load_in_4bit", "--use_peft", "false")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--load_in_8bit"], "load_in_8bit=True without use_peft: 8-bit weights are packed integers"),
        (
            ["--load_in_8bit", "--load_in_4bit"],
            "are two ways to load one model",
        ),
        (["--load_in_4bit", "--lora_target_modules", "lm_head", "q_proj"], "lora_target_modules has 'lm_head'"),
        (["--use_peft", "--lora_target_modules", "q_proj", "embed_out"], "lora_target_modules has 'embed_out'"),
        (["--load_in_4bit", "--lora_modules_to_save", "lm_head"], "lora_modules_to_save has 'lm_head'"),
    ],
)
def test_what_no_adapter_can_be_trained_on_is_refused_on_the_command_line(words, said):
    with pytest.raises(UsageError, match=said):
        parsed(*words)


def test_adapters_on_8_bit_weights_and_beside_the_head_are_taken():
    parsed("--load_in_8bit", "--use_peft")
    parsed("--load_in_4bit", "--lora_target_modules", "q_proj", "head_proj")
    parsed("--lora_target_modules", "lm_head")  # of no adapter


def test_a_reward_models_own_head_is_not_the_one_of_tokens():
    values = {"use_peft": True, "lora_modules_to_save": ["lm_head"]}
    quantized_defaults.check_adapters(values, scores=True)
    with pytest.raises(UsageError, match="lora_modules_to_save has 'lm_head'"):
        quantized_defaults.check_adapters(values)


@pytest.mark.parametrize(("cls", "config"), [*ONLINE, OFFLINE[0]])
@pytest.mark.parametrize("field", ["target_modules", "modules_to_save"])
def test_an_adapter_on_the_head_is_refused_by_name(base, tmp_path, cls, config, field):
    peft_config = LoraConfig(**{"target_modules": ["q_proj"], field: ["lm_head", "q_proj"]}, task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match=f"`{field}` of `peft_config` has 'lm_head'"):
        build(cls, config, base, tmp_path, peft_config=peft_config)


@pytest.mark.parametrize(("dataset", "told"), [(plain_dataset, True), (conversational_dataset, False)])
def test_plain_prompts_for_a_chat_model_are_told(base, tmp_path, caplog, dataset, told):
    with caplog.at_level(logging.WARNING):
        GRPOTrainer(base, share_reward, tiny_args(tmp_path, cls=GRPOConfig), dataset())
    assert ("The prompts are plain text, and the tokenizer has a chat template" in caplog.text) == told


@pytest.mark.parametrize(("tokens", "told"), [(2, True), (400, False)])
def test_a_first_rollout_that_is_cut_is_told_once(base, tmp_path, caplog, tokens, told):
    args = tiny_args(tmp_path, cls=GRPOConfig, max_steps=2, max_completion_length=tokens, seed=3)
    trainer = GRPOTrainer(base, share_reward, args, conversational_dataset())
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert caplog.text.count("of the first completions were truncated") == int(told)
