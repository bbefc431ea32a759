"""
The option that a misspelt one stands for. A word that is spelt right but means something else gets no hint.
"""

from collections.abc import Iterable
from itertools import zip_longest


# What other releases and other libraries call a field, in words of `transformers` and of TRL's former trainers
OTHER_NAMES = {
    "torch_dtype": "dtype",
    "evaluation_strategy": "eval_strategy",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "num_epochs": "num_train_epochs",
    "epochs": "num_train_epochs",
    "model": "model_name_or_path",
    "model_name": "model_name_or_path",
    "dataset": "dataset_name",
    "dataset_path": "dataset_name",
    "reward_model": "reward_model_name_or_path",
    "reward_func": "reward_funcs",
    "reward_functions": "reward_funcs",
    "epsilon_low": "epsilon",
    "kl_coef": "beta",
    "cliprange": "epsilon",
    "num_ppo_epochs": "num_iterations",
    "response_length": "max_completion_length",
    "max_new_tokens": "max_completion_length",
    "num_return_sequences": "num_generations",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "max_refills": "max_refill_rounds",
}


def nearest(word: str, options: Iterable[str]) -> str | None:
    """Returns the option, written as in `options`, that `word` misspells or that has another name, or `None`."""
    by_name = {_name(option): option for option in options}
    asked = _name(word)
    if OTHER_NAMES.get(asked) in by_name:
        return by_name[OTHER_NAMES[asked]]
    joined = {name.replace("_", ""): option for name, option in by_name.items()}
    if asked.replace("_", "") in joined:
        return joined[asked.replace("_", "")]
    known = {part for name in by_name for part in name.split("_")}
    found = [option for name, option in by_name.items() if _misspells(asked, name, known)]
    return found[0] if len(found) == 1 else None


def _name(option: str) -> str:
    return option.lstrip("-").split("=")[0].replace("-", "_").lower()


def _misspells(asked: str, name: str, known: set[str]) -> bool:
    pairs = list(zip_longest(asked.split("_"), name.split("_"), fillvalue=""))
    return all(left == right or _slip(left, right, known) for left, right in pairs)


def _slip(asked: str, part: str, known: set[str]) -> bool:
    """Whether one letter is missing, added, wrong or swapped with the next one, and the result is no other word."""
    if {asked, part} == {f"{asked.removesuffix('s')}s", asked.removesuffix("s")}:
        return len(part) > 2
    # `top_p` is not a misspelt `top_k`, nor `tf16` a `bf16`, nor `min` a `max`
    if asked in known or len(part) < 3 or any(letter.isdigit() for letter in asked + part):
        return False
    swaps = [asked[:i] + asked[i + 1] + asked[i] + asked[i + 2 :] for i in range(len(asked) - 1)]
    if part in swaps:
        return True
    if max(len(asked), len(part)) < 4:
        return False
    if len(asked) == len(part):
        return sum(left != right for left, right in zip(asked, part, strict=True)) == 1
    longer, shorter = sorted((asked, part), key=len, reverse=True)
    return any(longer[:i] + longer[i + 1 :] == shorter for i in range(len(longer)))
