"""
`PPOTrainer`: proximal policy optimization on the rollouts of `GRPOTrainer`.

Generation, reward functions, the clipped surrogate, vLLM and checkpoints are inherited. In here is what PPO does
otherwise: a critic, advantages of single tokens from its values, a KL penalty in the reward, a new order of rows in
each pass. Not in here: the mathematics (`advantages`), the critic itself (`critic`). The invariant: policy and critic
go forward and backward one after the other, never in one graph.
"""

import inspect
import textwrap
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather
from peft import PeftModel
from trl.trainer.utils import disable_dropout_in_model

from ..grpo.trainer import GRPOTrainer, model_name
from ..host.required import required
from ..packing.logprobs import Scoring
from ..packing.rows import Batch, joined, rows_of
from ..qlora.precision import ADAPTER_DTYPES
from ..reward_model.adapter import AdapterReward
from . import critic
from . import estimation as advantages
from .checks import check_arguments
from .config import PPOConfig
from .scores import RunningScores


class PPOTrainer(GRPOTrainer):
    """
    Trainer for Proximal Policy Optimization ([PPO](https://huggingface.co/papers/1707.06347)).

    With PEFT, policy (adapter `default`), critic (adapter `value`) and reference (no adapter) share one base. Without,
    the critic is a copy of the policy, trained beside it, and the reference is the host's.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            Policy, as for [`~trl.GRPOTrainer`].
        reward_funcs (`RewardFunc | list[RewardFunc]`, *optional*):
            Reward functions and reward models, as for [`~trl.GRPOTrainer`].
        args ([`PPOConfig`], *optional*):
            Configuration.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`], *optional*):
            Prompts, as text or conversations.
        *rest, **kwargs:
            All further arguments of [`~trl.GRPOTrainer`], from `eval_dataset` to `environment_factory`.
        value_peft_config ([`~peft.LoraConfig`], *optional*):
            LoRA of the critic. Defaults to the policy's.

    Raises:
        `ValueError`: Where the critic cannot be built or trained as asked; the message names argument and fix.
    """

    _tag_names = ["trl", "ppo"]  # noqa: RUF012
    _name = "PPO"
    _paper = {  # noqa: RUF012
        "title": "Proximal Policy Optimization Algorithms",
        "id": "1707.06347",
        "citation": textwrap.dedent("""\
            @article{schulman2017proximal,
                title        = {{Proximal Policy Optimization Algorithms}},
                author       = {John Schulman and Filip Wolski and Prafulla Dhariwal and Alec Radford and Oleg Klimov},
                year         = 2017,
                eprint       = {arXiv:1707.06347},
            }"""),
    }

    args: PPOConfig  # ty: ignore[incompatible-mutable-override]

    def __init__(
        self, model, reward_funcs=None, args=None, train_dataset=None, *rest, value_peft_config=None, **kwargs
    ) -> None:
        args = self._own_config(model, args)
        given = inspect.signature(GRPOTrainer.__init__).bind(
            self, model, reward_funcs, args, train_dataset, *rest, **kwargs
        )
        check_arguments(args, given.arguments, value_peft_config)
        self._rewards = torch.empty(0)  # (rows of all processes, reward functions), of the present rollout
        self._logps = torch.empty(0)
        self._kl_coef = args.beta
        self._running_scores = RunningScores(args.normalize_rewards, args.reward_clip)
        reward = None if args.reward_adapter is None else AdapterReward(args.reward_adapter)
        reward_funcs = _with_reward(reward_funcs, reward)
        super().__init__(model, reward_funcs, args, train_dataset, *rest, **kwargs)
        self._tally = self._empty_tally()
        self._critic = self._make_critic(value_peft_config)
        if reward is not None:
            reward.attach(self.model, self._tokenizer, args.per_device_train_batch_size)  # ty: ignore[invalid-argument-type]
        if self.use_vllm:
            self._keep_critic_from_vllm()
        self.add_callback(critic.AtOptimizerStep(self._end_update, self._critic.zero_grad))

    @classmethod
    def _own_config(cls, model: Any, args: Any) -> PPOConfig:
        if args is None:
            return PPOConfig(f"{model_name(model)}-PPO")
        if not isinstance(args, PPOConfig):
            raise TypeError(f"`args` must be a PPOConfig, got {type(args).__name__}.")
        return args

    def _make_critic(self, config: Any) -> critic.Critic:
        # Alike on all processes, and without a draw from the host's stream of random numbers
        with torch.random.fork_rng():
            torch.manual_seed(self.args.seed)
            if isinstance(self.model, PeftModel):
                made = critic.value_adapter(self.model, config, ADAPTER_DTYPES[self.args.adapter_dtype])
            else:
                checkpointing: Any = self.args.gradient_checkpointing_kwargs or {}
                made = critic.value_model(self.model, checkpointing if self.args.gradient_checkpointing else None)
        if self.args.disable_dropout:
            disable_dropout_in_model(made.model)
        return made

    def _keep_critic_from_vllm(self) -> None:
        host = self.vllm_generation._iter_named_params
        name_of_head = f"{critic.HEAD}.modules_to_save."
        self.vllm_generation._iter_named_params = lambda: (pair for pair in host() if name_of_head not in pair[0])

    # A rollout

    def _prepare_inputs(self, generation_batch):
        steps = required(self.args.steps_per_generation)
        begins_pass = self._is_inside_rollout and self._step % steps == 0
        if begins_pass and self.model.training and self._running is None and self._window is None:
            self._reshuffle(steps)
        return super()._prepare_inputs(generation_batch)

    def _reshuffle(self, steps: int) -> None:
        """Deals the rows of the rollout to its micro-batches anew; which rows, hangs on seed and step alone."""
        batch = joined(required(self._buffered_inputs))
        full = batch["prompt_ids"].size(1), batch["completion_ids"].size(1)
        draw = torch.Generator().manual_seed(self.args.seed + self._step)
        order = torch.randperm(len(batch["completion_ids"]), generator=draw)
        self._buffered_inputs = [rows_of(batch, part.tolist(), full, full) for part in order.chunk(steps)]

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        self._rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        scores_B = self._scores(output)
        self._leave_out(output, scores_B.isnan())
        mask_BT = _loss_mask(output)
        if "old_per_token_logps" not in output:
            output["old_per_token_logps"] = self._rollout_logps(output)
        values_BT = self._rollout_values(output)
        kl_BT = torch.zeros_like(values_BT)
        if "ref_per_token_logps" in output:
            ref_logps = output.pop("ref_per_token_logps")
            kl_BT = advantages.per_token_kl(output["old_per_token_logps"], ref_logps, self.args.kl_estimator)
        rewards_BT = advantages.token_rewards(scores_B.nan_to_num(), kl_BT, mask_BT, self._kl_coef)
        found = advantages.generalized_advantages(rewards_BT, values_BT, mask_BT, self.args.gamma, self.args.lam)
        sums = self.accelerator.reduce(advantages.moments(found.advantages, mask_BT), reduction="sum")
        output["advantages"] = advantages.whitened(found.advantages, mask_BT, sums)
        output["values"], output["returns"] = values_BT, found.returns
        self._log_rollout(output, scores_B, kl_BT)
        return output

    def _scores(self, output: dict[str, Any]) -> torch.Tensor:
        """Returns the score of each completion of this process, shape `(B,)`, NaN where no reward function applied."""
        scores = self._running_scores.of(self._rewards, self.reward_weights, learn=self.model.training)
        rows = len(output["completion_ids"])
        scores_B = scores[self.accelerator.process_index * rows :][:rows]
        if self.args.missing_eos_penalty:
            scores_B = scores_B - self.args.missing_eos_penalty * self._is_cut(output)
        return scores_B

    def _is_cut(self, output: dict[str, Any]) -> torch.Tensor:
        """Returns which completions have no end token, shape `(B,)`."""
        last = (output["completion_mask"].sum(dim=1, keepdim=True) - 1).clamp(min=0)
        ends = [*vars(self).get("eos_token_ids", [self._tokenizer.eos_token_id]), self._tokenizer.pad_token_id]
        last_ids = output["completion_ids"].gather(1, last).squeeze(1)
        return ~torch.isin(last_ids, torch.tensor(ends, device=last_ids.device))

    def _leave_out(self, output: dict[str, Any], unscored_B: torch.Tensor) -> None:
        """Takes rows without a score out of both losses."""
        if gather(unscored_B).any():
            output["completion_mask"] = output["completion_mask"] * ~unscored_B.unsqueeze(1)
            output["num_items_in_batch"] = self.accelerator.gather(_loss_mask(output).sum()).sum()

    def _rollout_logps(self, output: dict[str, Any]) -> torch.Tensor:
        with torch.no_grad():
            logps, _, _ = self._get_per_token_logps_and_entropies(
                self.model, *_sequences(output), batch_size=self._rows_at_once
            )
        return logps

    def _rollout_values(self, output: dict[str, Any]) -> torch.Tensor:
        """Returns the critic's values, shape `(B, T)`."""
        ids, mask, tokens = _sequences(output)
        size = self._rows_at_once
        with torch.no_grad(), self._critic.selected():
            if self._compacts and self.model.training:
                batch = {"input_ids": ids, "attention_mask": mask}
                scoring = Scoring(self._valued, self._critic.model, batch, tokens, self.pad_to_multiple_of)
                return self._scored(scoring, size)[0]
            starts = range(0, len(ids), size)
            return torch.cat([self._valued(None, ids[i : i + size], mask[i : i + size], tokens)[0] for i in starts])

    def _valued(self, _: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, tokens: int) -> tuple:
        with self.accelerator.autocast():
            return self._critic.values(input_ids, attention_mask, tokens), None, None

    @property
    def _rows_at_once(self) -> int:
        return self.args.per_device_train_batch_size if self.model.training else self.args.per_device_eval_batch_size

    def _log_rollout(self, output: dict[str, Any], scores_B: torch.Tensor, kl_BT: torch.Tensor) -> None:
        mask_BT = _loss_mask(output).bool()
        rows_B = mask_BT.any(dim=1)
        kl_B = torch.where(mask_BT, kl_BT, 0.0).sum(dim=1)
        values, returns = output["values"], output["returns"]
        parts = [(kl_B, rows_B), (scores_B, rows_B)]
        parts += [(numbers, mask_BT) for numbers in (values, returns, returns - values)]
        sums = torch.stack([advantages.moments(*part) for part in parts])
        of_kl, of_scores, of_values, of_returns, of_errors = self.accelerator.reduce(sums, reduction="sum")
        kl, score, value, mean_return = (_mean(one) for one in (of_kl, of_scores, of_values, of_returns))
        mode = "train" if self.model.training else "eval"
        self._log_metrics(
            mode,
            {
                "objective/kl": kl,
                "objective/kl_coef": self._kl_coef,
                "objective/non_score_reward": -self._kl_coef * kl,
                "objective/scores": score,
                "objective/rlhf_reward": score - self._kl_coef * kl,
                "value/mean": value,
                "value/explained_variance": advantages.explained_variance(of_returns, of_errors),
                "returns/mean": mean_return,
            },
        )
        self._log_advantages(mode, output["advantages"], mask_BT)
        if mode == "train" and self.args.kl_target is not None:
            self._kl_coef = advantages.adapted_kl_coef(
                self._kl_coef, kl, self.args.kl_target, int(of_kl[0]), self.args.kl_horizon
            )

    def _log_advantages(self, mode: str, advantages_BT: torch.Tensor, mask_BT: torch.Tensor) -> None:
        """Puts each completion's mean advantage in the place of the host's, which compares within a group."""
        means_B = gather(advantages_BT.sum(dim=1) / mask_BT.sum(dim=1).clamp(min=1)).tolist()
        logged: Any = self._logs["advantages"]
        for place, mean in zip(range(-len(means_B), 0), means_B, strict=True):
            if place + len(logged) >= 0:
                logged[place] = mean
        if self.num_generations == 1:
            self._metrics[mode].pop("frac_reward_zero_std", None)

    # An update

    @property
    def _needs_advantage(self) -> bool:
        # The critic learns from every token
        return False

    def _compute_loss(self, model, inputs) -> torch.Tensor:
        learns = torch.is_grad_enabled() and self._replayed is None
        if learns:
            self._learn_values(inputs)
        # The penalty is in the reward
        beta, self.beta = self.beta, 0.0
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        if learns:
            mask = _loss_mask(inputs).bool()
            log_ratio = (self._logps - inputs["old_per_token_logps"])[mask].double()
            self._tally["approx_kl"] += (torch.expm1(log_ratio) - log_ratio).sum()
        return loss

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *rest, **kwargs):
        scored = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *rest, **kwargs
        )
        if torch.is_grad_enabled():
            self._logps = scored[0].detach()
        return scored

    def _learn_values(self, inputs: Batch) -> None:
        mask = _loss_mask(inputs).bool()
        if not mask.any():
            return
        offset = 0 if self._running is None else self._running.offset
        # The tokens of an update, on average over those of the rollout, as in the host's token-level loss
        share = self.current_gradient_accumulation_steps / required(self.args.steps_per_generation)
        tokens = inputs["num_items_in_batch"].clamp(min=1) * share / self.accelerator.num_processes

        def loss() -> torch.Tensor:
            with self._positions_from(self._critic.model, offset):
                values, _, _ = self._valued(None, *_sequences(inputs))
            found = advantages.value_loss(values, inputs["values"], inputs["returns"], self.args.cliprange_value)
            self._tally["tokens"] += mask.sum()
            self._tally["clipped"] += found.clipped[mask].sum()
            self._tally["value_loss"] += found.per_token[mask].detach().double().sum()
            return torch.where(mask, found.per_token, 0.0).sum() / tokens

        self._critic.learn(loss)

    def _end_update(self) -> None:
        """Ends what the optimizer is about to apply: the critic's gradients, and none of the policy's in warm-up."""
        norm = self._critic.hand_over(self.accelerator, self.args.critic_max_grad_norm)
        if self.state.global_step < self.args.critic_warmup_steps:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.grad = None
        sums = self.accelerator.reduce(torch.stack(list(self._tally.values())), reduction="sum")
        totals = dict(zip(self._tally, sums.tolist(), strict=True))
        tokens = max(totals["tokens"], 1.0)
        self._log_metrics(
            "train",
            {
                "loss/value": totals["value_loss"] / tokens,
                "value/clip_frac": totals["clipped"] / tokens,
                "value/grad_norm": norm.item(),
                "policy/approx_kl": totals["approx_kl"] / tokens,
            },
        )
        self._tally = self._empty_tally()

    def _empty_tally(self) -> dict[str, torch.Tensor]:
        zero = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        return {name: zero.clone() for name in ("tokens", "value_loss", "clipped", "approx_kl")}

    def _log_metrics(self, mode: str, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._metrics[mode][name].append(value)

    # Optimizer and checkpoints

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made:
            rate = required(self.args.critic_learning_rate)
            for group in self._critic.parameter_groups(rate, self.args.weight_decay):
                optimizer.add_param_group(group)
        return optimizer

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        super()._save(output_dir, *args, **kwargs)
        if self.args.should_save:
            self._critic.save(Path(output_dir or required(self.args.output_dir)) / critic.VALUE_FOLDER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        # First, since it says what is wrong with a checkpoint of another trainer's
        self._critic.load(Path(resume_from_checkpoint) / critic.VALUE_FOLDER)
        super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)

    def _shared_state(self) -> dict[str, Any]:
        ppo = {"kl_coef": self._kl_coef, "scores": self._running_scores.sums.tolist()}
        return {**super()._shared_state(), "ppo": ppo}

    def _load_shared_state(self, state: dict[str, Any]) -> None:
        super()._load_shared_state(state)
        self._kl_coef = state["ppo"]["kl_coef"]
        self._running_scores.sums = torch.tensor(state["ppo"]["scores"], dtype=torch.float64)


def _loss_mask(batch: Batch) -> torch.Tensor:
    """Tokens that the policy chose, shape `(B, T)`."""
    return batch["completion_mask"] * batch.get("tool_mask", 1)


def _sequences(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids and attention mask, each of shape `(B, P + T)`, and T."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    return ids, mask, batch["completion_ids"].size(1)


def _mean(sums: torch.Tensor) -> float:
    return (sums[1] / sums[0].clamp(min=1)).item()


def _with_reward(reward_funcs: Any, reward: AdapterReward | None) -> Any:
    if reward is None:
        return reward_funcs
    given = reward_funcs if isinstance(reward_funcs, list) else [] if reward_funcs is None else [reward_funcs]
    return [*given, reward]
