"""
The arena's tokenizer: one token per character, built in code. The shipped weights depend on the token ids.
"""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .task import MOVES, TAGS


PAD_TOKEN = "<pad>"
EOS_TOKEN = "<eos>"
CHARACTERS = f"0123456789{TAGS}{MOVES}=#?"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """
    Character tokenizer that pads on the left and decodes without spaces.

    It adds no special tokens. Text outside `CHARACTERS` raises: with an unknown token, two different prompts could
    look the same.

    Example:
    ```python
    >>> tokenizer = build_tokenizer()
    >>> tokenizer.decode(tokenizer("7a+=").input_ids)
    '7a+='
    ```
    """
    vocab = {token: i for i, token in enumerate([PAD_TOKEN, EOS_TOKEN, *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocab))
    # Any character, also a line break ("." skips them): one outside the vocabulary must reach it and fail there
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
