import pytest
import torch
from datasets import Dataset

from trl_dapo.arena import arena_accuracy, build_tokenizer, evaluate, held_out_dataset, load_warm_start
from trl_dapo.arena.evaluation import Sample, _summarise


class ScriptedModel(torch.nn.Module):
    """Completes every prompt by the same token ids, and notes the mode in which it was asked to."""

    device = torch.device("cpu")

    def __init__(self, completion_ids):
        super().__init__()
        self.completion_ids = torch.tensor(completion_ids)
        self.modes = []

    def generate(self, input_ids, attention_mask, generation_config):
        self.modes.append(self.training)
        return torch.cat([input_ids, self.completion_ids.repeat(len(input_ids), 1)], dim=1)


@pytest.fixture(scope="module")
def warm_start():
    return load_warm_start()


@pytest.fixture(scope="module")
def dataset():
    return held_out_dataset(36)


def test_score_counts_samples_worked_by_hand():
    scored = [
        Sample("7a+b-=", "a+8b-7#7", 1.0, truncated=False, num_tokens=9),
        Sample("7a+b-=", "#6", 0.0, truncated=False, num_tokens=3),
        Sample("7a+b-c*=", "a+8?8", 0.0, truncated=True, num_tokens=6),
        Sample("7a+b-c*=", "a+9b-8", 0.0, truncated=True, num_tokens=6),
    ]
    score = _summarise(scored, [2, 2, 3, 3])
    # 1 of 4 right, 1 of 2 at length 2; of the 2 that were cut the second left a wrong cell behind; 24 tokens over 4
    assert (score.accuracy, score.accuracy_by_length) == (0.25, {2: 0.5, 3: 0.0})
    assert (score.truncated, score.truncated_sound, score.mean_length) == (0.5, 0.25, 6.0)
    assert score.style_shares == {"direct": 0.25, "step": 0.5, "verbose": 0.25}
    assert (score.right, score.wrong) == (scored[0], scored[1])


def test_scripted_policy_gets_the_score_worked_by_hand():
    # "#8", an end of sequence, padding: 3 tokens. 7 +- ends on 7, 7 +* on 1, 7 ++- on 8
    model, tokenizer = ScriptedModel([26, 10, 1, 0, 0, 0]), build_tokenizer()
    dataset = Dataset.from_dict({"prompt": ["7a+b-=", "7a+b*=", "7a+b+c-="], "length": [2, 2, 3]})
    score = evaluate(model, tokenizer, dataset, samples=2, batch_size=4)
    assert score.accuracy_by_length == {2: 0.0, 3: 1.0}
    assert score.accuracy == pytest.approx(1 / 3)
    assert (score.mean_length, score.truncated) == (3.0, 0.0)
    assert score.right == Sample("7a+b+c-=", "#8", 1.0, truncated=False, num_tokens=3)
    # 6 completions in batches of 4; sampled in eval mode, left in train mode
    assert model.modes == [False, False]
    assert model.training


def test_sample_that_is_missing_is_none():
    assert _summarise([Sample("7a+b-=", "#7", 1.0, False, 3)], [2]).wrong is None
    assert _summarise([Sample("7a+b-=", "#6", 0.0, False, 3)], [2]).right is None


def test_score_is_a_function_of_the_seed(warm_start, dataset):
    torch.manual_seed(1)
    first = evaluate(*warm_start, dataset, samples=4, seed=5)
    torch.manual_seed(2)
    assert evaluate(*warm_start, dataset, samples=4, seed=5) == first
    assert evaluate(*warm_start, dataset, samples=4, seed=6) != first


def test_evaluation_leaves_random_state_and_modes_as_they_were(warm_start, dataset):
    model, tokenizer = warm_start
    model.train()
    # A frozen submodule of a model in training
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    evaluate(model, tokenizer, dataset, samples=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert set(modes) == {True, False}


def test_modes_are_restored_when_sampling_fails(warm_start, dataset):
    model, tokenizer = warm_start
    model.train()
    with pytest.raises(ValueError, match="temperature"):
        evaluate(model, tokenizer, dataset, temperature=-1.0)
    assert all(module.training for module in model.modules())


def test_token_limit_truncates_and_counts(warm_start, dataset):
    # The shortest completion, "#7" and an end of sequence, has three tokens
    score = evaluate(*warm_start, dataset, samples=2, max_new_tokens=2)
    assert (score.truncated, score.mean_length) == (1.0, 2.0)


def test_samples_belong_to_their_prompts_in_every_batch(warm_start, dataset):
    score = evaluate(*warm_start, dataset, samples=3, batch_size=7)
    assert arena_accuracy([score.right.prompt], [score.right.completion]) == [1.0]
    assert arena_accuracy([score.wrong.prompt], [score.wrong.completion]) == [0.0]
    assert set(score.accuracy_by_length) == set(dataset["length"])


def test_low_temperature_is_nearly_greedy(warm_start):
    model, tokenizer = warm_start
    dataset = Dataset.from_dict({"prompt": ["7a+b-c*="], "answer": ["2"], "length": [3]})
    score = evaluate(model, tokenizer, dataset, samples=16, temperature=1e-4)
    assert score.accuracy in (0.0, 1.0)
