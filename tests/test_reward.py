"""The reward trainer: TRL's training, a head that is trained and saved, and what is logged and saved besides."""

import json
import logging
import math
from functools import partial

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, TrainerCallback
from trl import RewardConfig as HostConfig
from trl import RewardTrainer as HostTrainer

from preferences import chats, nf4, pairs, preference_args, saved, tiny_reward_model
from tiny import snapshot, tiny_lora, tiny_model, tiny_tokenizer
from training import assert_same_tensors
from trl_dapo import RewardConfig, RewardTrainer
from trl_dapo.qlora.one_kernel import keep_one_kernel
from trl_dapo.reward_model.statistics import STATISTICS_FILE, RewardStatistics


OURS = (
    "calibration_error",
    "brier_score",
    "ties",
    "accuracy_chosen_longer",
    "accuracy_chosen_shorter",
    "reward_length_correlation",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a causal model, as reward models start from."""
    tokenizer = tiny_tokenizer()
    return saved(tmp_path_factory.mktemp("base"), tiny_model(tokenizer, hidden=64), tokenizer)


def build(tmp_path, cls=RewardTrainer, config=RewardConfig, model=None, dataset=None, **kwargs):
    fields = {name: kwargs.pop(name) for name in list(kwargs) if name in config.__dataclass_fields__}
    return cls(
        tiny_reward_model() if model is None else model,
        args=preference_args(config, tmp_path, **fields),
        train_dataset=pairs() if dataset is None else dataset,
        processing_class=kwargs.pop("processing_class", None) or tiny_tokenizer(),
        **kwargs,
    )


def logged(trainer, name):
    return [log[name] for log in trainer.state.log_history if name in log]


def rewards(model, rows=None):
    """Rewards of a few fixed rows, of different lengths; id 0 is padding."""
    ids = torch.tensor(rows or [[20, 21, 22, 23], [30, 31, 0, 0], [40, 41, 42, 0]])
    model.config.pad_token_id = 0
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, 0].float()


# ------------------------------------------------------------------------------------------------------ TRL's training


@pytest.mark.parametrize("dataset", [pairs, chats, lambda: pairs().to_iterable_dataset()])
def test_training_is_trls_bit_for_bit(tmp_path, dataset):
    runs = []
    for cls, config in ((HostTrainer, HostConfig), (RewardTrainer, RewardConfig), (RewardTrainer, HostConfig)):
        trainer = build(tmp_path, cls, config, dataset=dataset())
        trainer.train()
        runs.append((logged(trainer, "loss"), logged(trainer, "accuracy"), snapshot(trainer.model)))
    for losses, accuracies, parameters in runs[1:]:
        assert losses == runs[0][0]
        assert accuracies == runs[0][1]
        assert_same_tensors(parameters, runs[0][2])


@pytest.mark.parametrize("quantization", [None, nf4()])
def test_with_an_adapter_training_is_trls_bit_for_bit(base, tmp_path, quantization):
    settings = {"model": base, "quantization_config": quantization, "max_steps": 2, "bf16": quantization is not None}
    runs = []
    for cls, config, task_type, own in (
        (HostTrainer, HostConfig, "SEQ_CLS", {}),
        (RewardTrainer, RewardConfig, "CAUSAL_LM", {"adapter_dtype": "bfloat16"}),
    ):
        trainer = build(tmp_path, cls, config, peft_config=tiny_lora(task_type=task_type), **settings, **own)
        trainer.train()
        runs.append((logged(trainer, "loss"), snapshot(trainer.model)))
    assert runs[0][0] == runs[1][0]
    assert_same_tensors(runs[0][1], runs[1][1])


def test_the_loss_by_hand(tmp_path):
    # Rewards 2 and 0.5 for the chosen, 1 and 0.5 for the rejected: margins 1 and 0, so the loss is
    # (log(1 + e^-1) + log 2) / 2 = (0.3132617 + 0.6931472) / 2 = 0.5032044; Brier ((1 - 0.7310586)^2 + 0.25) / 2.
    trainer = build(tmp_path)
    values = iter([torch.tensor([[2.0], [0.5], [1.0], [0.5]])])

    class Output(dict):
        logits = property(lambda self: self["logits"])

    inputs = {"input_ids": torch.ones(4, 2, dtype=torch.long), "attention_mask": torch.ones(4, 2, dtype=torch.long)}
    loss = trainer.compute_loss(lambda **kwargs: Output(logits=next(values)), inputs)
    assert loss.item() == pytest.approx(0.5032044, rel=1e-6)
    logs = {}
    trainer.log(logs)
    assert logs["brier_score"] == pytest.approx((0.2689414**2 + 0.25) / 2, rel=1e-5)
    assert logs["ties"] == 0.5
    assert trainer._statistics.mean == 1.0


def test_a_plain_config_gets_the_defaults_of_ours(tmp_path):
    trainer = build(tmp_path, config=HostConfig, learning_rate=3e-4)
    assert isinstance(trainer.args, RewardConfig)
    assert (trainer.args.adapter_dtype, trainer.args.learning_rate) == ("float32", 3e-4)


def test_no_config_gets_the_defaults_of_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # TRL's defaults need a GPU
    host = partial(HostConfig, use_cpu=True, bf16=False)
    monkeypatch.setattr("trl.trainer.reward_trainer.RewardConfig", host)
    trainer = RewardTrainer(tiny_reward_model(), train_dataset=pairs(), processing_class=tiny_tokenizer())
    assert isinstance(trainer.args, RewardConfig)
    assert trainer.args.output_dir == "tiny-reward-Reward"


def test_another_config_is_refused(tmp_path):
    from trl import DPOConfig

    with pytest.raises(
        TypeError, match=r"`args` must be a trl_dapo.RewardConfig or trl.RewardConfig, got a DPOConfig"
    ):
        build(tmp_path, config=DPOConfig)


# ------------------------------------------------------------------------------------------------------------ the head


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "CAUSAL_LM", None])
@pytest.mark.parametrize("quantization", [None, nf4()])
def test_the_head_is_trained_saved_and_gives_the_same_rewards(base, tmp_path, task_type, quantization):
    config = tiny_lora(task_type=task_type, target_modules="all-linear")
    trainer = build(
        tmp_path,
        model=base,
        peft_config=config,
        quantization_config=quantization,
        gradient_checkpointing=True,
        bf16=False,
    )
    head = trainer.model.get_base_model().score.modules_to_save["default"].weight
    assert head.requires_grad
    assert head.dtype == torch.float32
    before = head.detach().clone()
    trainer.train()
    assert not torch.equal(head, before)
    trainer.save_model(tmp_path / "model")
    extra = {"quantization_config": quantization} if quantization else {}
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(
        tmp_path / "model", num_labels=1, dtype=torch.float32, **extra
    )
    # In eval mode, some processors would compute 4-bit products by another kernel
    keep_one_kernel(loaded)
    assert torch.equal(rewards(loaded), rewards(trainer.model))
    assert config.task_type == task_type  # the user's own config is as it was


def test_the_forced_task_type_is_logged(base, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="trl_dapo.reward_model.trainer"):
        build(tmp_path, model=base, peft_config=tiny_lora())
    assert "task_type: CAUSAL_LM -> SEQ_CLS" in caplog.text


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_head_is_float32_on_a_bfloat16_base(base, tmp_path, checkpointing):
    trainer = build(
        tmp_path,
        model=base,
        peft_config=tiny_lora(),
        model_init_kwargs={"dtype": "bfloat16"},
        gradient_checkpointing=checkpointing,
        max_steps=1,
    )
    assert trainer.model.get_base_model().score.modules_to_save["default"].weight.dtype == torch.float32
    trainer.train()


def test_an_adapter_without_its_head_is_refused(tmp_path):
    model = get_peft_model(tiny_reward_model(), tiny_lora(task_type=None))
    with pytest.raises(ValueError, match=r"The head 'score' of the model is frozen and not saved.*task_type=None"):
        build(tmp_path, model=model)
    assert not any(tmp_path.iterdir())


def test_a_frozen_head_is_refused(tmp_path):
    model = get_peft_model(tiny_reward_model(), tiny_lora(task_type="SEQ_CLS"))
    model.get_base_model().score.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen and not saved"):
        build(tmp_path, model=model)


def test_an_adapter_with_its_head_is_trained_on(base, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, quantization_config=nf4())
    model = get_peft_model(model, tiny_lora(task_type="SEQ_CLS"))
    before = snapshot(model)
    trainer = build(tmp_path, model=model)
    assert_same_tensors(snapshot(trainer.model), before)
    trainer.train()
    assert not torch.equal(
        trainer.model.get_base_model().score.modules_to_save["default"].weight,
        before["base_model.model.score.modules_to_save.default.weight"],
    )


# ---------------------------------------------------------------------------------------------- metrics and statistics


def test_metrics_are_of_all_rows_since_the_last_log(tmp_path):
    trainer = build(tmp_path, logging_steps=2, max_steps=2, eval_dataset=pairs(10), learning_rate=0.0)
    trainer.train()
    trainer.evaluate()
    assert all(len(logged(trainer, name)) == 1 for name in OURS)
    # Zero learning rate: 8 pairs seen in two batches, so the error of the 8, not the mean of two errors of 4
    found = logged(trainer, "calibration_error")[0]
    assert 0 < found < 1
    assert all(len(logged(trainer, f"eval_{name}")) == 1 for name in OURS)
    assert trainer._pairs == {"train": [], "eval": []}


def test_the_calibration_error_of_an_evaluation_is_that_of_its_rows(tmp_path):
    from trl_dapo.reward_model.calibration import expected_calibration_error

    trainer = build(tmp_path, eval_dataset=pairs(10), per_device_eval_batch_size=3)
    found = trainer.evaluate()
    batches = [trainer._prepare_inputs(batch) for batch in trainer.get_eval_dataloader()]
    margins = []
    for batch in batches:
        chosen, rejected = rewards_of(trainer.model, batch).chunk(2)
        margins.append(chosen - rejected)
    assert len(torch.cat(margins)) == 10
    assert found["eval_calibration_error"] == pytest.approx(expected_calibration_error(torch.cat(margins)), abs=1e-7)


def rewards_of(model, batch):
    with torch.no_grad():
        return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]


def test_mean_and_std_are_saved_with_every_model(tmp_path):
    trainer = build(tmp_path, learning_rate=0.0, max_steps=4, save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model(tmp_path / "model")
    # Zero learning rate, 4 steps of 4 pairs: every completion of the 16 pairs once
    batches = [trainer._prepare_inputs(batch) for batch in trainer.get_train_dataloader()]
    whole = torch.cat([rewards_of(trainer.model, batch) for batch in batches]).double()
    found = RewardStatistics.load(tmp_path / "model")
    assert found.rows == 32
    assert found.mean == pytest.approx(whole.mean().item(), abs=1e-6)
    assert found.std == pytest.approx(whole.std(correction=0).item(), abs=1e-6)
    assert RewardStatistics.load(tmp_path / "checkpoint-2").rows == 16
    assert RewardStatistics.load(tmp_path / "checkpoint-4") == found


def test_nothing_is_saved_of_an_untrained_model(tmp_path):
    build(tmp_path).save_model(tmp_path / "model")
    assert not (tmp_path / "model" / STATISTICS_FILE).exists()


def test_the_best_model_comes_with_its_own_statistics(tmp_path):
    trainer = build(
        tmp_path,
        eval_dataset=pairs(4),
        max_steps=4,
        learning_rate=10.0,  # rises from 0: the last model is not the best
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=4,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
    )
    trainer.train()
    best = RewardStatistics.load(trainer.state.best_model_checkpoint)
    assert trainer._statistics == best
    assert best.rows < 32


# -------------------------------------------------------------------------------------------------------------- resume


class _Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["whole", "lora", "nf4"])
def test_a_killed_run_resumes_to_the_same_end(base, tmp_path, kind):
    settings = {
        "whole": {},
        "lora": {"model": base, "peft_config": tiny_lora()},
        "nf4": {"model": base, "peft_config": tiny_lora(), "quantization_config": nf4()},
    }[kind]

    def make(folder, **kwargs):
        return build(folder, max_steps=6, save_strategy="steps", save_steps=2, **settings, **kwargs)

    whole = make(tmp_path / "whole")
    whole.train()
    killed = make(tmp_path / "killed", callbacks=[_Kill()])
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = make(tmp_path / "killed")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert_same_tensors(snapshot(resumed.model), snapshot(whole.model))
    assert resumed._statistics == whole._statistics
    assert logged(resumed, "loss") == logged(whole, "loss")
    assert logged(resumed, "calibration_error") == logged(whole, "calibration_error")


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.rename_column("chosen", "good"), r"The train dataset has no column 'chosen'.*\['good', 'prompt'"),
        (lambda d: d.select([]), "The train dataset has no rows"),
        (
            lambda d: d.remove_columns("rejected").add_column("rejected", ["1"] * 15 + [None]),
            r"Row 15.*'rejected' is None",
        ),
        (
            lambda d: d.remove_columns("prompt").add_column("prompt", [[{"role": "user", "content": "1"}]] * 16),
            "Row 0",
        ),
        (lambda d: d.add_column("margin", [0.0] * 15 + [math.nan]), r"Row 15.*'margin' is nan"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, dataset=change(pairs()))
    assert not any(tmp_path.iterdir())


def test_bad_rows_of_a_stream_are_named_when_they_come(tmp_path):
    rows = pairs().remove_columns("rejected").add_column("rejected", ["1"] * 15 + [None]).to_iterable_dataset()
    trainer = build(tmp_path, dataset=rows, max_steps=4)
    with pytest.raises(ValueError, match=r"Row 15 of the train dataset: 'rejected' is None"):
        trainer.train()


def test_messages_without_a_completion_are_refused(tmp_path):
    rows = chats().to_list()
    rows[3]["rejected"] = []
    with pytest.raises(ValueError, match=r"Row 3 of the train dataset: 'rejected' is an empty list"):
        build(tmp_path, dataset=type(chats()).from_list(rows))


def test_bad_rows_of_an_evaluation_are_named(tmp_path):
    trainer = build(tmp_path)
    with pytest.raises(ValueError, match="The eval dataset has no column 'chosen'"):
        trainer.evaluate(pairs().remove_columns("chosen"))


def test_an_empty_text_is_a_completion_that_ends_at_once(tmp_path):
    rows = pairs().remove_columns("chosen").add_column("chosen", [""] * 16)
    trainer = build(tmp_path, dataset=rows)
    tokenizer = trainer.processing_class
    assert tokenizer.decode(trainer.train_dataset[0]["chosen_ids"]) == "0+1=<|im_end|>"
    trainer.train()


def test_tokenized_pairs_are_taken(tmp_path):
    from datasets import Dataset

    trainer = build(tmp_path, dataset=Dataset.from_dict({"chosen_ids": [[20, 21]] * 8, "rejected_ids": [[22]] * 8}))
    trainer.train()
    with pytest.raises(ValueError, match=r"Row 1.*'rejected_ids' is an empty list"):
        build(tmp_path, dataset=Dataset.from_dict({"chosen_ids": [[20]] * 2, "rejected_ids": [[22], []]}))


def test_two_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_labels=2"):
        build(tmp_path, model=tiny_reward_model(num_labels=2))


def test_another_tokenizer_is_refused(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["0+1"])
    trainer = build(tmp_path, processing_class=tokenizer)
    with pytest.raises(ValueError, match=r"token id 108, and the model has 108 embeddings"):
        trainer.train()


def test_rewards_that_are_not_finite_stop_training(tmp_path):
    model = tiny_reward_model()
    model.score.weight.data.fill_(math.nan)
    trainer = build(tmp_path, model=model)
    with pytest.raises(ValueError, match=r"not finite in 4 of 4 pairs at step 0.*`learning_rate`"):
        trainer.train()


def test_a_reward_window_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`statistics_window` must be at least 1 row, got 0"):
        preference_args(RewardConfig, tmp_path, statistics_window=0)


# ------------------------------------------------------------------------------------------------------------ learning


def test_it_learns_preferences_that_it_was_not_shown(tmp_path):
    # Chosen completions end in an odd digit and rejected ones in an even one, whatever the sum
    trainer = build(
        tmp_path,
        dataset=pairs(48),
        eval_dataset=pairs(64).select(range(48, 64)),
        max_steps=60,
        learning_rate=1e-2,
        logging_steps=60,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_accuracy"] > 0.9 > before["eval_accuracy"]
    assert after["eval_brier_score"] < 0.1 < before["eval_brier_score"]


def test_the_statistics_file_is_beside_the_weights_of_an_adapter(base, tmp_path):
    trainer = build(tmp_path, model=base, peft_config=tiny_lora(), max_steps=1)
    trainer.train()
    trainer.save_model(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", STATISTICS_FILE} <= names
    assert json.loads((tmp_path / "model" / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    assert isinstance(trainer.model, PeftModel)
