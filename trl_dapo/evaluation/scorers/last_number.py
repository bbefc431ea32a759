r"""
The rule of numbers: the last number of a completion, or the one after its last `####`, equals the solution's.

Numbers are compared by value, exactly: 34, 34.0, 3.4e1 and 68/2 are one number, 0.1 is 1/10. Nothing is computed with
an exponent, so that 9e999999999 costs no more than 9.
"""

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

from .texts import end_of
from .verdicts import NO_ANSWER, UNREADABLE_SOLUTION, Verdict, compared


# GSM8K's solutions end with it
MARK = "####"

# More digits than this, or exponents outside, are only compared digit by digit, and not as parts of a fraction
LARGEST_EXPONENT = 400
LONGEST_NUMBER = 1_000

_DIGITS = r"(?:\d{1,3}(?:(?:,|\{,\}|,\\!)\d{3})+(?!\d)|\d+)"
_UNSIGNED = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{{1,12}}(?![\w.]))?"
# After a letter, a digit or a closing bracket, a sign is an operator: in 10-3, the last number is 3
_SIGN = r"(?:(?<![\w)}\]])[+-] ?)?"
_CURRENCY = r"(?:\\?\$ ?|[€£¥] ?)?"
NUMBER = re.compile(
    rf"(?P<sign>{_SIGN}){_CURRENCY}(?:"
    rf"\\[dt]?frac ?\{{ ?(?P<top>-?{_UNSIGNED}) ?\}} ?\{{ ?(?P<below>-?{_UNSIGNED}) ?\}}"
    rf"|(?P<number>{_UNSIGNED})(?: ?/ ?(?P<by>{_UNSIGNED}))?)"
)
# Signs and separators that are written in more than one way
SPELLINGS = str.maketrans({"−": "-", "﹣": "-", "－": "-", "＋": "+", "٫": ".", "٬": ",", "．": ".", "，": ","})


@dataclass(frozen=True)
class Digits:
    """A number as digits without zeros at either end, and the power of ten of the last one. 0 has no digits."""

    negative: bool
    digits: str
    exponent: int

    def small(self) -> bool:
        """Whether the number can be written out."""
        return abs(self.exponent) <= LARGEST_EXPONENT and len(self.digits) <= LARGEST_EXPONENT

    def fraction(self) -> Fraction:
        """The number as a fraction. Only for small ones."""
        whole = int(self.digits or "0") * (-1 if self.negative else 1)
        return whole * Fraction(10) ** self.exponent


def judge(completion: str, solution: str) -> Verdict:
    """Returns the verdict on the last numbers of both texts. A completion without a number has no answer."""
    wanted = last_number(solution)
    if wanted is None:
        return UNREADABLE_SOLUTION
    answer = last_number(end_of(completion))
    return NO_ANSWER if answer is None else compared(answer, wanted)


def last_number(text: str) -> str | None:
    """Returns the last number of a text in its normal form, or the first one after the last `####`."""
    text = ascii_digits(text)
    _, mark, rest = text.rpartition(MARK)
    if mark and (found := NUMBER.search(rest)):
        return _normal_form(found)
    last = deque(NUMBER.finditer(text), maxlen=1)
    return _normal_form(last[0]) if last else None


def only_number(text: str) -> str | None:
    """Returns the normal form of a text that is one number and nothing else."""
    found = NUMBER.fullmatch(ascii_digits(text))
    return None if found is None else _normal_form(found)


def ascii_digits(text: str) -> str:
    """Returns the text with the decimal digits of all scripts as 0 to 9. A superscript is no such digit."""
    if text.isascii():
        return text
    text = text.translate(SPELLINGS)
    return "".join(str(int(one)) if one.isdecimal() else one for one in text)


def _normal_form(found: re.Match[str]) -> str | None:
    """Returns one text for all ways to write a number; `None` for a division by 0 or by what is too large."""
    negative = found["sign"].startswith("-")
    if found["number"] and not found["by"]:
        return _decimal_text(_decimal(found["number"], negative))
    above, below = found["top"] or found["number"], found["below"] or found["by"]
    parts = _decimal(above, negative), _decimal(below, False)
    if not (parts[0].small() and parts[1].small() and parts[1].digits):
        return None
    return _fraction_text(parts[0].fraction() / parts[1].fraction())


def _decimal(text: str, negative: bool) -> Digits:
    for separator in (",\\!", "{,}", ","):
        text = text.replace(separator, "")
    mantissa, _, exponent = text.lower().partition("e")
    negative ^= mantissa.startswith("-")
    whole, _, places = mantissa.lstrip("-").partition(".")
    digits = (whole + places).lstrip("0")
    significant = digits.rstrip("0")
    power = int(exponent or "0") - len(places) + len(digits) - len(significant)
    return Digits(negative and bool(significant), significant, power if significant else 0)


def _decimal_text(number: Digits) -> str | None:
    if len(number.digits) > LONGEST_NUMBER:
        return None
    if number.small():
        return _fraction_text(number.fraction())
    return f"{'-' if number.negative else ''}{number.digits}e{number.exponent}"


def _fraction_text(number: Fraction) -> str:
    """Whole numbers as such, the others in lowest terms."""
    return str(number)
