from math import sqrt

import pytest
import torch
from safetensors.torch import load_file

from trl_dapo.arena import build_model, evaluate, held_out_dataset, is_held_out, load_warm_start
from trl_dapo.arena import warm_start as module
from trl_dapo.arena.tokenizer import build_tokenizer
from trl_dapo.arena.warm_start import PHASES, WARM_START_ACCURACY, Phase, train_warm_start


SHORT = (Phase(steps=3, lengths=(2, 3), styles={"step": 1.0}, slip=0.0),)


def test_training_is_a_function_of_the_seed():
    torch.manual_seed(1)
    first = train_warm_start(0, SHORT).state_dict()
    torch.manual_seed(2)
    again, other = train_warm_start(0, SHORT).state_dict(), train_warm_start(1, SHORT).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_training_starts_from_the_weights_of_its_seed():
    one_step = (Phase(steps=1, lengths=(2, 3), styles={"step": 1.0}, slip=0.0),)
    trained, start = train_warm_start(1, one_step).state_dict(), build_model(1).state_dict()
    # The first step of Adam moves a weight by the learning rate, 3e-3, at most
    assert all(torch.allclose(trained[name], start[name], rtol=0.0, atol=3.01e-3) for name in start)
    assert any(not torch.equal(trained[name], start[name]) for name in start)


def test_training_leaves_the_global_random_state():
    state = torch.get_rng_state()
    train_warm_start(0, SHORT)
    assert torch.equal(torch.get_rng_state(), state)


def test_demonstrations_have_training_prompts_only():
    rng = module.random.Random(0)
    phase = Phase(steps=20, lengths=PHASES[-1].lengths, styles=PHASES[-1].styles, slip=0.1)
    prompts = [prompt for batch in module._batches(phase, rng) for prompt, _ in batch]
    assert len(prompts) == 20 * 64
    assert not any(map(is_held_out, prompts))


def test_loss_is_of_completion_tokens_only_and_padding_does_not_matter():
    tokenizer = build_tokenizer()
    # Logits of 0 make every token cost log(28); a completion of 2 and one of 3 characters, with one end each: 7 tokens
    model = train_warm_start(0, SHORT)
    with torch.no_grad():
        model.model.norm.weight.zero_()
        loss = module._loss(model, tokenizer, [("7a+b-=", "#7"), ("7a+b-c*=", "a+8")])
    assert loss.item() == pytest.approx(7 * torch.tensor(28.0).log().item() / (64 * 20), rel=1e-5)


def test_long_demonstration_is_cut_without_an_end():
    tokenizer = build_tokenizer()
    model = train_warm_start(0, SHORT)
    with torch.no_grad():
        model.model.norm.weight.zero_()
        loss = module._loss(model, tokenizer, [("7a+b-=", "a+8" + "?8" * 50)])
    assert loss.item() == pytest.approx(64 * torch.tensor(28.0).log().item() / (64 * 20), rel=1e-5)


def test_command_writes_the_weights_and_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "train_warm_start", lambda seed: train_warm_start(seed, SHORT))
    monkeypatch.setattr(module, "held_out_dataset", lambda size, lengths: held_out_dataset(9, lengths=lengths))
    output = tmp_path / "weights.safetensors"
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        module.main(["--output", str(output), "--seed", "3"])
        assert torch.get_num_threads() == 1
        expected = train_warm_start(3, SHORT).state_dict()
    finally:
        torch.set_num_threads(threads)
    written = load_file(output)
    assert all(torch.equal(written[name], expected[name]) for name in written)
    assert "held-out accuracy 0." in capsys.readouterr().out


def test_a_regimes_start_goes_on_from_the_plain_one_of_its_seed(monkeypatch):
    one_step = Phase(steps=1, lengths=(2, 3), styles={"step": 1.0}, slip=0.0)
    monkeypatch.setitem(module.FURTHER_PHASES, "short", one_step)
    further, plain = module.train_further("short", 1).state_dict(), load_warm_start(1)[0].state_dict()
    # The first step of Adam moves a weight by the learning rate, 3e-3, at most
    assert all(torch.allclose(further[name], plain[name], rtol=0.0, atol=3.01e-3) for name in plain)
    assert any(not torch.equal(further[name], plain[name]) for name in plain)
    again = module.train_further("short", 1).state_dict()
    assert all(torch.equal(further[name], again[name]) for name in plain)


def test_a_regimes_start_needs_a_plain_one():
    with pytest.raises(ValueError, match=r"seed=3 has no warm start to go on from\. There are 0, 1, 2\."):
        module.train_further("rare-steps", 3)


def test_command_writes_a_regimes_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(module.FURTHER_PHASES, "rare-steps", SHORT[0])
    monkeypatch.setattr(module, "held_out_dataset", lambda size, lengths: held_out_dataset(9, lengths=lengths))
    module.main(["--output", str(tmp_path / "weights"), "--regime", "off-policy", "--seed", "2"])
    written, expected = load_file(tmp_path / "weights"), module.train_further("rare-steps", 2).state_dict()
    assert all(torch.equal(written[name], expected[name]) for name in written)
    assert "held-out accuracy 0." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(module.FURTHER_PHASES))
def test_training_further_reproduces_the_shipped_start(name):
    # Another processor rounds differently, and a few hundred steps drift apart by far less than the styles do
    shipped, again = (
        evaluate(model, build_tokenizer(), held_out_dataset(180), samples=4)
        for model in (load_warm_start(f"{name}-0")[0], module.train_further(name, 0))
    )
    for style, share in shipped.style_shares.items():
        assert again.style_shares[style] == pytest.approx(share, abs=0.1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_training_again_reproduces_the_recorded_accuracy():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = train_warm_start(0)
    finally:
        torch.set_num_threads(threads)
    score = evaluate(model, build_tokenizer(), held_out_dataset(900))
    # Four standard errors of the difference of two means of 7200 completions, 0.029; and 0.04 on top because another
    # processor rounds differently and then trains to other weights
    variance = WARM_START_ACCURACY * (1 - WARM_START_ACCURACY)
    assert score.accuracy == pytest.approx(WARM_START_ACCURACY, abs=4 * sqrt(2 * variance / 7200) + 0.04)
