"""
How far a merged model is from the model that was trained: log-probabilities of the trained one's own completions.
"""

from dataclasses import dataclass
from typing import Any

import torch


# Asked where no prompts are given: words, numbers, code and another language
PROMPTS = (
    "What is 17 + 25? Explain in one sentence.",
    "A train goes 60 km in 45 minutes. How far does it go in two hours?",
    "Name three animals that live in the sea.",
    "Write a Python function that returns the larger of two numbers.",
    "Why is the sky blue?",
    "Traduis en anglais : je voudrais un verre d'eau.",
    "If x + 3 = 10, what is 2x?",
    "Continue the story: The door was open, and",
)
NEW_TOKENS = 32


@dataclass(frozen=True)
class Asked:
    """
    Rows on which models are compared.

    Args:
        input_ids, attention_mask (`torch.Tensor`):
            Prompts and completions, shape `(B, T)`, padded on the left.
        completion_mask (`torch.Tensor`):
            Places whose next token is one of the completion, shape `(B, T)`.
        outputs (`torch.Tensor`):
            Of the trained model: log-probabilities at these places, shape `(N, vocabulary)`; for a reward model its
            rewards, shape `(B,)`.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    completion_mask: torch.Tensor
    outputs: torch.Tensor


@dataclass(frozen=True)
class Agreement:
    """
    How far a model is from the trained one.

    Args:
        divergence (`float`):
            Mean KL divergence of the trained model from this one, in nats per token; for a reward model the mean
            absolute difference of rewards.
        agrees (`float`):
            Share of tokens that both find most likely; for a reward model, share of pairs of prompts that both order
            alike.
        tokens (`int`):
            How many tokens, or prompts, were compared.
    """

    divergence: float
    agrees: float
    tokens: int


def encoded(tokenizer: Any, prompts: list[str]) -> dict[str, torch.Tensor]:
    """
    Returns the prompts as token ids, through the chat template where there is one, padded on the left.

    Raises:
        `ValueError`: If the tokenizer cannot read one of them.
    """
    if tokenizer.chat_template is not None:
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": one}], tokenize=False, add_generation_prompt=True
            )
            for one in prompts
        ]
        special = False  # the template writes them
    else:
        texts, special = prompts, True
    rows = [_ids(tokenizer, text, special) for text in texts]
    longest = max(map(len, rows))
    padding = next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)
    ids = torch.tensor([[padding] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def _ids(tokenizer: Any, text: str, special: bool) -> list[int]:
    try:
        return tokenizer(text, add_special_tokens=special)["input_ids"]
    except Exception as error:
        # A vocabulary of few words, without one for all others, is a plain `Exception` of the tokenizers library
        raise ValueError(
            f"the tokenizer cannot read the prompt {text[:60]!r} ({error}). Give others: --prompts FILE."
        ) from error


@torch.no_grad()
def ask(model: Any, tokenizer: Any, prompts: list[str], new_tokens: int = NEW_TOKENS) -> Asked:
    """Lets the trained model answer greedily, and returns rows and its log-probabilities on them."""
    given = {name: tensor.to(model.device) for name, tensor in encoded(tokenizer, prompts).items()}
    length = given["input_ids"].size(1)
    ids = model.generate(
        **given, max_new_tokens=new_tokens, do_sample=False, num_beams=1, pad_token_id=tokenizer.pad_token_id
    )
    ends = model.generation_config.eos_token_id
    ends = torch.tensor(ends if isinstance(ends, list) else [-1 if ends is None else ends], device=ids.device)
    ended = torch.isin(ids[:, length:], ends).long().cumsum(dim=1)
    is_new = torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], dim=1) == 0  # up to the end token
    mask = torch.cat([given["attention_mask"], is_new.long()], dim=1)
    places = torch.zeros_like(mask, dtype=torch.bool)
    places[:, length - 1 : -1] = is_new
    rows = Asked(ids, mask, places, torch.empty(0))
    return Asked(ids, mask, places, _logps(model, rows))


@torch.no_grad()
def ask_for_rewards(model: Any, tokenizer: Any, prompts: list[str]) -> Asked:
    """Returns the prompts as rows, and the rewards that a reward model gives them."""
    given = {name: tensor.to(model.device) for name, tensor in encoded(tokenizer, prompts).items()}
    rows = Asked(given["input_ids"], given["attention_mask"], torch.empty(0), torch.empty(0))
    return Asked(rows.input_ids, rows.attention_mask, rows.completion_mask, _rewards(model, rows))


@torch.no_grad()
def agreement(model: Any, asked: Asked) -> Agreement:
    """Returns how far a model is from the one that was asked."""
    if asked.outputs.dim() == 1:
        return _agreement_of_rewards(asked.outputs, _rewards(model, asked))
    theirs = asked.outputs.to(model.device)
    ours = _logps(model, asked)
    divergence = (theirs.exp() * (theirs - ours)).sum(dim=-1)
    same = (theirs.argmax(dim=-1) == ours.argmax(dim=-1)).double()
    # Rounding can take the mean of equal models below 0
    return Agreement(divergence.mean().clamp(min=0).item(), same.mean().item(), len(ours))


def _agreement_of_rewards(theirs: torch.Tensor, ours: torch.Tensor) -> Agreement:
    ours = ours.to(theirs.device)
    order = torch.triu_indices(len(theirs), len(theirs), offset=1)
    signs = [(one[order[0]] - one[order[1]]).sign() for one in (theirs, ours)]
    alike = (signs[0] == signs[1]).double().mean().item() if len(theirs) > 1 else 1.0
    return Agreement((theirs - ours).abs().mean().item(), alike, len(theirs))


def _logps(model: Any, rows: Asked) -> torch.Tensor:
    positions = (rows.attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(
        input_ids=rows.input_ids.to(model.device),
        attention_mask=rows.attention_mask.to(model.device),
        position_ids=positions.to(model.device),
        use_cache=False,
    ).logits
    return logits[rows.completion_mask.to(logits.device)].float().log_softmax(dim=-1)


def _rewards(model: Any, rows: Asked) -> torch.Tensor:
    positions = (rows.attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    return (
        model(
            input_ids=rows.input_ids.to(model.device),
            attention_mask=rows.attention_mask.to(model.device),
            position_ids=positions.to(model.device),
        )
        .logits[:, 0]
        .float()
    )
