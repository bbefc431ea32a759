"""Which folders are reward models: the same answer for a reward function and for an adapter on the policy's base."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from preferences import reward_adapter
from trl_dapo.reward_model.adapter import AdapterReward
from trl_dapo.reward_model.folders import adapter_base
from trl_dapo.reward_model.scoring import padding_id, rewards_in_chunks


WEIGHTS = "adapter_model.safetensors"
HEAD = "base_model.model.score.weight"


@pytest.mark.parametrize("check", [AdapterReward, adapter_base])
@pytest.mark.parametrize("instead", [{}, {"base_model.model.score.lora_A.weight": torch.ones(1, 32)}])
def test_an_adapter_without_its_head_is_refused(tmp_path, check, instead):
    reward_adapter(tmp_path)
    check(str(tmp_path))
    tensors = load_file(tmp_path / WEIGHTS)
    assert HEAD in tensors
    save_file({name: tensor for name, tensor in tensors.items() if name != HEAD} | instead, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"holds no head .*: its rewards would be random"):
        check(str(tmp_path))


def test_the_policys_base_takes_one_name_for_the_head_and_a_model_of_its_own_takes_two(tmp_path):
    reward_adapter(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["base_model.model.classifier.weight"] = tensors.pop(HEAD)
    save_file(tensors, tmp_path / WEIGHTS)
    adapter_base(str(tmp_path))
    with pytest.raises(ValueError, match=r"holds no head \(score\)"):
        AdapterReward(str(tmp_path))


def test_an_adapter_on_the_policy_needs_its_weights_as_safetensors(tmp_path):
    reward_adapter(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    adapter_base(str(tmp_path))  # may be on the Hub, or in another format
    with pytest.raises(ValueError, match=rf"reward_adapter=.* has no {WEIGHTS}"):
        AdapterReward(str(tmp_path))


def test_rewards_come_in_the_order_of_the_rows_whatever_the_chunks():
    seen = []

    def forward(rows):
        seen.append([len(row) for row in rows])
        return torch.tensor([float(sum(row)) for row in rows])

    rows = [[1], [2, 3], [4, 5, 6], [7, 8], [9]]
    assert rewards_in_chunks(rows, 2, forward).tolist() == [1.0, 5.0, 15.0, 15.0, 9.0]
    assert seen == [[3, 2], [2, 1], [1]]


def test_without_a_padding_token_the_end_token_pads():
    class Tokenizer:
        pad_token_id, eos_token_id = None, 7

    assert padding_id(Tokenizer) == 7
    Tokenizer.pad_token_id = 0
    assert padding_id(Tokenizer) == 0
