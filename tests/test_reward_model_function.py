"""Reward models as reward functions: the same rewards as in training, in chunks, from any folder, in any trainer."""

import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from trl import GRPOTrainer

from preferences import chats, nf4, pairs, preference_args, saved, tiny_reward_model
from tiny import (
    conversational_dataset,
    plain_dataset,
    tiny_args,
    tiny_lora,
    tiny_model,
    tiny_tokenizer,
)
from training import dapo_args
from trl_dapo import DAPOTrainer, RewardConfig, RewardModelFunction, RewardTrainer
from trl_dapo.reward_model.statistics import RewardStatistics


PROMPTS = [f"{i}+{i + 1}=" for i in range(5)]
COMPLETIONS = ["1", "3 yes, it is", "", "7" * 9, "10"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    return saved(tmp_path_factory.mktemp("base"), tiny_model(tokenizer, hidden=64), tokenizer)


def trained(folder, base=None, dataset=None, seed=0, **kwargs):
    """A folder with a reward model of two steps, and its trainer."""
    trainer = RewardTrainer(
        base or tiny_reward_model(seed=seed),
        args=preference_args(RewardConfig, folder, max_steps=2, learning_rate=1e-2, seed=seed),
        train_dataset=dataset or pairs(),
        processing_class=tiny_tokenizer(),
        **kwargs,
    )
    trainer.train()
    trainer.save_model(folder)
    return str(folder), trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("whole"))[0]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, base):
    """Two adapters of one base."""
    return [
        trained(tmp_path_factory.mktemp(f"adapter{seed}"), base, seed=seed, peft_config=tiny_lora())[0]
        for seed in (0, 1)
    ]


def in_training(trainer, column="chosen"):
    """The rewards that the trainer's own model gives its own rows, one at a time."""
    ids = [torch.tensor([row[f"{column}_ids"]]) for row in trainer.train_dataset]
    with torch.no_grad():
        model = trainer.model.eval()
        return [model(input_ids=row, attention_mask=torch.ones_like(row)).logits.item() for row in ids]


# --------------------------------------------------------------------------------------------- the rewards of training


@pytest.mark.parametrize("dataset", [pairs, chats])
@pytest.mark.parametrize("kind", ["whole", "lora", "nf4"])
def test_rewards_are_those_of_the_trained_model(base, tmp_path, kind, dataset):
    settings = {
        "whole": {},
        "lora": {"base": base, "peft_config": tiny_lora()},
        "nf4": {"base": base, "peft_config": tiny_lora(), "quantization_config": nf4()},
    }[kind]
    folder, trainer = trained(tmp_path / "model", dataset=dataset(), **settings)
    function = RewardModelFunction(folder, chunk_size=1, quantization_config=nf4() if kind == "nf4" else None)
    rows = dataset()
    for column in ("chosen", "rejected"):
        assert function(rows["prompt"], rows[column]) == in_training(trainer, column)


def test_a_float32_head_is_kept_on_a_bfloat16_base(base, tmp_path):
    args = preference_args(RewardConfig, tmp_path, max_steps=1, model_init_kwargs={"dtype": "bfloat16"})
    trainer = RewardTrainer(
        base, args=args, train_dataset=pairs(), processing_class=tiny_tokenizer(), peft_config=tiny_lora()
    )
    trainer.train()
    trainer.save_model(tmp_path / "model")
    function = RewardModelFunction(tmp_path / "model", chunk_size=1, model_init_kwargs={"dtype": "bfloat16"})
    assert function(pairs()["prompt"], pairs()["chosen"]) == in_training(trainer)
    head = function._models_loaded()[0].model.get_base_model().score.modules_to_save["reward_0"]
    assert torch.equal(head.weight, trainer.model.get_base_model().score.modules_to_save["default"].weight)


def test_a_loaded_peft_model_scores(adapters, base):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model = PeftModel.from_pretrained(model, adapters[0])
    function = RewardModelFunction(model.train(), processing_class=tiny_tokenizer())
    assert function(PROMPTS, COMPLETIONS) == RewardModelFunction(adapters[0])(PROMPTS, COMPLETIONS)
    assert not model.training


# -------------------------------------------------------------------------------------------------------------- chunks


def test_a_call_never_holds_more_than_a_chunk(whole, monkeypatch):
    function = RewardModelFunction(whole, chunk_size=16)
    model = function._models_loaded()[0].model
    shapes, forward = [], model.forward

    def recorded(input_ids, attention_mask):
        shapes.append(input_ids.shape)
        return forward(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(model, "forward", recorded)
    completions = ["1" * (i % 40) for i in range(512)]
    found = function(["1+1="] * 512, completions)
    assert [rows for rows, _ in shapes] == [16] * 32
    # Rows of like length go together, hence hardly any padding
    assert sum(rows * tokens for rows, tokens in shapes) <= 1.05 * sum(len(text) + 5 for text in completions)
    one = RewardModelFunction(whole, chunk_size=1)
    assert found[:40] == pytest.approx(one(["1+1="] * 40, completions[:40]), abs=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 100])
def test_chunks_do_not_matter(whole, chunk_size):
    found = RewardModelFunction(whole, chunk_size=chunk_size)(PROMPTS, COMPLETIONS)
    assert found == pytest.approx(RewardModelFunction(whole)(PROMPTS, COMPLETIONS), abs=1e-6)


def test_no_completions_have_no_rewards(whole):
    assert RewardModelFunction(whole)([], []) == []


def test_longer_rows_keep_their_end(whole):
    function = RewardModelFunction(whole, max_length=4)
    assert function._token_ids(0, ["0+1="], ["23"], {}) == [tiny_tokenizer()("=23<|im_end|>")["input_ids"]]
    assert function(["0+1="], ["23"]) == function(["99999="], ["23"])


# ------------------------------------------------------------------------------------ normalised, clipped, an ensemble


def test_normalised_with_the_saved_statistics(whole):
    raw = RewardModelFunction(whole)(PROMPTS, COMPLETIONS)
    found = RewardModelFunction(whole, normalize=True)(PROMPTS, COMPLETIONS)
    statistics = RewardStatistics.load(whole)
    assert found == pytest.approx([(reward - statistics.mean) / statistics.std for reward in raw])


def test_normalised_with_given_statistics_and_clipped(whole):
    raw = RewardModelFunction(whole)(PROMPTS, COMPLETIONS)
    function = RewardModelFunction(whole, normalize=True, statistics=RewardStatistics(raw[0], 1e-6, 5), clip=2.0)
    found = function(PROMPTS, COMPLETIONS)
    assert found[0] == pytest.approx(0, abs=0.5)
    assert found[1:] == [math.copysign(2.0, reward - raw[0]) for reward in raw[1:]]


def test_an_ensemble_by_hand(whole, tmp_path):
    # Rewards r and r + 3 of two models: mean r + 1.5, std (population) 1.5; less two std: r - 1.5
    shifted = tiny_reward_model()
    plain = tiny_reward_model()
    forward = shifted.forward

    def moved(**kwargs):
        output = forward(**kwargs)
        output.logits = output.logits + 3
        return output

    shifted.forward = moved
    raw = RewardModelFunction(plain, tiny_tokenizer())(PROMPTS, COMPLETIONS)
    function = RewardModelFunction([plain, shifted], tiny_tokenizer(), uncertainty_penalty=2.0)
    logged = {}
    found = function(PROMPTS, COMPLETIONS, log_metric=logged.__setitem__)
    assert found == pytest.approx([reward - 1.5 for reward in raw], abs=1e-6)
    assert logged == {"reward_ensemble/std": pytest.approx(1.5)}


def test_adapters_of_one_base_share_it(adapters, base):
    both = RewardModelFunction(adapters)
    one, other = (RewardModelFunction(adapter)(PROMPTS, COMPLETIONS) for adapter in adapters)
    assert one != other
    assert both(PROMPTS, COMPLETIONS) == pytest.approx([(a + b) / 2 for a, b in zip(one, other, strict=True)])
    first, second = both._models_loaded()
    assert first.model is second.model
    assert sum("base_layer.weight" in name for name, _ in first.model.named_parameters()) == 2  # q_proj and v_proj


def test_a_base_can_be_given(adapters, base):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    given = RewardModelFunction(adapters[0], base=model)
    assert given(PROMPTS, COMPLETIONS) == RewardModelFunction(adapters[0])(PROMPTS, COMPLETIONS)
    assert given._models_loaded()[0].model.get_base_model() is model


def test_four_bit_weights(adapters):
    function = RewardModelFunction(adapters, quantization_config=nf4())
    function(PROMPTS, COMPLETIONS)
    assert function._models_loaded()[0].model.is_loaded_in_4bit


# --------------------------------------------------------------------------------------------- what a function must be


def test_names(whole, adapters):
    assert RewardModelFunction(whole).__name__ == Path(whole).name
    assert RewardModelFunction(f"{whole}/").__name__ == Path(whole).name
    assert RewardModelFunction(adapters).__name__ == "reward_ensemble"
    assert RewardModelFunction(tiny_reward_model(), tiny_tokenizer()).__name__ == "tiny-reward"
    assert RewardModelFunction(whole, name="helpful").__name__ == "helpful"


def test_it_can_be_pickled_before_and_after_use(whole):
    function = RewardModelFunction(whole, clip=0.01)
    before = pickle.loads(pickle.dumps(function))
    expected = function(PROMPTS, COMPLETIONS)
    after = pickle.loads(pickle.dumps(function))
    assert after._loaded is None
    for other in (before, after, copy.deepcopy(function)):
        assert other(PROMPTS, COMPLETIONS) == expected
        assert other.__name__ == function.__name__


def test_scoring_leaves_no_gradients_and_no_random_state(whole):
    function = RewardModelFunction(whole)
    state = torch.get_rng_state()
    function(PROMPTS, COMPLETIONS)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in function._models_loaded()[0].model.parameters())


def test_a_model_in_training_mode_is_put_in_eval_mode():
    model = tiny_reward_model()
    model.model.layers[0].self_attn.attention_dropout = 0.5
    function = RewardModelFunction(model, tiny_tokenizer())
    first = function(PROMPTS, COMPLETIONS)
    model.train()
    assert function(PROMPTS, COMPLETIONS) == first


@pytest.mark.parametrize("dataset", [plain_dataset, conversational_dataset])
def test_trls_own_trainer_takes_it(whole, adapters, tmp_path, dataset):
    trainer = GRPOTrainer(
        model=tiny_model(tiny_tokenizer()),
        reward_funcs=[
            RewardModelFunction(whole, chunk_size=3, name="whole"),
            RewardModelFunction(adapters, normalize=True, clip=3.0, uncertainty_penalty=1.0),
        ],
        args=tiny_args(tmp_path, max_steps=2),
        train_dataset=dataset(),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert all({"rewards/whole/mean", "rewards/reward_ensemble/mean"} <= set(log) for log in logs)
    assert all(math.isfinite(log["rewards/whole/std"]) for log in logs)
    assert "reward_ensemble/std" in logs[0]


def test_our_trainer_takes_it(whole, tmp_path):
    trainer = DAPOTrainer(
        model=tiny_model(tiny_tokenizer()),
        reward_funcs=RewardModelFunction(whole, name="whole"),
        args=dapo_args(tmp_path, max_steps=1),
        train_dataset=plain_dataset(),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    assert "rewards/whole/mean" in trainer.state.log_history[0]


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"chunk_size": 0}, "`chunk_size` must be at least 1, got 0"),
        ({"max_length": 0}, "`max_length` must be at least 1, got 0"),
        ({"clip": 0.0}, "`clip` must be above 0, got 0.0"),
        ({"uncertainty_penalty": -1.0}, "`uncertainty_penalty` must not be negative, got -1.0"),
        ({"uncertainty_penalty": math.nan}, "`uncertainty_penalty` must not be negative, got nan"),
        ({"processing_class": [1, 2]}, "`processing_class` has 2 values for 1 reward models"),
    ],
)
def test_bad_arguments_are_refused(whole, kwargs, message):
    with pytest.raises(ValueError, match=message):
        RewardModelFunction(whole, **kwargs)


def test_nothing_to_score_with_is_refused():
    with pytest.raises(ValueError, match="`model` is an empty list"):
        RewardModelFunction([])


def test_a_causal_model_is_refused(base):
    with pytest.raises(ValueError, match=r"is of \['LlamaForCausalLM'\].*its head would be random"):
        RewardModelFunction(base)


def test_two_labels_are_refused(tmp_path):
    folder = saved(tmp_path, tiny_reward_model(num_labels=2))
    with pytest.raises(ValueError, match="num_labels=2, and a reward is one number"):
        RewardModelFunction(folder)
    with pytest.raises(ValueError, match=r"logits of shape \(5, 2\)"):
        RewardModelFunction(tiny_reward_model(num_labels=2), tiny_tokenizer())(PROMPTS, COMPLETIONS)


def test_an_adapter_of_two_labels_is_refused(base, tmp_path):
    model = get_peft_model(tiny_reward_model(num_labels=2), tiny_lora(task_type="SEQ_CLS"))
    with pytest.raises(ValueError, match="has a head of num_labels=2"):
        RewardModelFunction(saved(tmp_path, model))


@pytest.mark.parametrize("task_type", ["CAUSAL_LM", None])
def test_an_adapter_for_another_task_is_refused(tmp_path, task_type):
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora(task_type=task_type))
    with pytest.raises(ValueError, match=f"task_type={task_type!r}"):
        RewardModelFunction(saved(tmp_path, model))


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"without config\.json and without adapter_config\.json"):
        RewardModelFunction(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all"])
def test_what_cannot_be_found_is_named(name):
    with pytest.raises(
        ValueError, match=f"The reward model '{name}' is neither the folder of a saved model nor a name"
    ):
        RewardModelFunction(name)


def test_a_missing_tokenizer_is_named(tmp_path):
    tiny_reward_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="comes without a tokenizer"):
        RewardModelFunction(tmp_path)
    with pytest.raises(ValueError, match="`processing_class` is needed"):
        RewardModelFunction(tiny_reward_model())
    RewardModelFunction(tmp_path, processing_class=tiny_tokenizer())


def test_missing_statistics_are_named(tmp_path):
    folder = saved(tmp_path, tiny_reward_model())
    with pytest.raises(ValueError, match=r"normalize=True needs the statistics.*none were saved"):
        RewardModelFunction(folder, normalize=True)
    RewardStatistics(1.0, 0.0, 1).save(folder)
    with pytest.raises(ValueError, match="their std is 0"):
        RewardModelFunction(folder, normalize=True)


def test_messages_without_a_chat_template_are_refused():
    function = RewardModelFunction(tiny_reward_model(), tiny_tokenizer(chat=False))
    with pytest.raises(ValueError, match="has no chat template"):
        function(chats(2)["prompt"], chats(2)["chosen"])


def test_rewards_that_are_not_finite_are_refused():
    model = tiny_reward_model()
    model.score.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="'tiny-reward' gave nan for 5 of 5 completions, first for row 0"):
        RewardModelFunction(model, tiny_tokenizer())(PROMPTS, COMPLETIONS)


def test_a_reward_model_with_another_tokenizer_reads_the_text(tmp_path):
    # The same characters under other ids: the reward model's own tokenizer decides
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<pad>", "<unk>", "</s>", *"9876543210+= yes,ti"])}
    backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    other = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")
    model = tiny_reward_model(other)
    function = RewardModelFunction(saved(tmp_path, model, other), chunk_size=1)
    ids = torch.tensor([[*other("0+1=3 yes")["input_ids"], other.eos_token_id]])
    with torch.no_grad():
        assert function(["0+1="], ["3 yes"]) == [model.eval()(input_ids=ids).logits.item()]
