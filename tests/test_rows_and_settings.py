"""Numbers and rows that cannot be meant: refused by name, or counted in one line of the log."""

import json
import logging
import math

import pytest
import trl
from datasets import Dataset, IterableDataset

from preferences import chats, pairs, preference_args, tiny_reward_model
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
)
from trl_dapo.cli.errors import UsageError
from trl_dapo.cli.mixture import check_mixture


ONLINE = {"grpo": (GRPOTrainer, GRPOConfig), "dapo": (DAPOTrainer, DAPOConfig), "ppo": (PPOTrainer, PPOConfig)}
OFFLINE = {"dpo": (DPOTrainer, DPOConfig), "reward": (RewardTrainer, RewardConfig)}


def model(kind):
    return tiny_reward_model() if kind == "reward" else tiny_model(tiny_tokenizer())


def learner(kind, folder, dataset, tokenizer=None, **fields):
    cls, config = OFFLINE[kind]
    kwargs = {"ref_model": tiny_model(tiny_tokenizer(), seed=1)} if kind == "dpo" else {}
    args = preference_args(config, folder, **fields)
    tokenizer = tokenizer or tiny_tokenizer()
    return cls(model(kind), args=args, train_dataset=dataset, processing_class=tokenizer, **kwargs)


def generator(kind, folder, dataset, **kwargs):
    cls, config = ONLINE[kind]
    args = tiny_args(folder, cls=config, beta=0.0)
    return cls(model(kind), share_reward, args, dataset, processing_class=tiny_tokenizer(), **kwargs)


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("config", [GRPOConfig, DAPOConfig, PPOConfig, DPOConfig, RewardConfig])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", -1.0),
        ("weight_decay", -0.01),
        ("max_grad_norm", -1.0),
        ("max_grad_norm", math.nan),
        ("adam_beta2", 1.0),
        ("num_train_epochs", 0),
        ("num_train_epochs", -1),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused(tmp_path, config, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must .*{value}"):
        tiny_args(tmp_path, cls=config, **{"max_steps": -1, name: value})


@pytest.mark.parametrize(
    ("config", "name", "values"),
    [
        (DPOConfig, "beta", [0.0, -0.1, math.nan]),
        (DPOConfig, "label_smoothing", [2.0, 0.5, -0.1]),
        (DPOConfig, "loss_weights", [[-1.0], [0.0]]),
        (DPOConfig, "discopop_tau", [0.0]),
        (DPOConfig, "ld_alpha", [1.5]),
        (DPOConfig, "max_length", [0]),
        (GRPOConfig, "beta", [-0.1]),
        (PPOConfig, "beta", [-0.1]),
        (RewardConfig, "center_rewards_coefficient", [-0.01, math.inf]),
        (RewardConfig, "max_length", [-1]),
    ],
)
def test_a_number_of_one_trainer_that_cannot_be_meant_is_refused(tmp_path, config, name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"`{name}`"):
            tiny_args(tmp_path, cls=config, **{name: value})


def test_a_config_of_trl_is_checked_too(tmp_path):
    common = {"use_cpu": True, "bf16": False}
    args = trl.DPOConfig(str(tmp_path), beta=0.0, **common)
    with pytest.raises(ValueError, match=r"`beta` must be a number above 0 \(at 0 nothing is learnt"):
        DPOTrainer(model("dpo"), args=args, train_dataset=pairs(), processing_class=tiny_tokenizer())
    args = trl.RewardConfig(str(tmp_path), weight_decay=-1.0, **common)
    with pytest.raises(ValueError, match="`weight_decay` must be a number of at least 0, got -1"):
        RewardTrainer(model("reward"), args=args, train_dataset=pairs(), processing_class=tiny_tokenizer())
    args = trl.GRPOConfig(str(tmp_path), num_train_epochs=0, **common)
    with pytest.raises(ValueError, match="an untrained model would be saved"):
        GRPOTrainer(model("grpo"), share_reward, args, plain_dataset(64), processing_class=tiny_tokenizer())


@pytest.mark.parametrize("fraction", [-0.5, 0, math.nan])
def test_a_share_of_a_mixture_that_cannot_be_meant_is_refused(fraction):
    config = trl.DatasetMixtureConfig(datasets=[{"path": "a", "fraction": 1.0}, {"path": "b", "fraction": fraction}])
    with pytest.raises(UsageError, match=rf"datasets\[1\].fraction={fraction}"):
        check_mixture(config)
    check_mixture(trl.DatasetMixtureConfig(datasets=[{"path": "a", "fraction": 2.5}], test_split_size=0.1))
    for size in (-0.1, 0, 1.5):
        with pytest.raises(UsageError, match=f"test_split_size={size}"):
            check_mixture(trl.DatasetMixtureConfig(datasets=[{"path": "a"}], test_split_size=size))


# -------------------------------------------------------------------------------------------------- rows, to the leaf

BAD_MESSAGES = [
    ({"from": "human", "value": "1+1="}, r"\[0\]' has 'from' and 'value' in place of 'role' and 'content'"),
    ({"content": "1+1="}, r"\[0\]' has no 'role'; its keys are \['content'\]"),
    ({"speaker": "a", "text": "1+1="}, r"\[0\]' has no 'role'; its keys are \['speaker', 'text'\]"),
    ({"role": None, "content": "1"}, r"\[0\]' has role None"),
    ({"role": "user"}, r"\[0\]' has no 'content'"),
    ({"role": "user", "content": None}, r"\[0\]' has content None"),
    ({"role": "user", "content": 12}, r"\[0\]' has content 12"),
    (
        {"role": "user", "content": [{"type": "text"}]},
        r"\[0\]\.content\[0\]' is of type 'text', and its 'text' is None",
    ),
    ({"role": "user", "content": ["1"]}, r"\[0\]\.content\[0\]' is '1', and must be a part"),
    ("1+1=", r"\[0\]' is '1\+1=', and must be a message"),
]


@pytest.mark.parametrize("kind", ONLINE)
def test_a_bad_prompt_of_a_stream_is_named_when_it_comes(tmp_path, kind):
    rows = with_message(conversational_dataset(64), "prompt", {"from": "human", "value": "1"}, place=40)
    trainer = generator(kind, tmp_path, stream(rows))
    with pytest.raises(ValueError, match=r"Row 40 of the train dataset: 'prompt\[0\]' has 'from'"):
        list(trainer.train_dataset)


def with_message(rows, column, message, place=3):
    """A list of rows, of which one has another message."""
    rows = rows.to_list()
    rows[place][column] = [message]
    return rows


def stream(rows):
    return IterableDataset.from_generator(lambda: iter(rows))


@pytest.mark.parametrize("kind", OFFLINE)
@pytest.mark.parametrize(("message", "what"), BAD_MESSAGES)
def test_a_bad_message_of_a_pair_is_named(tmp_path, kind, message, what):
    # A stream, because Arrow would make the messages alike
    for column in ("chosen", "prompt"):
        rows = with_message(chats(), column, message)
        with pytest.raises(ValueError, match=rf"Row 3 of the train dataset: '{column}{what}"):
            list(learner(kind, tmp_path, stream(rows), max_steps=4).train_dataset)


@pytest.mark.parametrize("kind", ONLINE)
@pytest.mark.parametrize(("message", "what"), BAD_MESSAGES[:6])
def test_a_bad_message_of_a_prompt_is_named(tmp_path, kind, message, what):
    rows = with_message(conversational_dataset(64), "prompt", message, place=0)
    with pytest.raises(ValueError, match=rf"Row 0 of the train dataset: 'prompt{what}"):
        generator(kind, tmp_path, stream(rows))
    rows = Dataset.from_list([{"prompt": [message]} for _ in range(64)])
    with pytest.raises(ValueError, match=r"Row 0 of the eval dataset: 'prompt\[0\]'"):
        generator(kind, tmp_path, plain_dataset(64), eval_dataset={"some": rows}["some"])


@pytest.mark.parametrize("kind", [*ONLINE, *OFFLINE])
@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("tools", '[{"name": "add"', r"'tools' is not valid JSON"),
        ("tools", '{"name": "add"}', r"'tools' is .*must be a list of function schemas"),
        ("tools", '["add"]', r"'tools\[0\]' is 'add', and must be a function schema"),
        ("chat_template_kwargs", "x", r"'chat_template_kwargs' is 'x', and must be a dictionary"),
    ],
)
def test_bad_tools_are_named(tmp_path, kind, column, value, what):
    rows = (chats(16) if kind in OFFLINE else conversational_dataset(64)).to_list()
    good = "[]" if column == "tools" else value
    rows = [{**row, column: value if place == 5 else good} for place, row in enumerate(rows)]
    place = 5 if column == "tools" else 0
    build = learner if kind in OFFLINE else generator
    with pytest.raises(ValueError, match=rf"Row {place} of the train dataset: {what}"):
        build(kind, tmp_path, Dataset.from_list(rows))


def test_messages_that_templates_take_are_right(tmp_path):
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    rows = chats().to_list()
    for row in rows:
        row["prompt"] = [
            {"role": "user", "content": "1+1="},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "2", "name": "add"},
        ]
    learner("reward", tmp_path, Dataset.from_list(rows), tokenizer=any_content())


def any_content():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message.content or '' }}{% endfor %}"
    return tokenizer


# ------------------------------------------------------------------------------------------------- counted in one line


@pytest.mark.parametrize("kind", OFFLINE)
def test_what_is_hardly_meant_is_counted(tmp_path, kind, caplog):
    rows = pairs().to_list()
    for place in (1, 4, 7):
        rows[place]["rejected"] = rows[place]["chosen"]
    for place in (2, 5):
        rows[place]["chosen"] = rows[place]["prompt"] + rows[place]["chosen"]
    with caplog.at_level(logging.WARNING):
        learner(kind, tmp_path, Dataset.from_list(rows))
    assert "chosen and rejected are identical in 3 of 16 pairs" in caplog.text
    assert "2 of 16 pairs repeat the prompt at the start of a completion" in caplog.text
    rows = [{**row, "rejected": row["chosen"]} for row in rows]
    with pytest.raises(ValueError, match="identical in all 16 pairs, so there is nothing to learn"):
        learner(kind, tmp_path, Dataset.from_list(rows))


@pytest.mark.parametrize("kind", ["reward", "dpo", "grpo"])
def test_keys_that_arrow_fills_in_are_counted(tmp_path, kind, caplog):
    rows = (chats() if kind in OFFLINE else conversational_dataset(64)).to_list()
    rows[3]["prompt"][0]["name"] = "me"
    build = learner if kind in OFFLINE else generator
    with caplog.at_level(logging.WARNING):
        build(kind, tmp_path, Dataset.from_list(rows))
    count = f"{len(rows) - 1} of {len(rows)}"
    assert f"The train dataset: {count} rows have keys that are null (name)" in caplog.text


def test_keys_of_tools_that_arrow_fills_in_are_counted(tmp_path, caplog):
    tools = [[{"name": "add", "parameters": {"a": "int"}}], [{"name": "say", "parameters": {"text": "str"}}]]
    rows = [{**row, "tools": tools[place % 2]} for place, row in enumerate(chats().to_list())]
    with caplog.at_level(logging.WARNING):
        learner("reward", tmp_path, Dataset.from_list(rows))
    assert "16 of 16 rows have keys that are null (a, text)" in caplog.text
    caplog.clear()
    rows = [{**row, "tools": json.dumps(row["tools"])} for row in rows]
    learner("reward", tmp_path, Dataset.from_list(rows))
    assert "null" not in caplog.text


@pytest.mark.parametrize("kind", OFFLINE)
def test_what_max_length_drops_and_cuts_is_counted(tmp_path, kind, caplog):
    # Prompts of 4 to 6 characters, completions of 1 to 8 and an end token; three pairs are short
    rows = [{"prompt": "1+1=" * (1 if i < 3 else 5), "chosen": "2", "rejected": "3"} for i in range(16)]
    rows[0]["chosen"] = "2" if kind == "reward" else "2" * 9
    with caplog.at_level(logging.WARNING):
        trainer = learner(kind, tmp_path, Dataset.from_list(rows), max_length=8)
    assert len(trainer.train_dataset) == 3
    assert "max_length=8 drops 13 of 16 pairs of the train dataset" in caplog.text
    assert ("max_length=8 cuts 1 of 3 pairs" in caplog.text) == (kind == "dpo")
    with pytest.raises(ValueError, match="max_length=2 leaves none of the 16 pairs"):
        learner(kind, tmp_path, Dataset.from_list(rows), max_length=2)


# ---------------------------------------------------------------------------------------------- what the hosts accept


def test_a_margin_that_dpo_never_reads_is_not_refused(tmp_path):
    rows = pairs().add_column("margin", [None] * 8 + [math.nan] * 8)
    learner("dpo", tmp_path, rows)
    with pytest.raises(ValueError, match="Row 0 of the train dataset: 'margin' is None"):
        learner("reward", tmp_path, rows)


def test_the_former_names_of_token_ids_are_taken(tmp_path):
    rows = Dataset.from_dict({"chosen_input_ids": [[5, 6], [7]] * 4, "rejected_input_ids": [[5], [8, 9]] * 4})
    with pytest.warns(FutureWarning, match="legacy dataset columns"):
        trainer = learner("reward", tmp_path, rows, max_steps=1)
    trainer.train()
