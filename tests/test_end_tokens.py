"""Models with several end tokens, as chat models have: a completion that ends with any of them is not truncated."""

from importlib.metadata import version

import pytest
import torch
from packaging.version import Version

from ppo_runs import WHOLE, ppo_args, ppo_trainer
from tiny import parity_reward, plain_dataset, scripted_rollout, share_reward, tiny_model, tiny_tokenizer
from training import dapo_args, loss_mask, record_rollouts, train
from trl_dapo import DAPOTrainer


pytestmark = pytest.mark.skipif(
    Version(version("trl")) < Version("1.14.2"), reason="TRL itself knows the tokenizer's end token alone"
)

# The tokenizer's own end token, and the last id of the vocabulary, which scripted completions do not have
FIRST, SECOND = 3, 107
# Of the four rows of a group, row 2 is truncated by the script
TRUNCATED = torch.tensor([False, False, True, False])


def two_ends():
    model = tiny_model(tiny_tokenizer())
    model.generation_config.eos_token_id = [FIRST, SECOND]
    return model


def ended_by(*ends):
    """Scripted rollouts whose rows end, in turn, with these tokens; all are odd, so parities stay."""
    script = scripted_rollout()

    def rollout(prompts, trainer):
        output = script(prompts, trainer)
        for place, ids in enumerate(output["completion_ids"]):
            if ids[-1] == FIRST:
                ids[-1] = ends[place % len(ends)]
        return output

    return rollout


def dapo(tmp_path, rollout, **fields):
    recorded = []
    result = train(
        DAPOTrainer,
        dapo_args(tmp_path, **{"max_steps": 2, **fields}),
        model=two_ends(),
        prepare=lambda trainer: recorded.append(record_rollouts(trainer)),
        reward_funcs=parity_reward,
        rollout_func=rollout,
        train_dataset=plain_dataset(32),
    )
    return result, recorded[0][0]


def last_ids(rollout):
    last = rollout["completion_mask"].sum(dim=1, keepdim=True) - 1
    return rollout["completion_ids"].gather(1, last).squeeze(1)


@pytest.mark.parametrize("ends", [(SECOND,), (FIRST, SECOND)], ids=["second", "both"])
@pytest.mark.parametrize("dynamic_sampling", [True, False])
def test_dynamic_sampling_counts_what_no_end_token_ends(tmp_path, ends, dynamic_sampling):
    fields = {"dynamic_sampling": dynamic_sampling, "overlong_filtering": False}
    result, rollout = dapo(tmp_path, ended_by(*ends), **fields)
    assert set(ends) <= set(last_ids(rollout).tolist())
    # One row of four; TRL's own count is the same
    assert result.logs[0]["dapo/overlong_frac"] == 0.25
    assert result.logs[0]["completions/clipped_ratio"] == 0.25


def test_groups_that_the_second_end_token_ends_are_informative(tmp_path):
    # With overlong filtering, a group whose rows all count as truncated has no row to learn from, and is replaced
    result, _ = dapo(tmp_path, ended_by(SECOND), overlong_filtering=True)
    assert result.logs[0]["dapo/groups_generated"] == result.logs[0]["dapo/groups_kept"] == 4
    assert result.logs[0]["dapo/frac_informative"] == 1


@pytest.mark.parametrize("dynamic_sampling", [True, False])
def test_overlong_filtering_keeps_what_the_second_end_token_ends(tmp_path, dynamic_sampling):
    _, rollout = dapo(tmp_path, ended_by(SECOND), dynamic_sampling=dynamic_sampling, overlong_filtering=True)
    filtered = (loss_mask(rollout).sum(dim=1) == 0).view(4, 4)
    assert torch.equal(filtered, TRUNCATED.expand(4, 4))


@pytest.mark.parametrize("ends", [(SECOND,), (FIRST, SECOND)], ids=["second", "both"])
def test_ppo_penalises_only_what_no_end_token_ends(tmp_path, ends):
    # With gamma and lambda 1 and no KL, the return of the first token is the score
    fields = {**WHOLE, "beta": 0.0, "lam": 1.0, "missing_eos_penalty": 3.0}
    trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **fields), model=two_ends(), rollout_func=ended_by(*ends))
    rollouts = record_rollouts(trainer)
    trainer.train()
    (rollout,) = rollouts
    parities = (rollout["completion_ids"] * rollout["completion_mask"]).sum(dim=1) % 2
    truncated = ~torch.isin(last_ids(rollout), torch.tensor([FIRST, SECOND]))
    assert truncated.float().mean() == 0.25
    torch.testing.assert_close(rollout["returns"][:, 0], parities - 3.0 * truncated, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("drop_finished_rows", [True, False])
def test_generation_stops_at_the_first_end_token_of_any_kind(tmp_path, drop_finished_rows):
    # Every fourth id ends a completion, so that most completions end, and few with the tokenizer's token
    ends = torch.arange(FIRST, 108, 4)
    model = tiny_model(tiny_tokenizer())
    model.generation_config.eos_token_id = ends.tolist()
    recorded = []
    result = train(
        DAPOTrainer,
        dapo_args(tmp_path, max_steps=2, overlong_filtering=False, drop_finished_rows=drop_finished_rows),
        model=model,
        prepare=lambda trainer: recorded.append(record_rollouts(trainer)),
        reward_funcs=share_reward,
        train_dataset=plain_dataset(32),
    )
    (rollout,) = recorded[0]
    is_end = torch.isin(rollout["completion_ids"], ends) & rollout["completion_mask"].bool()
    lengths = rollout["completion_mask"].sum(dim=1)
    firsts = torch.where(is_end.any(dim=1), is_end.int().argmax(dim=1) + 1, 8)
    assert torch.equal(lengths, firsts)
    assert 0 < (~is_end.any(dim=1)).sum() < 16
    assert result.logs[0]["completions/clipped_ratio"] == (~is_end.any(dim=1)).float().mean()
