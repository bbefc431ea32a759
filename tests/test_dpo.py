"""Preference optimization: TRL's with a reference, and what is left of it without one."""

import math
from dataclasses import fields

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.nn.functional import logsigmoid
from transformers import TrainerCallback, set_seed
from trl import DPOConfig as HostConfig
from trl import DPOTrainer as HostTrainer
from trl.trainer import dpo_trainer as host_module

from preferences import chats, lora_a, nf4, pairs, preference_args, saved
from tiny import snapshot, tiny_lora, tiny_model, tiny_tokenizer
from training import assert_same_tensors
from trl_dapo import DPOConfig, DPOTrainer
from trl_dapo.dpo.config import REFERENCE_FREE_LOSSES


REFUSED = (
    "ipo",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    return saved(tmp_path_factory.mktemp("base"), tiny_model(tokenizer, hidden=64), tokenizer)


def build(tmp_path, base, cls=DPOTrainer, config=DPOConfig, dataset=None, **kwargs):
    settings = {name: kwargs.pop(name) for name in list(kwargs) if name in config.__dataclass_fields__}
    set_seed(0)  # before 1.15, TRL starts an adapter from whatever random numbers come next
    return cls(
        base,
        args=preference_args(config, tmp_path, **settings),
        train_dataset=pairs() if dataset is None else dataset,
        processing_class=kwargs.pop("processing_class", None) or tiny_tokenizer(),
        **kwargs,
    )


def logged(trainer, name):
    return [log[name] for log in trainer.state.log_history if name in log]


def log_probabilities(model, batch):
    """Of completions, summed: from the whole logits, unlike the host's fused head."""
    with torch.no_grad():
        logits = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    chosen = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    return (chosen * batch["completion_mask"][:, 1:]).sum(1).chunk(2)


def first_batch(trainer):
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


# ---------------------------------------------------------------------------------------------------- with a reference


@pytest.mark.parametrize(
    ("dataset", "settings"),
    [
        (pairs, {}),
        (chats, {"peft_config": tiny_lora()}),
        (pairs, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
        (pairs, {"precompute_ref_log_probs": True}),
        (chats, {"ld_alpha": 0.5, "loss_type": "ipo"}),
    ],
)
def test_with_a_reference_it_is_trl_bit_for_bit(tmp_path, base, dataset, settings):
    runs = []
    for cls, config in ((HostTrainer, HostConfig), (DPOTrainer, DPOConfig), (DPOTrainer, HostConfig)):
        trainer = build(tmp_path, base, cls, config, dataset=dataset(), **settings)
        trainer.train()
        runs.append(trainer)
    for trainer in runs[1:]:
        for name in ("loss", "grad_norm", "rewards/margins", "logps/chosen"):
            assert logged(trainer, name) == logged(runs[0], name)
        assert_same_tensors(snapshot(trainer.model), snapshot(runs[0].model))


def test_on_a_quantized_base_with_bfloat16_adapters_it_is_trl_bit_for_bit(tmp_path, base):
    settings = {"peft_config": tiny_lora(), "quantization_config": nf4(), "bf16": True, "max_steps": 2}
    runs = []
    for cls, config, own in (
        (HostTrainer, HostConfig, {}),
        (DPOTrainer, DPOConfig, {"adapter_dtype": "bfloat16"}),
    ):
        trainer = build(tmp_path, base, cls, config, **settings, **own)
        trainer.train()
        runs.append((logged(trainer, "loss"), snapshot(trainer.model)))
    assert runs[0][0] == runs[1][0]
    assert_same_tensors(runs[0][1], runs[1][1])


def test_every_default_is_trls():
    ours = {own.name: (own.default, own.default_factory) for own in fields(DPOConfig)}
    host = {own.name: (own.default, own.default_factory) for own in fields(HostConfig)}
    assert {name: ours[name] for name in host} == host
    assert set(ours) - set(host) == {"reference_free", "adapter_dtype"}


# ------------------------------------------------------------------------------------------------- without a reference


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("peft", [False, True])
def test_the_loss_is_minus_log_sigmoid_of_the_difference(tmp_path, base, peft, stream):
    dataset = pairs().to_iterable_dataset() if stream else pairs()
    trainer = build(
        tmp_path,
        base,
        dataset=dataset,
        reference_free=True,
        beta=0.3,
        eval_dataset=pairs(4),
        peft_config=tiny_lora() if peft else None,
    )
    batch = first_batch(trainer)
    chosen, rejected = log_probabilities(trainer.model, batch)
    expected = -logsigmoid(0.3 * (chosen - rejected)).mean()
    trainer.model.train()
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    assert trainer.ref_model is None
    trainer.train()
    trainer.evaluate()
    trainer.evaluate(pairs(6))  # rows that the constructor has not seen
    assert logged(trainer, "loss")[0] == pytest.approx(expected.item(), rel=1e-4)


def test_the_losses_by_hand(tmp_path, base):
    # log pi(y+|x) = -2, log pi(y-|x) = -3, beta 0.5. Without a reference delta = 0.5 * 1 and the loss is
    # log(1 + e^-0.5) = 0.4740770. With reference log-probabilities -1 and -4 the ratios are -1 and 1,
    # delta = 0.5 * -2 = -1 and the loss is log(1 + e) = 1.3132617. Implicit advantages 1 - sigmoid(0.5) = 0.3775407
    # and 1 - sigmoid(-1) = 0.7310586.
    for free, loss, advantage in ((True, 0.4740770, 0.3775407), (False, 1.3132617, 0.7310586)):
        settings = {} if free else {"precompute_ref_log_probs": True}
        trainer = build(tmp_path, base, reference_free=free, beta=0.5, **settings)
        batch = {
            "input_ids": torch.full((2, 3), 20),
            "attention_mask": torch.ones(2, 3, dtype=torch.long),
            "completion_mask": torch.tensor([[0, 1, 1], [0, 1, 1]]),
        }
        if not free:
            batch |= {"ref_chosen_logps": torch.tensor([-1.0]), "ref_rejected_logps": torch.tensor([-4.0])}
        assert trainer.compute_loss(scripted([[-1.5, -0.5], [-1.0, -2.0]]), batch).item() == pytest.approx(
            loss, rel=1e-6
        )
        metrics = trainer._metrics["train" if trainer.model.training else "eval"]
        assert metrics["implicit_advantage/mean"] == [pytest.approx(advantage, rel=1e-6)]
        assert metrics["implicit_advantage/frac_below_0.05"] == [0.0]


def scripted(log_probs):
    """A model that gives token 20 these log-probabilities, shape `(2, T)`, and token 0 the rest."""
    values = torch.tensor(log_probs)
    distribution = torch.full((2, values.shape[1] + 1, 21), -60.0)
    distribution[:, :-1, 20] = values
    distribution[:, :-1, 0] = torch.log(-torch.expm1(values))

    class Output(dict):
        logits = distribution  # of TRL before 1.14, which has no fused head
        log_probs = values
        entropy = mean_logits = torch.zeros_like(values)
        is_top1 = torch.zeros_like(values, dtype=torch.bool)

    return lambda **kwargs: Output()


def test_the_fraction_of_small_advantages_by_hand(tmp_path, base):
    # Margins 4, 2, 0 and -4 with beta 1: advantages 0.018, 0.119, 0.5 and 0.982, one of four below 0.05
    trainer = build(tmp_path, base)
    trainer._log_advantages(torch.tensor([4.0, 2.0, 0.0, -4.0]))
    metrics = trainer._metrics["train" if trainer.model.training else "eval"]
    assert metrics["implicit_advantage/frac_below_0.05"] == [0.25]
    expected = (1 / (1 + math.e**4) + 1 / (1 + math.e**2) + 0.5 + 1 / (1 + math.e**-4)) / 4
    assert metrics["implicit_advantage/mean"] == [pytest.approx(expected)]


def test_what_is_logged_is_of_the_pairs_and_their_margins(tmp_path, base):
    trainer = build(tmp_path, base, reference_free=True, beta=1.0, eval_dataset=pairs(4))
    batch = first_batch(trainer)
    chosen, rejected = log_probabilities(trainer.model, batch)
    trainer.train()
    assert logged(trainer, "implicit_advantage/mean")[0] == pytest.approx(
        torch.sigmoid(rejected - chosen).mean().item(), rel=1e-4
    )
    assert "eval_implicit_advantage/mean" in trainer.evaluate()
    assert "gather" not in vars(trainer.accelerator)


@pytest.mark.parametrize("peft", [False, True])
def test_no_reference_model_is_loaded(tmp_path, base, monkeypatch, peft):
    loaded = []
    host = host_module.create_model_from_path

    def counted(*args, **kwargs):
        loaded.append(args)
        return host(*args, **kwargs)

    monkeypatch.setattr(host_module, "create_model_from_path", counted)
    trainer = build(tmp_path, base, reference_free=True, peft_config=tiny_lora() if peft else None)
    forwards = []
    trainer.model.register_forward_hook(lambda *args: forwards.append(1))
    trainer.train()
    assert len(loaded) == 1
    assert trainer.ref_model is None
    assert len(forwards) == 3  # one a step
    assert not trainer.args.precompute_ref_log_probs


def test_no_copy_of_a_trained_adapter_is_kept(tmp_path, base):
    tokenizer = tiny_tokenizer()
    model = get_peft_model(tiny_model(tokenizer), tiny_lora())
    trainer = build(tmp_path, model, reference_free=True)
    assert set(trainer.model.peft_config) == {"default"}
    trainer.train()
    trainer.save_model(tmp_path / "model")
    assert not any(path.is_dir() for path in (tmp_path / "model").iterdir())


def test_the_same_without_a_reference_and_with_a_constant_one(tmp_path, base):
    # A reference that says nothing: every completion has the same log-probability
    trainer = build(tmp_path, base, reference_free=True)
    trainer.train()
    given = pairs()
    host = build(tmp_path, base, HostTrainer, HostConfig, dataset=given, precompute_ref_log_probs=True)
    zeros = [0.0] * len(given)
    host.train_dataset = host.train_dataset.remove_columns(["ref_chosen_logps", "ref_rejected_logps"])
    host.train_dataset = host.train_dataset.add_column("ref_chosen_logps", zeros)
    host.train_dataset = host.train_dataset.add_column("ref_rejected_logps", zeros)
    host.train()
    assert logged(trainer, "loss") == logged(host, "loss")
    assert_same_tensors(snapshot(trainer.model), snapshot(host.model))


@pytest.mark.parametrize("loss", REFERENCE_FREE_LOSSES)
def test_losses_that_need_no_reference_train(tmp_path, base, loss):
    trainer = build(tmp_path, base, reference_free=True, loss_type=loss, max_steps=1)
    before = snapshot(trainer.model)
    trainer.train()
    assert math.isfinite(logged(trainer, "loss")[0])
    assert not torch.equal(snapshot(trainer.model)["lm_head.weight"], before["lm_head.weight"])


@pytest.mark.parametrize("loss", REFUSED)
def test_losses_that_need_a_reference_are_refused_by_name(tmp_path, loss):
    with pytest.raises(ValueError, match=rf"loss_type='{loss}' compares with a reference model"):
        preference_args(DPOConfig, tmp_path, reference_free=True, loss_type=["sigmoid", loss])


def test_every_loss_of_the_host_is_either_taken_or_refused():
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(host_module))
    compared = {
        node.comparators[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Name)
        and node.left.id == "loss_type"
        and isinstance(node.comparators[0], ast.Constant)
    }
    assert compared == {*REFERENCE_FREE_LOSSES, *REFUSED}


@pytest.mark.parametrize(
    ("name", "value"),
    [("precompute_ref_log_probs", True), ("sync_ref_model", True), ("f_divergence_type", "js_divergence")],
)
def test_fields_about_the_reference_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name}={value!r} is about the reference model"):
        preference_args(DPOConfig, tmp_path, reference_free=True, **{name: value})


def test_a_reference_model_is_refused_without_reference(tmp_path, base):
    model = tiny_model(tiny_tokenizer(), hidden=64)
    with pytest.raises(ValueError, match="`ref_model` was given, and reference_free=True uses none"):
        build(tmp_path, base, reference_free=True, ref_model=model)


# -------------------------------------------------------------------------------------------------------------- resume


class _Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("kind", "free"), [("whole", False), ("whole", True), ("lora", True), ("nf4", False)])
def test_a_killed_run_resumes_to_the_same_end(tmp_path, base, kind, free):
    settings = {
        "whole": {},
        "lora": {"peft_config": tiny_lora()},
        "nf4": {"peft_config": tiny_lora(), "quantization_config": nf4()},
    }[kind]

    def make(folder, **kwargs):
        return build(
            folder, base, max_steps=6, save_strategy="steps", save_steps=2, reference_free=free, **settings, **kwargs
        )

    whole = make(tmp_path / "whole")
    whole.train()
    killed = make(tmp_path / "killed", callbacks=[_Kill()])
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = make(tmp_path / "killed")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert_same_tensors(snapshot(resumed.model), snapshot(whole.model))
    assert logged(resumed, "loss") == logged(whole, "loss")
    assert logged(resumed, "implicit_advantage/mean") == logged(whole, "implicit_advantage/mean")


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.rename_column("rejected", "bad"), r"no column 'rejected'; its columns are \['bad', 'chosen'"),
        (lambda d: d.select([]), "The train dataset has no rows"),
        (lambda d: d.remove_columns("chosen").add_column("chosen", ["1"] * 15 + [None]), r"Row 15.*'chosen' is None"),
    ],
)
def test_bad_rows_are_named(tmp_path, base, change, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, base, dataset=change(pairs()))
    assert not any(tmp_path.iterdir())


def test_an_empty_text_is_a_completion_that_ends_at_once(tmp_path, base):
    trainer = build(tmp_path, base, dataset=pairs().remove_columns("chosen").add_column("chosen", [""] * 16))
    assert trainer.train_dataset[0]["chosen_ids"] == [trainer.processing_class.eos_token_id]
    trainer.train()


def test_messages_without_a_completion_are_refused(tmp_path, base):
    rows = chats().to_list()
    rows[3]["chosen"] = []
    with pytest.raises(ValueError, match=r"Row 3 of the train dataset: 'chosen' is an empty list"):
        build(tmp_path, base, dataset=type(chats()).from_list(rows))


def test_another_tokenizer_is_refused(tmp_path, base):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["0+1"])
    with pytest.raises(ValueError, match=r"token id 108, and the model has 108 embeddings"):
        build(tmp_path, base, processing_class=tokenizer).train()


def test_a_completion_that_truncation_leaves_nothing_of_is_named(tmp_path, base):
    trainer = build(tmp_path, base)
    batch = first_batch(trainer)
    batch["completion_mask"][1] = 0
    with pytest.raises(ValueError, match="A completion has no tokens after truncation to max_length=1024"):
        trainer.compute_loss(trainer.model, batch)


@pytest.mark.parametrize("free", [False, True])
def test_log_probabilities_that_are_not_finite_stop_training(tmp_path, base, free):
    trainer = build(tmp_path, base, reference_free=free)
    trainer.model.lm_head.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match=r"log-probabilities of 4 of 4 pairs are not finite at step 0"):
        trainer.train()
    assert "gather" not in vars(trainer.accelerator)


# ------------------------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize("free", [False, True])
def test_the_margin_grows_on_pairs_that_it_was_not_shown(tmp_path, base, free):
    # Chosen completions end in an odd digit and rejected ones in an even one, whatever the sum
    trainer = build(
        tmp_path,
        base,
        dataset=pairs(48),
        eval_dataset=pairs(64).select(range(48, 64)),
        reference_free=free,
        max_steps=40,
        learning_rate=5e-3,
        logging_steps=40,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_rewards/margins"] > before["eval_rewards/margins"] + 0.5
    assert after["eval_rewards/accuracies"] > 0.9
    assert after["eval_implicit_advantage/mean"] < before["eval_implicit_advantage/mean"] - 0.1


def test_an_adapter_on_a_quantized_base_learns_without_a_reference(tmp_path, base):
    trainer = build(
        tmp_path,
        base,
        reference_free=True,
        peft_config=tiny_lora(),
        quantization_config=nf4(),
        gradient_checkpointing=True,
        max_steps=5,
    )
    before = lora_a(trainer.model)
    trainer.train()
    assert isinstance(trainer.model, PeftModel)
    assert not torch.equal(lora_a(trainer.model), before)
    assert logged(trainer, "rewards/margins")[-1] > logged(trainer, "rewards/margins")[0] - 1
