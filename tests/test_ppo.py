"""PPOTrainer: gradients against two independent models, what stays put, checkpoints, and what it refuses."""

import inspect
import math
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.nn.functional import log_softmax
from transformers import Trainer
from trl import GRPOConfig
from trl.generation.vllm_generation import VLLMGeneration

from ppo_runs import (
    WHOLE,
    assert_close,
    excite,
    four_bit,
    independent_gradients,
    joined_rows,
    ppo_args,
    ppo_trainer,
    recorded,
)
from tiny import (
    conversational_dataset,
    none_reward,
    parity_reward,
    plain_dataset,
    save_tiny_model,
    scripted_rollout,
    share_reward,
    snapshot,
    sometimes_none_reward,
    tiny_args,
    tiny_lora,
    tiny_model,
    tiny_tokenizer,
)
from training import assert_same_tensors, build, record_rollouts
from trl_dapo import PPOConfig, PPOTrainer


HERE = Path(__file__).parent
# Four micro-steps per rollout, in one update each, passed over twice
MANY = {"steps_per_generation": 4, "num_iterations": 2, "num_generations": 1, "max_steps": 10, "beta": 0.1}


def train_logs(trainer):
    return [log for log in trainer.state.log_history if "loss" in log]


def critic_state(trainer):
    named = trainer.critic.model.named_parameters()
    chosen = {id(parameter) for parameter in trainer.critic.parameters}
    return {name: parameter.detach().clone() for name, parameter in named if id(parameter) in chosen}


def policy_state(trainer):
    chosen = {id(parameter) for parameter in trainer.critic.parameters}
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if id(p) not in chosen}


# Gradients


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("checkpointing", [None, {"use_reentrant": False}, {"use_reentrant": True}])
@pytest.mark.parametrize("quantized", [False, True])
def test_gradients_on_one_base_are_those_of_two_models(tmp_path, quantized, checkpointing, compact):
    path = save_tiny_model(tmp_path / "base", tiny_tokenizer(), layers=2)

    def base():
        return four_bit(path) if quantized else tiny_model(tiny_tokenizer(), layers=2)

    fields = {
        "gradient_checkpointing": checkpointing is not None,
        "gradient_checkpointing_kwargs": checkpointing,
        "compact_microbatches": compact,
    }
    args = ppo_args(tmp_path, **{**WHOLE, **fields})
    trainer = ppo_trainer(tmp_path, args, model=base())
    excite(trainer)
    steps = recorded(trainer)
    assert len(steps.gradients) == 2
    for state, gradients in zip(steps.states, steps.gradients, strict=True):
        config = tiny_lora(init_lora_weights=False)
        expected = independent_gradients(base, config, state, steps.rollouts[0], args)
        assert_close(gradients, expected)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppo")
    save_tiny_model(folder / "model", tiny_tokenizer())
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run(
        [*command, str(HERE / "ppo_worker.py"), str(folder)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
        capture_output=True,
        text=True,
    )
    return folder


def ranks(folder, name):
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_two_models(two_processes):
    first, second = ranks(two_processes, "shared_base")
    rows = joined_rows([part["rollouts"][0] for part in (first, second)])
    for step, state in enumerate(first["states"]):
        assert_same_tensors(state, second["states"][step])
        assert_same_tensors(first["gradients"][step], second["gradients"][step])
        args = ppo_args(two_processes, **WHOLE)
        config = tiny_lora(init_lora_weights=False)
        expected = independent_gradients(lambda: tiny_model(tiny_tokenizer()), config, state, rows, args)
        assert_close(first["gradients"][step], expected)


@pytest.mark.slow
def test_advantages_are_whitened_over_both_processes(two_processes):
    rows = joined_rows([part["rollouts"][0] for part in ranks(two_processes, "shared_base")])
    kept = rows["advantages"][rows["completion_mask"].bool()].double()
    assert kept.mean().item() == pytest.approx(0, abs=1e-6)
    assert kept.std().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.slow
def test_each_process_has_the_scores_of_its_own_rows(two_processes):
    for part in ranks(two_processes, "scores"):
        sums = (part["completion_ids"] * part["completion_mask"]).sum(dim=1)
        assert torch.allclose(part["returns"][:, 0], sums.float(), rtol=1e-5)


@pytest.mark.slow
def test_two_models_on_two_processes_stay_alike(two_processes):
    first, second = ranks(two_processes, "separate")
    assert_same_tensors(first["policy"], second["policy"])
    assert_same_tensors(first["critic"], second["critic"])
    assert first["kl_coef"] == second["kl_coef"] != WHOLE["beta"]
    assert torch.equal(first["scores"], second["scores"])
    # 2 rollouts of 16 rows on each of 2 processes
    assert first["scores"][0] == 64


@pytest.mark.parametrize("peft", [True, False])
def test_packed_microbatches_give_the_same_parameters(tmp_path, peft):
    path = save_tiny_model(tmp_path / "model", tiny_tokenizer())
    ends = []
    for compact in (True, False):
        fields = {**WHOLE, "max_steps": 6, "compact_microbatches": compact, "learning_rate": 5e-3}
        more = {} if peft else {"peft_config": None}
        trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **fields), model=path, **more)
        # Adam divides by the noise of gradients that are 0
        trainer.args.adam_epsilon = 1e-3
        trainer.train()
        ends.append((policy_state(trainer), critic_state(trainer), train_logs(trainer)))
    for one, other in zip(ends[0][:2], ends[1][:2], strict=True):
        for name, tensor in one.items():
            assert (tensor - other[name]).abs().max() < 1e-6, name
    assert ends[0][2][0]["packing/padded_per_real_token"] < 1.3
    for name in ("loss/value", "value/clip_frac", "policy/approx_kl", "value/grad_norm"):
        for packed, plain in zip(ends[0][2], ends[1][2], strict=True):
            assert packed[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-6), name


# What moves and what does not


@pytest.mark.parametrize("checkpointing", [False, True])
def test_small_updates_move_both_adapters_on_a_4bit_base(tmp_path, checkpointing):
    path = save_tiny_model(tmp_path / "base", tiny_tokenizer())
    fields = {**WHOLE, "learning_rate": 1e-6, "critic_learning_rate": 1e-6, "gradient_checkpointing": checkpointing}
    trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **fields), model=four_bit(path))
    excite(trainer)
    before = snapshot(trainer.model)
    trainer.train()
    after = snapshot(trainer.model)
    for adapter in ("default", "value"):
        names = [name for name in before if f"lora_A.{adapter}" in name]
        moved = torch.cat([(after[name] != before[name]).double().flatten() for name in names])
        assert moved.mean() > 0.99
    trained = ("lora_", "modules_to_save.value")
    assert_same_tensors(*({n: v for n, v in s.items() if not any(t in n for t in trained)} for s in (before, after)))
    assert {p.dtype for p in trainer.critic.parameters} == {torch.float32}


def test_the_kl_is_that_from_the_base_model(tmp_path):
    args = ppo_args(tmp_path, **{**WHOLE, "max_steps": 6})
    trainer = ppo_trainer(tmp_path, args, peft_config=tiny_lora())  # starts as the base
    steps = recorded(trainer)
    base = tiny_model(tiny_tokenizer())
    kls = [log["objective/kl"] for log in train_logs(trainer) if "objective/kl" in log]
    for rows, kl in zip(steps.rollouts, kls, strict=True):
        ids = torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1)
        attention = torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1)
        with torch.no_grad():
            logits = base(input_ids=ids, attention_mask=attention).logits[:, -rows["completion_ids"].size(1) - 1 : -1]
        ref = log_softmax(logits, dim=-1).gather(2, rows["completion_ids"].unsqueeze(2)).squeeze(2)
        per_row = ((rows["old_per_token_logps"] - ref) * rows["completion_mask"]).sum(dim=1)
        assert kl == pytest.approx(per_row.mean().item(), rel=1e-4, abs=1e-5)
    assert abs(kls[-1] - kls[0]) > 1e-3


@pytest.mark.parametrize("peft", [True, False])
def test_the_policy_stays_put_while_the_critic_warms_up(tmp_path, peft):
    path = save_tiny_model(tmp_path / "model", tiny_tokenizer())
    fields = {**WHOLE, "max_steps": 2, "critic_warmup_steps": 2, "weight_decay": 0.1}
    more = {} if peft else {"peft_config": None}
    trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **fields), model=path, **more)
    policy, critic = policy_state(trainer), critic_state(trainer)
    trainer.train()
    assert_same_tensors(policy_state(trainer), policy)
    assert any(not torch.equal(tensor, critic[name]) for name, tensor in critic_state(trainer).items())
    longer = ppo_trainer(tmp_path, ppo_args(tmp_path, **{**fields, "max_steps": 3}), model=path, **more)
    longer.train()
    assert any(not torch.equal(tensor, policy[name]) for name, tensor in policy_state(longer).items())


def test_policy_and_critic_have_learning_rates_and_norms_of_their_own(tmp_path):
    fields = {**WHOLE, "max_grad_norm": 1e-3, "critic_max_grad_norm": 1e-4, "critic_learning_rate": 3e-3}
    trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **fields))
    excite(trainer)
    steps = recorded(trainer)
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == {2e-2, 3e-3}
    log = train_logs(trainer)[0]
    gradients = steps.gradients[0]
    for part, most, logged in ((".default.", 1e-3, "grad_norm"), (".value.", 1e-4, "value/grad_norm")):
        mine = torch.cat([gradient.flatten() for name, gradient in gradients.items() if part in name])
        assert mine.norm().item() == pytest.approx(most, rel=1e-2)
        assert log[logged] > most


def test_a_separate_critic_is_zeroed_between_updates(tmp_path):
    path = save_tiny_model(tmp_path / "model", tiny_tokenizer())
    trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **{**WHOLE, "max_steps": 3}), model=path, peft_config=None)
    seen = []
    host = trainer.critic.learn

    def learn(compute_loss):
        seen.append([parameter.grad for parameter in trainer.critic.parameters])
        host(compute_loss)

    trainer.critic.learn = learn
    trainer.train()
    # 3 updates of 2 micro-batches
    assert len(seen) == 6
    assert all(gradient is None for gradients in seen for gradient in gradients)


def test_rows_are_dealt_anew_in_each_pass(tmp_path):
    trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **MANY))
    dealt = []
    phase = trainer.update_phase
    host = phase._open_window

    def opened(inputs):
        window = host(inputs)
        dealt.append([tuple(row) for row in window.batch["completion_ids"].tolist()])
        return window

    phase._open_window = opened
    trainer.train()
    first, second = dealt[:4], dealt[4:8]
    assert sorted(chain(*first)) == sorted(chain(*second))
    assert all(sorted(one) != sorted(other) for one, other in zip(first, second, strict=True))


# Scores


def rollouts_of(tmp_path, fields, **kwargs):
    trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **{**WHOLE, "beta": 0.0, "lam": 1.0, **fields}), **kwargs)
    rollouts = record_rollouts(trainer)
    trainer.train()
    return trainer, rollouts


def first_returns(rollout):
    """With gamma and lambda 1 and no KL, the return of every token is the score."""
    return rollout["returns"][:, 0]


def test_the_return_is_the_score(tmp_path):
    _, (rollout,) = rollouts_of(tmp_path, {})
    sums = (rollout["completion_ids"] * rollout["completion_mask"]).sum(dim=1)
    assert torch.allclose(first_returns(rollout), (sums % 2).float(), atol=1e-6)


def test_cut_completions_are_penalised(tmp_path):
    _, (rollout,) = rollouts_of(tmp_path, {"missing_eos_penalty": 3.0})
    sums = (rollout["completion_ids"] * rollout["completion_mask"]).sum(dim=1)
    ends = (rollout["completion_ids"] == tiny_tokenizer().eos_token_id).any(dim=1)
    assert 0 < ends.sum() < len(ends)
    assert torch.allclose(first_returns(rollout), sums % 2 - 3.0 * ~ends, atol=1e-6)


def test_scores_are_normalised_by_all_so_far_and_clipped(tmp_path):
    def rising(completion_ids, **kwargs):
        rising.calls += 1
        return [float(rising.calls * row) for row in range(len(completion_ids))]

    rising.calls = 0
    fields = {"normalize_rewards": True, "reward_clip": 1.2, "max_steps": 4}
    trainer, (first, second) = rollouts_of(tmp_path, fields, reward_funcs=rising)
    one, two = torch.arange(16.0), 2 * torch.arange(16.0)
    expected = ((one - one.mean()) / one.std()).clamp(-1.2, 1.2)
    assert torch.allclose(first_returns(first).sort().values, expected, atol=1e-5)
    both = torch.cat([one, two])
    expected = ((two - both.mean()) / both.std()).clamp(-1.2, 1.2)
    assert torch.allclose(first_returns(second).sort().values, expected, atol=1e-5)
    assert trainer._running_scores.sums[0] == 32


def test_rows_without_a_score_are_left_out(tmp_path):
    _, (rollout,) = rollouts_of(tmp_path, {}, reward_funcs=sometimes_none_reward)
    kept = rollout["completion_mask"].any(dim=1)
    assert 0 < kept.sum() < len(kept)
    assert int(rollout["num_items_in_batch"]) == int(rollout["completion_mask"].sum())
    assert (rollout["advantages"][~kept] == 0).all()
    assert (rollout["returns"][~kept] == 0).all()
    trainer, _ = rollouts_of(tmp_path, {}, reward_funcs=none_reward)
    assert all(math.isfinite(log["loss"]) for log in train_logs(trainer))


def test_tokens_of_a_tool_are_no_steps(tmp_path):
    script = scripted_rollout(env_mask=True)
    _, (rollout,) = rollouts_of(tmp_path, {"gamma": 0.5}, rollout_func=script)
    assert (rollout["tool_mask"][:, 1] == 0).all()
    assert (rollout["returns"][:, 1] == 0).all()
    tokens = (rollout["completion_mask"] * rollout["tool_mask"]).sum(dim=1)
    score = ((rollout["completion_ids"] * rollout["completion_mask"]).sum(dim=1) % 2).float()
    assert torch.allclose(first_returns(rollout), score * 0.5 ** (tokens - 1), atol=1e-6)


def test_the_kl_coefficient_adapts(tmp_path):
    fields = {**WHOLE, "kl_target": 1e-6, "kl_horizon": 16, "max_steps": 4, "kl_estimator": "k3"}
    trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **fields))
    trainer.train()
    logged = [log["objective/kl_coef"] for log in train_logs(trainer) if "objective/kl_coef" in log]
    # 16 completions of a horizon of 16, first a KL of 0, as the reference is the starting policy, then one far above
    # its target: 0.3 * 0.8 * 1.2
    assert logged == [0.3, pytest.approx(0.24)]
    assert trainer._kl_coefficient.value == pytest.approx(0.288)


@pytest.mark.parametrize("dataset", [plain_dataset, conversational_dataset])
def test_all_metrics_are_logged(tmp_path, dataset):
    args = ppo_args(tmp_path, **MANY, eval_strategy="steps", eval_steps=8)
    trainer = build(
        PPOTrainer,
        args,
        reward_funcs=share_reward,
        peft_config=tiny_lora(),
        train_dataset=dataset(64),
        eval_dataset=dataset(8),
    )
    trainer.train()
    logs = train_logs(trainer)
    of_rollouts = {
        "objective/kl",
        "objective/kl_coef",
        "objective/rlhf_reward",
        "objective/non_score_reward",
        "objective/scores",
        "value/mean",
        "value/explained_variance",
        "returns/mean",
    }
    of_updates = {"loss/value", "value/clip_frac", "value/grad_norm", "policy/approx_kl", "grad_norm"}
    assert of_rollouts | of_updates <= logs[0].keys()
    assert all(of_updates <= log.keys() for log in logs)
    assert not {"kl", "frac_reward_zero_std"} & logs[0].keys()
    assert logs[0]["policy/approx_kl"] == 0 < logs[-1]["policy/approx_kl"]
    evaluation = next(log for log in trainer.state.log_history if "eval_loss" in log)
    assert {f"eval_{name}" for name in of_rollouts} <= evaluation.keys()


# Checkpoints


@pytest.mark.parametrize("peft", [True, False])
@pytest.mark.parametrize("checkpoint", [3, 4])
def test_a_resumed_run_equals_one_never_stopped(tmp_path, peft, checkpoint):
    path = save_tiny_model(tmp_path / "model", tiny_tokenizer())
    fields = {**MANY, "normalize_rewards": True, "kl_target": 0.01, "kl_horizon": 50}
    ends = []
    for resume in (None, f"{tmp_path}/run/checkpoint-{checkpoint}"):
        args = ppo_args(tmp_path / "run", **fields, save_strategy="steps", save_steps=1, logging_steps=2)
        trainer = build(
            PPOTrainer,
            args,
            model=path,
            peft_config=tiny_lora() if peft else None,
            reward_funcs=share_reward,
            train_dataset=plain_dataset(64),
        )
        trainer.train(resume_from_checkpoint=resume)
        ends.append(trainer)
    whole, again = ends
    assert_same_tensors(policy_state(whole), policy_state(again))
    assert_same_tensors(critic_state(whole), critic_state(again))
    assert whole._kl_coefficient.value == again._kl_coefficient.value != 0.1
    assert torch.equal(whole._running_scores.sums, again._running_scores.sums)
    timed = ("step_time", "train_", "seconds")
    logs = [
        [{k: v for k, v in log.items() if not any(t in k for t in timed)} for log in train_logs(trainer)]
        for trainer in ends
    ]
    assert logs[0] == logs[1]


def test_the_root_of_a_checkpoint_is_a_lora_of_the_policy(tmp_path):
    trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **WHOLE))
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    policy = PeftModel.from_pretrained(tiny_model(tiny_tokenizer()), tmp_path / "saved")
    assert list(policy.peft_config) == ["default"]
    theirs = {name: value for name, value in snapshot(trainer.model).items() if ".default." in name}
    assert_same_tensors({n: v for n, v in snapshot(policy).items() if "lora_" in n}, theirs)
    critic = load_file(tmp_path / "saved" / "value" / "adapter_model.safetensors")
    assert any("score" in name for name in critic)
    assert {tensor.dtype for tensor in critic.values()} == {torch.float32}


def test_another_trainers_checkpoint_is_refused(tmp_path):
    from trl_dapo import GRPOConfig, GRPOTrainer

    args = tiny_args(tmp_path, cls=GRPOConfig, max_steps=1, save_strategy="steps", save_steps=1)
    build(GRPOTrainer, args, reward_funcs=share_reward, peft_config=tiny_lora()).train()
    with pytest.raises(ValueError, match="not written by PPOTrainer"):
        ppo_trainer(tmp_path).train(resume_from_checkpoint=f"{tmp_path}/checkpoint-1")


# vLLM


def test_the_head_does_not_reach_vllm(tmp_path):
    trainer = ppo_trainer(tmp_path)
    names = ["model.norm.weight", "score.modules_to_save.value.weight", "lm_head.weight"]
    trainer.vllm_generation = SimpleNamespace(_iter_named_params=lambda: ((name, None) for name in names))
    trainer.host.keep_from_vllm("score.modules_to_save.")
    assert [name for name, _ in trainer.vllm_generation._iter_named_params()] == [names[0], names[2]]


# What PPO builds on beyond the seams of GRPO's trainer


def test_the_host_has_what_ppo_overrides_and_calls():
    overridden = {
        "create_optimizer": ["self", "model"],
        "_save": ["self", "output_dir", "state_dict"],
    }
    for name, parameters in overridden.items():
        assert list(inspect.signature(getattr(Trainer, name)).parameters) == parameters
    assert callable(VLLMGeneration._iter_named_params)


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gamma": 1.1}, r"`gamma` must be in \[0, 1\], got 1.1"),
        ({"lam": -0.1}, r"`lam` must be in \[0, 1\], got -0.1"),
        ({"kl_estimator": "k2"}, "`kl_estimator` must be one of .*'k2'"),
        ({"cliprange_value": 0.0}, "`cliprange_value` must be above 0, got 0.0"),
        ({"reward_clip": -1.0}, "`reward_clip` must be above 0, got -1.0"),
        ({"critic_learning_rate": -1.0}, "`critic_learning_rate` must not be negative"),
        ({"critic_warmup_steps": -1}, "`critic_warmup_steps` must not be negative"),
        ({"kl_target": 1.0, "beta": 0.0}, "kl_target=1.0 .* beta=0.0"),
        ({"missing_eos_penalty": 1.0, "mask_truncated_completions": True}, "missing_eos_penalty=1.0"),
        ({"loss_type": "cispo"}, "loss_type='cispo' is not PPO's clipped surrogate"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level='sequence' has no meaning"),
        ({"use_transformers_continuous_batching": True}, "use_transformers_continuous_batching=True"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        ppo_args(tmp_path, **fields)


def test_defaults_of_the_config(tmp_path):
    config = PPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert (config.num_generations, config.num_iterations, config.beta) == (1, 4, 0.05)
    assert type(config.num_generations) is int
    assert config.critic_learning_rate == pytest.approx(10 * config.learning_rate)
    assert config.disable_dropout
    with pytest.raises(ValueError, match=r"num_generations"):
        ppo_args(tmp_path, num_generations=3)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"peft_config": None, "value_peft_config": tiny_lora()}, ValueError, "`value_peft_config` was given"),
        ({"value_peft_config": "r=4"}, ValueError, "`value_peft_config` must be a LoraConfig, got str"),
        ({"optimizers": (torch.optim.SGD([torch.zeros(1)]), None)}, ValueError, "`optimizers` was given"),
        ({"processing_class": SimpleNamespace(image_processor=None)}, ValueError, "PPOTrainer is for text"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(tmp_path, kwargs, error, message):
    with pytest.raises(error, match=message):
        ppo_trainer(tmp_path, model=tiny_model(tiny_tokenizer()), **kwargs)


def test_another_trainers_config_is_refused(tmp_path):
    with pytest.raises(TypeError, match="`args` must be a PPOConfig, got GRPOConfig"):
        ppo_trainer(tmp_path, tiny_args(tmp_path, cls=GRPOConfig))


def test_a_model_with_a_critic_already_is_refused(tmp_path):
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora())
    model.add_adapter("value", tiny_lora())
    with pytest.raises(ValueError, match="`model` has an adapter 'value'"):
        ppo_trainer(tmp_path, model=model, peft_config=None)


def test_sharded_models_are_refused(tmp_path):
    args = ppo_args(tmp_path, **WHOLE)
    args.deepspeed = {"zero_optimization": {"stage": 2}}
    with pytest.raises(ValueError, match=r"deepspeed=.*DDP"):
        ppo_trainer(tmp_path, args)


def test_too_few_prompts_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`train_dataset` has 2 prompts, and a generation batch needs 4"):
        ppo_trainer(tmp_path, train_dataset=plain_dataset(2))


def test_a_trained_adapter_is_the_policy_and_its_copy_the_reference(tmp_path):
    model = get_peft_model(tiny_model(tiny_tokenizer()), tiny_lora(init_lora_weights=False))
    trainer = ppo_trainer(tmp_path, ppo_args(tmp_path, **{**WHOLE, "max_steps": 3}), model=model, peft_config=None)
    reference = {n: p.clone() for n, p in trainer.model.named_parameters() if ".ref." in n}
    assert reference
    trainer.train()
    assert_same_tensors({n: p for n, p in trainer.model.named_parameters() if ".ref." in n}, reference)
    assert train_logs(trainer)[0]["objective/kl"] == pytest.approx(0, abs=1e-5)


def test_the_critic_can_have_a_lora_of_its_own(tmp_path):
    config = LoraConfig(r=2, target_modules=["down_proj"])
    trainer = ppo_trainer(tmp_path, value_peft_config=config)
    names = [name for name in critic_state(trainer) if "lora_" in name]
    assert names
    assert all("down_proj" in name for name in names)
    assert config.modules_to_save is None
    trainer.train()


def test_a_reward_that_is_no_number_names_the_function_and_the_row(tmp_path):
    def broken(completion_ids, **kwargs):
        return [1.0, "a lot", *[0.0] * (len(completion_ids) - 2)]

    message = r"reward function 'broken' returned 'a lot' \(of type str\) for row 1 of rows 0 to \d+, which is neither"
    with pytest.raises(ValueError, match=message):
        ppo_trainer(tmp_path, reward_funcs=[parity_reward, broken]).train()
