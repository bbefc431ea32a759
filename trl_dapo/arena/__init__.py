"""
The arena: a verifiable reasoning task with its own tokenizer, policy and warm start.

Nothing is downloaded, and training takes minutes on a CPU. In here: everything that an experiment needs around its
trainer, from problems to evaluation. Not in here: reinforcement learning.

Example:
```python
from trl import GRPOTrainer
from trl_dapo.arena import arena_accuracy, load_warm_start, train_dataset

model, tokenizer = load_warm_start()
trainer = GRPOTrainer(model, arena_accuracy, train_dataset=train_dataset(2048), processing_class=tokenizer)
```
"""

from .data import held_out_dataset, train_dataset
from .evaluation import ArenaScore, Sample, evaluate, sample
from .model import build_model, load_reward_start, load_warm_start
from .pairs import preference_dataset
from .regimes import REGIMES, Check, Regime
from .task import LENGTHS, Problem, arena_accuracy, is_held_out, is_sound, parse_prompt, style_of
from .tokenizer import build_tokenizer


__all__ = [
    "LENGTHS",
    "REGIMES",
    "ArenaScore",
    "Check",
    "Problem",
    "Regime",
    "Sample",
    "arena_accuracy",
    "build_model",
    "build_tokenizer",
    "evaluate",
    "held_out_dataset",
    "is_held_out",
    "is_sound",
    "load_reward_start",
    "load_warm_start",
    "parse_prompt",
    "preference_dataset",
    "sample",
    "style_of",
    "train_dataset",
]
