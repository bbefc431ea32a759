"""A reward model scores as it was trained, whichever way a trainer gets it."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from ppo_runs import WHOLE, ppo_args
from preferences import chats, pairs, preference_args, reward_adapter, saved, tiny_reward_model
from tiny import plain_dataset, tiny_args, tiny_lora, tiny_model, tiny_tokenizer
from trl_dapo import GRPOTrainer, PPOTrainer, RewardConfig, RewardModelFunction, RewardTrainer


TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
# Other tools, other tokens; another template, other tokens
TEMPLATE = (
    "{% if tools %}{{ tools | length }}+{{ tools[0].function.name | length }}={% endif %}"
    "{% for message in messages %}{{ message.content }}{{ mark | default('!') }}{% endfor %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("base"), tiny_model(tiny_tokenizer()))


def trained(folder, base, dataset, template=None, **kwargs):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    args = preference_args(RewardConfig, folder, max_steps=2, learning_rate=1e-2)
    trainer = RewardTrainer(base, args=args, train_dataset=dataset, processing_class=tokenizer, **kwargs)
    trainer.train()
    trainer.save_model(folder)
    return trainer


def in_training(trainer, column="chosen"):
    with torch.no_grad():
        rows = [torch.tensor([row[f"{column}_ids"]]) for row in trainer.train_dataset]
        return [trainer.model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item() for ids in rows]


def online(cls, base, folder, reward_funcs, **kwargs):
    args = ppo_args(folder, **WHOLE) if cls is PPOTrainer else tiny_args(folder)
    return cls(base, reward_funcs, args, plain_dataset(64), processing_class=tiny_tokenizer(), **kwargs)


@pytest.mark.parametrize("cls", [GRPOTrainer, PPOTrainer])
@pytest.mark.parametrize("dataset", [pairs, chats])
def test_a_reward_model_given_by_name_scores_as_it_was_trained(base, tmp_path, cls, dataset):
    # An adapter with a template of its own, and the end token: TRL reads the base's template and no end token
    trainer = trained(tmp_path / "reward", base, dataset(), TEMPLATE, peft_config=tiny_lora())
    policy = online(cls, base, tmp_path / "out", [str(tmp_path / "reward"), len])
    assert policy.reward_func_names == ["reward", "len"]
    rows = dataset()
    found = policy.reward_funcs[0](rows["prompt"], rows["chosen"])
    assert found == pytest.approx(in_training(trainer), abs=1e-6)


def test_a_loaded_reward_model_scores_as_it_was_trained(base, tmp_path):
    trainer = trained(tmp_path / "reward", base, pairs())
    given = [trainer.model]
    policy = online(GRPOTrainer, base, tmp_path / "out", given, reward_processing_classes=[tiny_tokenizer()])
    rows = pairs()
    assert policy.reward_funcs[0](rows["prompt"], rows["chosen"]) == pytest.approx(in_training(trainer), abs=1e-6)
    assert given == [trainer.model]  # the user's own list is as it was
    assert policy.reward_processing_classes == [None]
    policy.train()


@pytest.mark.parametrize("cls", [GRPOTrainer, PPOTrainer])
def test_a_causal_model_is_no_reward_model(base, tmp_path, cls):
    with pytest.raises(ValueError, match=r"is of \['LlamaForCausalLM'\].*its head would be random"):
        online(cls, base, tmp_path, base)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("as_text", [True, False])
def test_tools_and_template_arguments_of_training_reach_the_reward_model(base, tmp_path, as_text):
    tools = [[TOOL] * (1 + i % 3) for i in range(16)]
    dataset = chats().add_column("tools", [json.dumps(one) for one in tools] if as_text else tools)
    dataset = dataset.add_column("chat_template_kwargs", [{"mark": "?"}] * 16)
    trainer = trained(tmp_path / "reward", base, dataset, TEMPLATE)
    function = RewardModelFunction(tmp_path / "reward", chunk_size=1)
    columns = {name: list(dataset[name]) for name in ("tools", "chat_template_kwargs")}
    rows = chats()
    assert function(rows["prompt"], rows["chosen"], **columns) == in_training(trainer)
    assert function(rows["prompt"], rows["chosen"]) != in_training(trainer)


@pytest.mark.parametrize("kind", ["model", "adapter"])
@pytest.mark.parametrize(
    ("prompt", "completion", "what"),
    [
        ("1+1=", [{"role": "assistant", "content": "2"}], "the prompt is a str and the completion a list"),
        ([{"role": "user", "content": "1+1="}], "2", "the prompt is a list and the completion a str"),
        ("1+1=", None, "the completion a NoneType"),
        ({"role": "user", "content": "1"}, "2", "the prompt is a dict"),
    ],
)
def test_text_and_messages_are_not_mixed(base, tmp_path, kind, prompt, completion, what):
    if kind == "model":
        function = RewardModelFunction(tiny_reward_model(), tiny_tokenizer())
    else:
        reward_adapter(tmp_path / "reward")
        args = ppo_args(tmp_path, **WHOLE, reward_adapter=str(tmp_path / "reward"))
        policy = PPOTrainer(
            base, None, args, plain_dataset(64), processing_class=tiny_tokenizer(), peft_config=tiny_lora()
        )
        function = policy.reward_funcs[-1]
    with pytest.raises(ValueError, match=f"Row 1 of a batch for .*{what}"):
        function(["1+1=", prompt], ["2", completion])


def test_an_adapter_on_the_policy_reads_with_its_own_template(base, tmp_path):
    trained(tmp_path / "reward", base, chats(), TEMPLATE, peft_config=tiny_lora())
    args = ppo_args(tmp_path, **WHOLE, reward_adapter=str(tmp_path / "reward"))
    policy = PPOTrainer(
        base, None, args, plain_dataset(64), processing_class=tiny_tokenizer(), peft_config=tiny_lora()
    )
    rows = chats()
    expected = RewardModelFunction(tmp_path / "reward")(rows["prompt"], rows["chosen"])
    assert policy.reward_funcs[-1](rows["prompt"], rows["chosen"]) == pytest.approx(expected, abs=1e-5)


def test_an_adapter_on_a_policy_with_more_tokens_loads(base, tmp_path):
    reward_adapter(tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<more>"])
    args = ppo_args(tmp_path, **WHOLE, reward_adapter=str(tmp_path / "reward"))
    policy = tiny_model(tokenizer)
    trainer = PPOTrainer(policy, None, args, plain_dataset(64), processing_class=tokenizer, peft_config=tiny_lora())
    assert len(trainer.reward_funcs[-1](["1+1="], ["2"])) == 1


def test_a_folder_with_a_relative_base_says_so_for_a_name_too(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, "base")
    trained(tmp_path / "reward", "base", Dataset.from_list(pairs().to_list()), peft_config=tiny_lora())
    shutil.move("base", "moved")
    with pytest.raises(ValueError, match=r"trained on the base 'base', and there is no such model here"):
        online(GRPOTrainer, base, tmp_path / "out", str(tmp_path / "reward"))
