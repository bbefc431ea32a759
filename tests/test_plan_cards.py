"""What a card has free: names, sizes, bytes, and refusals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_dapo.planning.cards import GIB, MIB, card, sizes


@pytest.mark.parametrize("name", ["4070", "RTX 4070", "rtx-4070", "GeForce RTX 4070", "nvidia_4070"])
def test_a_card_is_known_by_every_spelling(name):
    # nvidia-smi shows 12282 MiB, and the driver keeps a fiftieth of it: 245.64
    assert card(name).total == 12282 * MIB
    assert card(name).usable == pytest.approx(12036.36 * MIB, abs=1)


def test_the_number_on_the_box_is_gib():
    assert card("12gb").total == 12 * GIB
    assert card("12 GB").usable == int(12 * GIB * 0.98)


@pytest.mark.parametrize(
    ("word", "amount"),
    [("10GiB", 10 * GIB), ("9.5gib", 19 * GIB // 2), ("512MiB", 512 * MIB), ("8589934592", 8 * GIB)],
)
def test_free_bytes_are_taken_as_they_are(word, amount):
    assert (card(word).total, card(word).usable) == (amount, amount)


@pytest.mark.parametrize("word", ["", "big", "4075", "12", "-3gb", "0gb", "12parsecs", "gb", "4070x"])
def test_another_word_is_refused_with_what_is_known(word):
    with pytest.raises(ValueError, match=r"gpu=.* is no card that is known here.*12gb.*4070"):
        card(word)


def test_error_correction_makes_a_t4_smaller_than_its_box():
    assert card("t4").usable < card("16gb").usable


@given(st.integers(1, 200))
def test_usable_memory_grows_with_the_card_and_is_less_than_it(size):
    assert card(f"{size}gb").usable < card(f"{size + 1}gb").usable < (size + 1) * GIB


def test_sizes_come_in_order():
    assert [one.name for one in sizes()] == ["8gb", "10gb", "12gb", "16gb", "24gb", "32gb", "40gb", "48gb", "80gb"]
