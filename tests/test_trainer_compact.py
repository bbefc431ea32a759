"""Compact micro-batches: parameters, losses and metrics of TRL's own micro-batches, for less work."""

import pytest
import torch
import trl.trainer.utils
from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback

from tiny import (
    conversational_dataset,
    image_dataset,
    multiply,
    parity_reward,
    plain_dataset,
    save_tiny_model,
    script_generation,
    scripted_rollout,
    share_reward,
    sometimes_none_reward,
    tiny_lora,
    tiny_model,
    tiny_tokenizer,
    tiny_tool_tokenizer,
    tiny_vlm,
    tool_call,
    tool_turns,
    used_tool_reward,
)
from training import build, dapo_args, even, never, train
from trl_dapo import DAPOTrainer
from trl_dapo.grpo.config import ONE_DENOMINATOR_LOSSES, ROW_MEAN_LOSSES


# Two updates of 4 micro-batches of 4 rows from each rollout; Adam does not amplify gradients that are noise
SHAPE = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "updates_per_rollout": 2,
    "max_completion_length": 24,
    "max_steps": 5,
    "adam_epsilon": 1e-4,
    "learning_rate": 1e-3,
    "soft_overlong_punishment": False,
}
# Seconds, and what only packing logs
OWN_KEYS = {"step_time", "packing/live_rows", "packing/padded_per_real_token", "packing/microbatches"}
# The plain dataset's prompts have 4 to 6 tokens, so there is padding on either side


def fields_of(loss_type, **more):
    fields = {"loss_type": loss_type, "token_level_loss": loss_type not in ("grpo", "sapo", "luspo")}
    return {**fields, "clip_higher": loss_type != "cispo", **more}


def go(tmp_path, compact, prepare=None, rewardable=even, **kwargs):
    fields = {**SHAPE, **kwargs.pop("fields", {}), "compact_microbatches": compact}
    if "steps_per_generation" in fields:
        fields.pop("updates_per_rollout")
    if not compact:
        fields.pop("max_tokens_per_microbatch", None)
    settings = {"reward_funcs": parity_reward, "train_dataset": plain_dataset(40)}
    torch.manual_seed(0)  # an adapter is drawn, in older releases of TRL before they set the seed
    if "rollout_func" not in kwargs:
        settings["rollout_func"] = scripted_rollout(rewardable)
    return train(DAPOTrainer, dapo_args(tmp_path, **fields), prepare=prepare, **{**settings, **kwargs})


def both(tmp_path, make=dict, **kwargs):
    """Trains with packing and without from the same start; `make()` returns arguments that a run may change."""
    return go(tmp_path, True, **kwargs, **make()), go(tmp_path, False, **kwargs, **make())


def distance(ours, theirs):
    """Largest difference of a parameter tensor, relative to its norm, or to 1e-3 where that is next to 0."""
    pairs = [(value, theirs.parameters[name]) for name, value in ours.parameters.items()]
    return max(((one - other).norm() / other.norm().clamp(min=1e-3)).item() for one, other in pairs)


def assert_same_logs(ours, theirs, but=()):
    assert len(ours.logs) == len(theirs.logs) > 0
    for our_log, their_log in zip(ours.logs, theirs.logs, strict=True):
        keys = {key for key in their_log if "seconds" not in key} - OWN_KEYS - set(but)
        # Sums over all tokens, in another order
        for key in ("loss", "grad_norm"):
            assert our_log[key] == pytest.approx(their_log[key], rel=1e-5, abs=1e-7)
        keys -= {"loss", "grad_norm"}
        assert {key: our_log[key] for key in keys} == pytest.approx({key: their_log[key] for key in keys}, rel=1e-6)


# ----------------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("loss_type", ONE_DENOMINATOR_LOSSES + ROW_MEAN_LOSSES)
def test_parameters_and_metrics_are_those_of_trls_micro_batches(tmp_path, loss_type):
    ours, theirs = both(tmp_path, fields=fields_of(loss_type))
    assert distance(ours, theirs) < 1e-6
    assert_same_logs(ours, theirs)
    # It did something: a third of the rows is truncated, and the others differ in length
    assert all(log["packing/live_rows"] < 0.9 for log in ours.logs)
    assert all(log["packing/padded_per_real_token"] < 1.3 for log in ours.logs)


class _PlainHead:
    """TRL's fused head as plain torch, which keeps float64: the host's sums in float32."""

    @staticmethod
    def apply(hidden, weight, bias, targets, temperature, *_):
        logps = torch.log_softmax(torch.nn.functional.linear(hidden, weight, bias) / temperature, dim=-1)
        entropy = -(logps.exp() * logps).sum(dim=-1).detach()
        return logps.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy, None, None, None


def positional_model():
    """A float64 model with learned positions and no norm that rounds to float32."""
    tokenizer = tiny_tokenizer()
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    drops = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ids, **drops)).double()


@pytest.mark.parametrize("loss_type", ONE_DENOMINATOR_LOSSES + ROW_MEAN_LOSSES)
@pytest.mark.parametrize("limit", [None, 60, 1000])  # as many micro-batches as TRL, more, one
def test_in_float64_they_are_equal_to_twelve_digits(tmp_path, monkeypatch, loss_type, limit):
    if hasattr(trl.trainer.utils, "_ChunkedLogProbFunction"):
        monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", _PlainHead)
    fields = fields_of(loss_type, max_tokens_per_microbatch=limit)
    ours, theirs = both(tmp_path, fields=fields, make=lambda: {"model": positional_model()})
    assert ours.parameters["transformer.wte.weight"].dtype == torch.float64
    assert distance(ours, theirs) < 1e-12


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_clipped_tokens_are_counted_as_trl_counts_them(tmp_path, loss_type):
    # A learning rate that moves the policy out of the clip range within a rollout
    ours, theirs = both(tmp_path, fields=fields_of(loss_type, learning_rate=5e-2, max_steps=2))
    assert_same_logs(ours, theirs)
    clipped = ours.logs[1]
    assert clipped["clip_ratio/high_max"] > clipped["clip_ratio/high_mean"] > 0
    assert clipped["clip_ratio/low_mean"] > clipped["clip_ratio/low_min"]


def test_rows_without_advantage_are_left_out_and_their_entropy_with_them(tmp_path):
    # Half of the groups are constant and, without dynamic sampling, trained on
    fields = fields_of("dapo", dynamic_sampling=False, learning_rate=5e-2, max_steps=2)
    seen = []

    def record(trainer):
        host = trainer._compute_loss

        def recorded(model, inputs):
            if torch.is_grad_enabled():
                seen.append(inputs["advantages"].tolist())
            return host(model, inputs)

        trainer._compute_loss = recorded

    ours = go(tmp_path, True, fields=fields, prepare=record)
    theirs = go(tmp_path, False, fields=fields)
    assert all(advantage != 0 for rows in seen for advantage in rows)
    assert distance(ours, theirs) < 1e-5
    # Their share of clipped tokens is 0, so these keep TRL's denominators
    assert_same_logs(ours, theirs, but=["entropy"])
    assert ours.logs[1]["entropy"] != theirs.logs[1]["entropy"]
    assert ours.logs[1]["entropy"] == pytest.approx(theirs.logs[1]["entropy"], rel=0.05)


def test_vespo_keeps_rows_without_advantage_for_its_metric(tmp_path):
    # It logs a mean over all rows, of weights that a row left out would not have
    ours, theirs = both(tmp_path, fields=fields_of("vespo", dynamic_sampling=False, max_steps=3, learning_rate=5e-3))
    assert distance(ours, theirs) < 1e-5
    assert_same_logs(ours, theirs)
    assert ours.logs[1]["vespo/phi_seq_mean"] != 1


def test_the_entropy_is_the_mean_over_the_rows_that_were_run(tmp_path):
    # One micro-batch of one update: the mean over its tokens, computed here from what the model returned
    fields = fields_of("dapo", dynamic_sampling=False, gradient_accumulation_steps=1, updates_per_rollout=1)
    scored = []

    def record(trainer):
        host = trainer._get_per_token_logps_and_entropies

        def recorded(*args, **kwargs):
            output = host(*args, **kwargs)
            if torch.is_grad_enabled():
                mask = trainer.present_pass.inputs(None, None)["completion_mask"]
                scored.append((output[1].double(), mask))
            return output

        trainer._get_per_token_logps_and_entropies = recorded

    sizes = {"per_device_train_batch_size": 16, "max_steps": 1}
    ours = go(tmp_path, True, prepare=record, fields={**fields, **sizes})
    ((entropies, mask),) = scored
    assert ours.logs[0]["entropy"] == pytest.approx(((entropies * mask).sum() / mask.sum()).item(), rel=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, id="updates-across-rollouts"),
        pytest.param({"steps_per_generation": 1, "gradient_accumulation_steps": 2}, id="two-rollouts-per-update"),
        pytest.param({"steps_per_generation": 1, "num_iterations": 2}, id="a-rollout-twice-in-an-update"),
        pytest.param({"num_iterations": 2}, id="iterated"),
        pytest.param({"gradient_accumulation_steps": 1, "updates_per_rollout": 1}, id="one-micro-batch"),
        pytest.param({"beta": 0.1, "peft": True}, id="kl"),
        # Rows whose advantage is 0 have a gradient all the same
        pytest.param({"beta": 0.5, "peft": True, "dynamic_sampling": False, "max_grad_norm": 0.0}, id="kl-alone"),
        pytest.param({"delta": 1.4, "importance_sampling_level": "sequence"}, id="sequence-ratio"),
        pytest.param({"gradient_checkpointing": True}, id="checkpointing"),
        pytest.param({"pad_to_multiple_of": 8}, id="padded-to-eight"),
        pytest.param({"token_level_scope": "prompt"}, id="advantage-per-token"),
        pytest.param({"surplus": "carry", "max_round_batches": 2.0}, id="carried-groups"),
        pytest.param({"max_refill_rounds": 0}, id="fillers"),
        pytest.param({"overlong_filtering": False}, id="truncated-rows-in-the-loss"),
        pytest.param({"max_grad_norm": 0.05}, id="clipped-gradient"),
    ],
)
@pytest.mark.parametrize("limit", [None, 70])
def test_every_shape_of_an_update(tmp_path, fields, limit):
    fields = {**fields, "max_tokens_per_microbatch": limit}
    lora = {"peft_config": tiny_lora()} if fields.pop("peft", False) else {}
    # The pieces of an epoch that do not fill an update: 40 prompts are 5 rollouts of 8, 13 of 3
    ours, theirs = both(tmp_path, fields=fields, **lora)
    assert distance(ours, theirs) < 2e-6
    assert_same_logs(ours, theirs)


def test_the_last_update_of_an_epoch_may_be_smaller(tmp_path):
    # 3 micro-steps an update, 4 a rollout, 2 rollouts an epoch: updates of 3, 3 and 2 micro-steps
    fields = {"steps_per_generation": 4, "gradient_accumulation_steps": 3, "max_steps": 6, "num_train_epochs": 2}
    ours, theirs = both(tmp_path, fields=fields, train_dataset=plain_dataset(8), rewardable=None)
    assert distance(ours, theirs) < 1e-6
    assert_same_logs(ours, theirs)


@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param({"peft_config": tiny_lora()}, id="peft"),
        pytest.param({"rollout_func": scripted_rollout(even, env_mask=True)}, id="tokens-of-an-environment"),
        pytest.param({"train_dataset": conversational_dataset(40)}, id="conversational"),
        pytest.param({"reward_funcs": [share_reward, sometimes_none_reward]}, id="unscored-rows"),
    ],
)
def test_every_kind_of_input(tmp_path, kwargs):
    ours, theirs = both(tmp_path, **kwargs)
    assert distance(ours, theirs) < 1e-6
    assert_same_logs(ours, theirs)


def test_tools(tmp_path):
    # Row 0 of a group calls the tool, the others answer; what the tool says is not in the loss
    turns = tool_turns(lambda number, row: tool_call("multiply", a=number, b=2) if row == 0 else None)
    ours, theirs = both(
        tmp_path,
        fields={"max_completion_length": 256, "max_steps": 3},
        prepare=lambda trainer: script_generation(trainer, turns),
        processing_class=tiny_tool_tokenizer(),
        train_dataset=conversational_dataset(40),
        tools=[multiply],
        reward_funcs=used_tool_reward,
        rollout_func=None,
    )
    assert distance(ours, theirs) < 1e-6
    assert_same_logs(ours, theirs)
    assert ours.logs[0]["tools/call_frequency"] > 0
    assert all(log["packing/padded_per_real_token"] < 1.3 for log in ours.logs)


@pytest.mark.parametrize(("kind", "counts"), [("llava", (1, 2)), ("qwen", (1, 2)), ("llava", None)])
def test_images(tmp_path, kind, counts):
    def make():
        model, processor = tiny_vlm(kind)
        return {"model": model, "processing_class": processor}

    fields = {"dynamic_sampling": False, "overlong_filtering": False, "max_completion_length": 8, "max_steps": 3}
    data = {"train_dataset": image_dataset(16, counts), "rollout_func": None, "reward_funcs": share_reward}
    ours, theirs = both(tmp_path, fields=fields, make=make, **data)
    assert distance(ours, theirs) < 2e-6
    assert_same_logs(ours, theirs, but=["entropy"])


def test_an_update_in_which_no_row_lives_is_trls_with_zero_gradient(tmp_path):
    # Every group is constant: the first two updates learn nothing from advantages of 0, on a model with weight decay
    fields = {"dynamic_sampling": False, "weight_decay": 0.1, "max_steps": 4, "learning_rate": 1e-2}
    ours, theirs = both(tmp_path, rewardable=never, fields=fields)
    assert distance(ours, theirs) < 1e-7
    assert [log["grad_norm"] for log in ours.logs] == [0.0] * 4
    assert [log["packing/live_rows"] for log in ours.logs] == [0.0] * 4
    assert [log["packing/microbatches"] for log in ours.logs] == [1.0] * 4
    assert_same_logs(ours, theirs, but=["entropy"])
    start = tiny_model(tiny_tokenizer())
    assert any(not torch.equal(value, ours.parameters[name]) for name, value in start.named_parameters())


def test_momentum_goes_on_where_no_row_lives(tmp_path):
    # Only the first rollout has an informative group; the updates after it move on by momentum alone
    def first_only(prompts, completions, completion_ids, **kwargs):
        first_only.calls += 1
        return [float(sum(ids) % 2) if first_only.calls == 1 else 1.0 for ids in completion_ids]

    runs = []
    for compact in (True, False):
        first_only.calls = 0
        fields = {"dynamic_sampling": False, "max_steps": 4, "learning_rate": 1e-2}
        runs.append(go(tmp_path, compact, rewardable=None, fields=fields, reward_funcs=first_only))
    assert distance(*runs) < 1e-6
    assert runs[0].logs[0]["packing/live_rows"] > 0
    assert runs[0].logs[3]["packing/live_rows"] == 0


# -------------------------------------------------------------------------------------------------------- what is done


def passes(trainer):
    """Lists, for each pass of the model with gradient and without, the shape of its input."""
    shapes = {"update": [], "no_grad": []}

    def note(_, args, kwargs):
        shape = tuple(kwargs["input_ids"].shape)
        # Not the three tokens on which it is tried how the model numbers positions
        if trainer.model.training and shape[1] > 3:
            shapes["update" if torch.is_grad_enabled() else "no_grad"].append(shape)

    trainer.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


def watched(tmp_path, compact, **kwargs):
    noted = []
    go(tmp_path, compact, prepare=lambda trainer: noted.append(passes(trainer)), **kwargs)
    return noted[0]


def test_as_many_micro_batches_as_trl_and_none_larger(tmp_path):
    ours, theirs = watched(tmp_path, True), watched(tmp_path, False)
    assert len(ours["update"]) == len(theirs["update"]) == 5 * 4
    assert max(rows * width for rows, width in ours["update"]) < max(rows * width for rows, width in theirs["update"])
    # 32 rows a rollout, of which a third is truncated
    assert sum(rows for rows, _ in ours["update"]) < 0.8 * sum(rows for rows, _ in theirs["update"])
    assert {rows for rows, _ in theirs["update"]} == {4}
    assert len({rows for rows, _ in ours["update"]}) > 1


def test_passes_without_gradient_are_packed_too(tmp_path):
    ours, theirs = watched(tmp_path, True), watched(tmp_path, False)
    # 3 rollouts of 32 rows in 8 passes each
    assert len(ours["no_grad"]) == len(theirs["no_grad"]) == 3 * 8
    cost = [sum(rows * width for rows, width in shapes["no_grad"]) for shapes in (ours, theirs)]
    assert cost[0] < 0.6 * cost[1]


@pytest.mark.parametrize("limit", [35, 70, 1000])
def test_no_micro_batch_is_above_the_limit_unless_a_single_row_is(tmp_path, limit):
    fields = {"max_tokens_per_microbatch": limit}
    ours, theirs = watched(tmp_path, True, fields=fields), watched(tmp_path, False)
    for kind in ("update", "no_grad"):
        assert all(rows * width <= limit or rows == 1 for rows, width in ours[kind])
    # The number of micro-batches follows: fewer than TRL's 4 an update where more tokens fit
    assert len(ours["update"]) == 5 if limit == 1000 else len(ours["update"]) > len(theirs["update"])


def test_rows_of_one_length_are_left_in_trls_micro_batches_bit_for_bit(tmp_path):
    def constant(prompts, trainer):
        rows = range(len(prompts))
        ids = [[20 + (row + k) % 60 for k in range(11)] + [trainer.processing_class.eos_token_id] for row in rows]
        return {"prompt_ids": [[20, 21, 22]] * len(ids), "completion_ids": ids, "logprobs": [[-1.0] * 12] * len(ids)}

    ours, theirs = both(tmp_path, rollout_func=constant, fields={"dynamic_sampling": False})
    assert distance(ours, theirs) == 0
    assert ours.losses == theirs.losses
    # 3 + 12 tokens in each row, all of them real
    assert {log["packing/padded_per_real_token"] for log in ours.logs} == {1.0}
    assert {log["packing/microbatches"] for log in ours.logs} == {4.0}


def test_evaluation_is_the_hosts(tmp_path):
    kwargs = {"reward_funcs": share_reward, "eval_dataset": plain_dataset(4), "train_dataset": plain_dataset(40)}
    logged = []
    for compact in (True, False):
        trainer = build(DAPOTrainer, dapo_args(tmp_path, **SHAPE, compact_microbatches=compact), **kwargs)
        values = trainer.evaluate()
        logged.append({key: value for key, value in values.items() if not key.endswith(("time", "per_second"))})
    assert logged[0] == logged[1]


class Clock(TrainerCallback):
    """A clock that stands still but for what is counted, and notes how far each optimizer step moved it."""

    def __init__(self):
        self.now, self.steps = 0.0, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.began = self.now

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append(self.now - self.began)

    def advance(self, seconds):
        self.now += seconds


@pytest.mark.parametrize("limit", [35, None])
def test_the_step_time_has_the_generation_and_every_pass_in_it(tmp_path, monkeypatch, limit):
    clock, script = Clock(), scripted_rollout(even)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)

    def rollout(prompts, trainer):
        clock.advance(1000)
        return script(prompts, trainer)

    def count_passes(trainer):
        trainer.model.base_model.register_forward_pre_hook(lambda *_: clock.advance(1))

    fields = {"max_tokens_per_microbatch": limit}
    run = go(tmp_path, True, prepare=count_passes, rollout_func=rollout, callbacks=[clock], fields=fields)
    assert [log["step_time"] for log in run.logs] == clock.steps
    # 3 rollouts in 5 updates, of two or more rounds of 1000 s each; no update is without a pass
    assert [seconds >= 2000 for seconds in clock.steps] == [True, False, True, False, True]
    assert sum(clock.steps) // 1000 == len(script.calls)
    assert min(clock.steps) > 0


# ------------------------------------------------------------------------------------------------------ passed through


@pytest.mark.parametrize(
    "fields",
    [
        {"loss_type": "bnpo"},
        {"top_entropy_quantile": 0.5},
        {"entropy_coef": 0.01},
        {"use_adaptive_entropy": True, "entropy_target": 1.0, "entropy_coef": 0.01},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_where_micro_batches_matter_to_the_loss_they_are_trls(tmp_path, fields):
    ours, theirs = both(tmp_path, fields={**fields, "max_steps": 3})
    assert distance(ours, theirs) == 0
    assert ours.losses == theirs.losses


def test_a_second_training_starts_with_a_whole_update(tmp_path):
    trainer = build(
        DAPOTrainer,
        dapo_args(tmp_path, **SHAPE),
        reward_funcs=parity_reward,
        rollout_func=scripted_rollout(even),
        train_dataset=plain_dataset(40),
    )
    trainer.train()
    phase = trainer.update_phase
    phase._steps_in_update, phase.window = 3, object()  # as after an error inside an update
    trainer.train()
    assert phase._steps_in_update == 0
    assert phase.window is None


def test_a_reference_model_is_scored_in_packed_passes(tmp_path):
    model = save_tiny_model(tmp_path / "model", tiny_tokenizer())
    ours, theirs = both(tmp_path / "out", model=model, fields={"beta": 0.1})
    assert distance(ours, theirs) < 1e-6
    assert_same_logs(ours, theirs)
    assert ours.logs[-1]["kl"] > 0
