import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from trl_dapo.arena import build_tokenizer
from trl_dapo.arena.tokenizer import CHARACTERS


TOKENIZER = build_tokenizer()


@given(st.text(alphabet=CHARACTERS, max_size=64))
def test_text_survives_encoding_and_decoding_one_token_per_character(text):
    ids = TOKENIZER(text).input_ids
    assert len(ids) == len(text)
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text
    assert TOKENIZER.decode([*ids, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id], skip_special_tokens=True) == text


def test_ids_are_those_of_the_shipped_weights():
    # 0 pad, 1 end of sequence, 2-11 digits, 12-21 tags, 22-24 moves, 25-27 "=", "#", "?"
    assert TOKENIZER("09aj+-*=#?").input_ids == [2, 11, 12, 21, 22, 23, 24, 25, 26, 27]
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, len(TOKENIZER)) == (0, 1, 28)


def test_padding_is_on_the_left():
    batch = TOKENIZER(["7a+=", "="], padding=True)
    assert batch.input_ids == [[9, 12, 22, 25], [0, 0, 0, 25]]
    assert batch.attention_mask == [[1, 1, 1, 1], [0, 0, 0, 1]]


@pytest.mark.parametrize("text", [" ", "7 a+=", "\n", "x", "é", "#2\n"])
def test_text_outside_of_the_alphabet_raises(text):
    with pytest.raises(Exception, match="UNK"):
        TOKENIZER(text)


def test_saved_tokenizer_loads_as_the_same(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = TOKENIZER("7a+b-c*=#2?").input_ids
    assert loaded("7a+b-c*=#2?").input_ids == ids
    assert loaded.decode(ids) == "7a+b-c*=#2?"
    assert (loaded.padding_side, loaded.pad_token_id, loaded.eos_token_id) == ("left", 0, 1)
