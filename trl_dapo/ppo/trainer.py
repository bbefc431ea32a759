"""
`PPOTrainer`: proximal policy optimization on the rollouts of `GRPOTrainer`.

Generation, reward functions, the clipped surrogate, vLLM and checkpoints are inherited. In here is what PPO does
otherwise: a critic, advantages of single tokens from its values, a KL penalty in the reward, a new order of rows in
each pass. The mathematics is in `estimation`, the critic in `critic`, how it learns in `critic_update`. Policy and
critic go forward and backward one after the other, never in one graph.
"""

import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather
from peft import PeftConfig, PeftModel
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.utils import disable_dropout_in_model

from ..grpo.offloading import leave_weights
from ..grpo.trainer import GRPOTrainer, model_name
from ..host.arguments import EvalData, Optimizers, ProcessingClass, RewardFunc, RolloutFunction, TrainData
from ..host.finite_weights import Named
from ..host.model_card import fields
from ..host.required import required
from ..host.resume import Parts
from ..host.state import sequences
from ..host.swapped import swapped
from ..packing.logprobs import PackedPass
from ..packing.rows import joined, rows_of
from ..qlora.precision import ADAPTER_DTYPES
from ..reward_model.adapter import AdapterReward
from . import critic, estimation
from .checks import check_arguments
from .config import PPOConfig
from .critic_update import CriticUpdate, loss_mask
from .kl_coefficient import KLCoefficient
from .metrics import rollout_metrics
from .scores import RewardsNotedPass, RunningScores
from .warmup import WarmupTold


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
        eval_dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or a dictionary of these, *optional*):
            Prompts to evaluate on.
        processing_class, reward_processing_classes, callbacks, optimizers, quantization_config, peft_config, tools,
        rollout_func, environment_factory:
            As for [`~trl.GRPOTrainer`].
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
        self,
        model: str | PreTrainedModel | PeftModel,
        reward_funcs: RewardFunc | list[RewardFunc] | None = None,
        args: PPOConfig | None = None,
        train_dataset: TrainData | None = None,
        eval_dataset: EvalData | None = None,
        processing_class: ProcessingClass | None = None,
        reward_processing_classes: PreTrainedTokenizerBase | list[PreTrainedTokenizerBase] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: PeftConfig | None = None,
        tools: list[Callable] | None = None,
        rollout_func: RolloutFunction | None = None,
        environment_factory: Callable[[], Any] | dict[str, Callable[[], Any]] | None = None,
        *,
        value_peft_config: PeftConfig | None = None,
    ) -> None:
        args = self.own_config(model, args)
        self._value_peft_config = value_peft_config
        reward = None if args.reward_adapter is None else AdapterReward(args.reward_adapter)
        super().__init__(
            model,
            _with_reward(reward_funcs, reward),
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            reward_processing_classes,
            callbacks,
            optimizers,
            quantization_config,
            peft_config,
            tools,
            rollout_func,
            environment_factory,
        )
        self._kl_coefficient = KLCoefficient(args.beta, args.kl_target, args.kl_horizon)
        self._running_scores = RunningScores(args.normalize_rewards, args.reward_clip)
        # The penalty is in the reward, not in the loss
        self.beta = 0.0
        self.critic = self._make_critic(value_peft_config)
        self._critic_update = CriticUpdate(self, self.critic)
        leave_weights(self._offloading, self.model, self.critic.model)
        if reward is not None:
            reward.attach(self.model, self.host.tokenizer, args.per_device_train_batch_size)  # ty: ignore[invalid-argument-type]
        if self.use_vllm:
            self.host.keep_from_vllm(f"{critic.HEAD}.modules_to_save.")
        self.add_callback(critic.AtOptimizerStep(self._critic_update.end, self.critic.zero_grad))
        self.add_callback(WarmupTold())

    @classmethod
    def own_config(cls, model: Any, args: Any) -> PPOConfig:
        if args is None:
            return PPOConfig(f"{model_name(model)}-PPO")
        if not isinstance(args, PPOConfig):
            raise TypeError(f"`args` must be a PPOConfig, got {type(args).__name__}.")
        return args

    def check_arguments(self, args: Any, given: dict[str, Any]) -> None:
        check_arguments(args, given, self._value_peft_config)
        super().check_arguments(args, given)

    @property
    def needs_advantage(self) -> bool:
        # The critic learns from every token
        return False

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

    # Hooks of the seams

    def run_begins(self, checkpoint: str | None) -> None:
        super().run_begins(checkpoint)
        self._critic_update.reset()
        if checkpoint is not None:
            # First, since it says what is wrong with a checkpoint of another trainer's
            self.critic.load(Path(checkpoint) / critic.VALUE_FOLDER)

    def step_begins(self) -> None:
        super().step_begins()
        if self.host.is_inside_rollout and self.host.step % self.host.steps_per_generation == 0:
            self._reshuffle()

    @property
    def settings(self) -> tuple[str, ...]:
        own = ("gamma", "lam", "kl_estimator", "kl_target", "normalize_rewards", "reward_clip", "missing_eos_penalty")
        return (*super().settings, *own, "cliprange_value", "critic_warmup_steps")

    def trained(self) -> Named:
        return [*super().trained(), *self.critic.named_parameters()]

    def shared_parts(self) -> Parts:
        return {**super().shared_parts(), "kl_coefficient": self._kl_coefficient, "scores": self._running_scores}

    def also_trained(self) -> list[torch.nn.Parameter]:
        return self.critic.parameters if self.critic.adapter is not None else []

    def best_is_loaded(self, checkpoint: str) -> None:
        super().best_is_loaded(checkpoint)
        self.critic.load(Path(checkpoint) / critic.VALUE_FOLDER)

    def card_settings(self) -> dict[str, Any]:
        named = ("critic_learning_rate", "gamma", "lam", "kl_estimator", "cliprange_value", "missing_eos_penalty")
        return {**super().card_settings(), **fields(self.args, named)}

    # A rollout

    def _reshuffle(self) -> None:
        """Deals the rows of the rollout to its micro-batches anew, by a draw from seed and step alone."""
        batch = joined(required(self.host.batches))
        full = batch["prompt_ids"].size(1), batch["completion_ids"].size(1)
        draw = torch.Generator().manual_seed(self.args.seed + self.host.step)
        order = torch.randperm(len(batch["completion_ids"]), generator=draw)
        parts = order.chunk(self.host.steps_per_generation)
        self.host.batches = [rows_of(batch, part.tolist(), full, full) for part in parts]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # With its coefficient, the host scores the reference too
        with self.in_charge(RewardsNotedPass()) as rewards, swapped(self, beta=self.args.beta):
            output = super()._generate_and_score_completions(inputs)
        scores_B = self._scores(rewards.noted, output)
        self._leave_out(output, scores_B.isnan())
        mask_BT = loss_mask(output)
        if "old_per_token_logps" not in output:
            output["old_per_token_logps"] = self.host.policy_logps(output, self._rows_at_once)
        values_BT = self._rollout_values(output)
        kl_BT = torch.zeros_like(values_BT)
        if "ref_per_token_logps" in output:
            ref_logps = output.pop("ref_per_token_logps")
            kl_BT = estimation.per_token_kl(output["old_per_token_logps"], ref_logps, self.args.kl_estimator)
        rewards_BT = estimation.token_rewards(scores_B.nan_to_num(), kl_BT, mask_BT, self._kl_coefficient.value)
        found = estimation.generalized_advantages(rewards_BT, values_BT, mask_BT, self.args.gamma, self.args.lam)
        sums = self.accelerator.reduce(estimation.moments(found.advantages, mask_BT), reduction="sum")
        output["advantages"] = estimation.whitened(found.advantages, mask_BT, sums)
        output["values"], output["returns"] = values_BT, found.returns
        self._log_estimates(output, scores_B, kl_BT)
        return output

    def _scores(self, rewards: torch.Tensor, output: dict[str, Any]) -> torch.Tensor:
        """Returns the score of each completion of this process, shape `(B,)`, NaN where no reward function applied."""
        scores = self._running_scores.of(rewards, self.reward_weights, learn=self.model.training)
        rows = len(output["completion_ids"])
        scores_B = scores[self.accelerator.process_index * rows :][:rows]
        if self.args.missing_eos_penalty:
            scores_B = scores_B - self.args.missing_eos_penalty * self._is_cut(output)
        return scores_B

    def _is_cut(self, output: dict[str, Any]) -> torch.Tensor:
        """Returns which completions have no end token, shape `(B,)`."""
        last = (output["completion_mask"].sum(dim=1, keepdim=True) - 1).clamp(min=0)
        last_ids = output["completion_ids"].gather(1, last).squeeze(1)
        return ~torch.isin(last_ids, torch.tensor(self.host.end_ids, device=last_ids.device))

    def _leave_out(self, output: dict[str, Any], unscored_B: torch.Tensor) -> None:
        """Takes rows without a score out of both losses."""
        if gather(unscored_B).any():
            output["completion_mask"] = output["completion_mask"] * ~unscored_B.unsqueeze(1)
            output["num_items_in_batch"] = self.accelerator.gather(loss_mask(output).sum()).sum()

    def _rollout_values(self, output: dict[str, Any]) -> torch.Tensor:
        """Returns the critic's values, shape `(B, T)`."""
        ids, mask, tokens = sequences(output)
        size = self._rows_at_once
        with torch.no_grad(), self.critic.selected():
            if self.packed_passes is not None and self.model.training:
                batch = {"input_ids": ids, "attention_mask": mask}
                one = PackedPass(self._valued, self.critic.model, batch, tokens, self.pad_to_multiple_of)
                return self.packed_passes.run(one, size).logps
            starts = range(0, len(ids), size)
            return torch.cat([self._valued(None, ids[i : i + size], mask[i : i + size], tokens)[0] for i in starts])

    def _valued(self, _: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, tokens: int) -> tuple:
        """Returns the critic's values in the place of log-probs, so that they can be packed like them."""
        with self.accelerator.autocast():
            return self.critic.values(input_ids, attention_mask, tokens), None, None

    @property
    def _rows_at_once(self) -> int:
        return self.args.per_device_train_batch_size if self.model.training else self.args.per_device_eval_batch_size

    def _log_estimates(self, output: dict[str, Any], scores_B: torch.Tensor, kl_BT: torch.Tensor) -> None:
        mode = self.host.mode
        found = rollout_metrics(
            output, scores_B, kl_BT, self._kl_coefficient.value, partial(self.accelerator.reduce, reduction="sum")
        )
        self.host.log(found.logged, mode)
        self._log_advantages(mode, output["advantages"], loss_mask(output).bool())
        if mode == "train":
            self._kl_coefficient.adapt(found.kl, found.rows)

    def _log_advantages(self, mode: str, advantages_BT: torch.Tensor, mask_BT: torch.Tensor) -> None:
        """Puts each completion's mean advantage in the place of the host's, which compares within a group."""
        means_B = gather(advantages_BT.sum(dim=1) / mask_BT.sum(dim=1).clamp(min=1)).tolist()
        logged = self.host.completions_table["advantages"]
        for place, mean in zip(range(-len(means_B), 0), means_B, strict=True):
            if place + len(logged) >= 0:
                logged[place] = mean
        if self.num_generations == 1:
            self.host.metrics[mode].pop("frac_reward_zero_std", None)

    # An update

    def _compute_loss(self, model, inputs) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return super()._compute_loss(model, inputs)
        self._critic_update.learn(inputs)
        with self.host.noting_logps() as logps:
            loss = super()._compute_loss(model, inputs)
        self._critic_update.note_policy(logps[-1], inputs)
        return loss

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made:
            rate = required(self.args.critic_learning_rate)
            for group in self.critic.parameter_groups(rate, self.args.weight_decay):
                optimizer.add_param_group(group)
        return optimizer

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        super()._save(output_dir, *args, **kwargs)
        if self.args.should_save:
            self.critic.save(Path(self.folder_to_save(output_dir)) / critic.VALUE_FOLDER)


def _with_reward(reward_funcs: Any, reward: AdapterReward | None) -> Any:
    if reward is None:
        return reward_funcs
    given = reward_funcs if isinstance(reward_funcs, list) else [] if reward_funcs is None else [reward_funcs]
    return [*given, reward]
