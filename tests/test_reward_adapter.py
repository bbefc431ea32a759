"""A reward model as an adapter of the policy's base."""

import pytest
import torch

from ppo_runs import WHOLE, ppo_args, ppo_trainer
from preferences import reward_adapter
from tiny import conversational_dataset, parity_reward, plain_dataset, tiny_tokenizer
from training import record_rollouts
from trl_dapo.reward_model.adapter import AdapterReward


@pytest.mark.parametrize("dataset", [plain_dataset, conversational_dataset])
def test_rewards_are_those_of_the_reward_model(tmp_path, dataset):
    model = reward_adapter(tmp_path / "reward")
    args = ppo_args(tmp_path, **{**WHOLE, "beta": 0.0, "lam": 1.0}, reward_adapter=str(tmp_path / "reward"))
    trainer = ppo_trainer(tmp_path, args, reward_funcs=None, train_dataset=dataset(64))
    rollouts = record_rollouts(trainer)
    trainer.train()
    tokenizer, (rollout,) = tiny_tokenizer(), rollouts
    end = tokenizer.eos_token
    for row in range(len(rollout["completion_ids"])):
        prompt = rollout["prompt_ids"][row][rollout["prompt_mask"][row].bool()]
        completion = rollout["completion_ids"][row][rollout["completion_mask"][row].bool()]
        text = tokenizer.decode(completion, skip_special_tokens=True)
        ids = tokenizer(tokenizer.decode(prompt) + text + end + ("\n" if dataset is conversational_dataset else ""))
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([ids["input_ids"]])).logits.item()
        assert rollout["returns"][row, 0].item() == pytest.approx(expected, abs=1e-5)
    assert trainer.reward_func_names == ["reward_adapter"]


def test_it_stands_behind_other_reward_functions_and_does_not_move(tmp_path):
    reward_adapter(tmp_path / "reward")
    args = ppo_args(tmp_path, **WHOLE, reward_adapter=str(tmp_path / "reward"), reward_weights=[1.0, 0.5])
    trainer = ppo_trainer(tmp_path, args)
    mine = {name: p.clone() for name, p in trainer.model.named_parameters() if ".reward." in name}
    assert len(mine) == 5
    trainer.train()
    assert trainer.reward_func_names == ["parity_reward", "reward_adapter"]
    for name, parameter in trainer.model.named_parameters():
        if ".reward." in name:
            assert torch.equal(parameter, mine[name])
    assert trainer.model.active_adapter == "default"


def test_a_folder_that_is_no_reward_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no adapter_config.json"):
        AdapterReward(str(tmp_path))
    reward_adapter(tmp_path / "two", labels=2)
    with pytest.raises(ValueError, match=r"reward_adapter=.* has a head of num_labels=2"):
        AdapterReward(str(tmp_path / "two"))
    reward_adapter(tmp_path / "headless", task_type=None)
    with pytest.raises(ValueError, match=r"task_type=None"):
        AdapterReward(str(tmp_path / "headless"))


def test_another_tokenizer_is_refused(tmp_path):
    other = tiny_tokenizer()
    other.add_tokens(["<more>"])
    reward_adapter(tmp_path / "reward", tokenizer=other)
    args = ppo_args(tmp_path, **WHOLE, reward_adapter=str(tmp_path / "reward"))
    with pytest.raises(ValueError, match="another tokenizer"):
        ppo_trainer(tmp_path, args)


def test_a_policy_without_an_adapter_is_refused(tmp_path):
    reward_adapter(tmp_path / "reward")
    args = ppo_args(tmp_path, **WHOLE, reward_adapter=str(tmp_path / "reward"))
    with pytest.raises(ValueError, match=r"reward_adapter=.*the policy has none"):
        ppo_trainer(tmp_path, args, peft_config=None, reward_funcs=parity_reward)
