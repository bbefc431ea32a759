"""PPO runs whose every step is recorded, and the gradients that two independent models have of the same rows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import log_softmax
from transformers import BitsAndBytesConfig, LlamaForCausalLM, TrainerCallback

from tiny import parity_reward, plain_dataset, scripted_rollout, snapshot, tiny_args, tiny_lora
from training import build, record_rollouts
from trl_dapo import PPOConfig, PPOTrainer


# Two updates per rollout, each of all its rows: the second has ratios other than 1 and values other than the old ones
WHOLE = {
    "num_generations": 4,
    "num_iterations": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": 2,
    "max_grad_norm": 0.0,
    "critic_max_grad_norm": 0.0,
    "beta": 0.3,
    "cliprange_value": 0.05,
    "learning_rate": 2e-2,
}


@dataclass
class Steps(TrainerCallback):
    """Parameters before each update and the gradients it applied, by name; what the rollouts held."""

    trainer: Any = None
    states: list[dict[str, torch.Tensor]] = field(default_factory=list)
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    rollouts: list[dict[str, Any]] = field(default_factory=list)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        named = dict(self.trainer.model.named_parameters())
        self.states.append(snapshot(self.trainer.model))
        self.gradients.append({name: p.grad.clone() for name, p in named.items() if p.grad is not None})


def ppo_args(folder: str | Path, **fields: Any) -> PPOConfig:
    return tiny_args(folder, cls=PPOConfig, **fields)


def ppo_trainer(folder: str | Path, args: PPOConfig | None = None, **kwargs: Any) -> PPOTrainer:
    """A trainer on scripted rollouts, whose rows differ in length, with a LoRA; `kwargs` are the constructor's."""
    defaults = {
        "reward_funcs": parity_reward,
        "rollout_func": scripted_rollout(),
        "train_dataset": plain_dataset(64),
        "peft_config": tiny_lora(init_lora_weights=False),
    }
    # Older releases of TRL draw the adapter from whatever state they find
    torch.manual_seed(0)
    return build(PPOTrainer, args or ppo_args(folder, **WHOLE), **{**defaults, **kwargs})


def excite(trainer: PPOTrainer) -> None:
    """Gives the critic's head weights that are not 0, so that all of the critic has a gradient at once."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(7)
        head = trainer.critic._root.score
        weight = head.modules_to_save["value"].weight if hasattr(head, "modules_to_save") else head.weight
        weight.normal_(std=0.5)


def recorded(trainer: PPOTrainer) -> Steps:
    """Trains, and returns what happened."""
    steps = Steps(trainer=trainer)
    steps.rollouts = record_rollouts(trainer)
    trainer.add_callback(steps)
    trainer.train()
    return steps


def four_bit(path: str) -> LlamaForCausalLM:
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return LlamaForCausalLM.from_pretrained(path, quantization_config=config, dtype=torch.float32, device_map="cpu")


def independent_gradients(
    base, config: LoraConfig, state: dict[str, torch.Tensor], rows: dict[str, Any], args: PPOConfig
) -> dict[str, torch.Tensor]:
    """
    Gradients of PPO's two losses, under the names of the shared model, from a policy and a critic that share nothing.

    `base()` makes a base model, `rows` are those of one update, of all processes.
    """
    ids = torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1)
    attention = torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1)
    mask, tokens = rows["completion_mask"].float(), rows["completion_ids"].size(1)

    policy = _model(base, config, state, "default")
    logits = policy(input_ids=ids, attention_mask=attention).logits[:, -tokens - 1 : -1]
    logps = log_softmax(logits, dim=-1).gather(2, rows["completion_ids"].unsqueeze(2)).squeeze(2)
    ratio = (logps - rows["old_per_token_logps"]).exp()
    clipped = ratio.clamp(1 - args.epsilon, 1 + args.epsilon)
    surrogate = torch.minimum(ratio * rows["advantages"], clipped * rows["advantages"])
    (-(surrogate * mask).sum() / mask.sum()).backward()

    critic = _model(base, config, state, "value")
    head = next(value for name, value in state.items() if "score.modules_to_save.value" in name).clone()
    head.requires_grad_()
    output = critic.get_base_model().model(input_ids=ids, attention_mask=attention)
    values = (output.last_hidden_state[:, -tokens - 1 : -1] @ head.T).squeeze(2)
    near = rows["values"] + (values - rows["values"]).clamp(-args.cliprange_value, args.cliprange_value)
    losses = torch.maximum((values - rows["returns"]) ** 2, (near - rows["returns"]) ** 2) / 2
    ((losses * mask).sum() / mask.sum()).backward()

    found = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    found |= {
        name.replace(".default.", ".value."): p.grad for name, p in critic.named_parameters() if p.grad is not None
    }
    return {**found, "base_model.model.score.modules_to_save.value.weight": head.grad}


def _model(base, config: LoraConfig, state: dict[str, torch.Tensor], adapter: str):
    model = get_peft_model(base(), config)
    theirs = {
        name.replace(f".{adapter}.", ".default."): value
        for name, value in state.items()
        if f".{adapter}." in name and "lora_" in name
    }
    unknown = model.load_state_dict(theirs, strict=False).unexpected_keys
    assert not unknown
    # In eval mode, bitsandbytes repacks 4-bit weights for some processors
    return model.train()


def joined_rows(parts: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The rows of several processes as one batch, padded anew: prompts on the left, completions on the right."""
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    names += ("advantages", "old_per_token_logps", "values", "returns")
    joined = {}
    for name in names:
        width = max(part[name].size(1) for part in parts)
        pieces = []
        for part in parts:
            missing = width - part[name].size(1)
            sides = (missing, 0) if name.startswith("prompt") else (0, missing)
            pieces.append(torch.nn.functional.pad(part[name], sides))
        joined[name] = torch.cat(pieces)
    return joined


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    """Both have the same names, and every tensor differs by less than `tolerance` of the expected one's norm."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.norm() > 0, name
        difference = ((found[name] - tensor).norm() / tensor.norm()).item()
        assert difference < tolerance, (name, difference)
