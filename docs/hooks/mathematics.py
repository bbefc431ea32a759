"""
Sets formulas as MathML when the site is built: no script runs in the browser, and they print.

`pymdownx.arithmatex` finds them, between `$` and between `$$` as on GitHub, and this renders what it found.
"""

import re
from html import unescape
from xml.etree import ElementTree

from latex2mathml.converter import convert


FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)
SPACE = "http://www.w3.org/1998/Math/MathML"
# What latex2mathml knows by another name
ALIGNED = re.compile(r"\\(begin|end)\{aligned\}")
BELOW = {"msub": "munder", "msubsup": "munderover"}
WITH_LIMITS = {"\N{N-ARY SUMMATION}", "\N{N-ARY PRODUCT}", "max", "min"}
FUNCTIONS = ("log", "exp", "ln")
BLACKBOARD = {"1": "\N{MATHEMATICAL DOUBLE-STRUCK DIGIT ONE}"}

ElementTree.register_namespace("", SPACE)


def on_page_content(html: str, **_: object) -> str:
    """Replaces each formula of a page by its MathML."""
    return FORMULA.sub(lambda found: rendered(unescape(found[3]).strip(), found[2] == "["), html)


def rendered(formula: str, is_display: bool) -> str:
    r"""
    Returns a formula as MathML.

    Args:
        formula (`str`):
            LaTeX.
        is_display (`bool`):
            Whether it stands on lines of its own. One that is wider than the page scrolls.

    Raises:
        `ValueError`: For a command that is not known: it would be shown as it is written.
    """
    mathml = convert(ALIGNED.sub(r"\\\1{align*}", formula), display="block" if is_display else "inline")
    tree = ElementTree.fromstring(mathml.replace("<mi>&</mi>", "<mi>&amp;</mi>"))
    unknown = [text for text in tree.itertext() if re.match(r"\\[a-zA-Z]|&$", text)]
    if unknown:
        raise ValueError(f"{formula!r} has {', '.join(unknown)}, which is not rendered. Use another command.")
    mend(tree, is_display)
    text = ElementTree.tostring(tree, encoding="unicode")
    return f'<div class="formula">{text}</div>' if is_display else text


def mend(element: ElementTree.Element, has_room: bool) -> None:
    """
    Changes what browsers would show otherwise than LaTeX does.

    Args:
        element (`Element`):
            Part of a formula.
        has_room (`bool`):
            Whether limits stand above and below a sum, as they do in a displayed formula outside of fractions.
    """
    tag = element.tag.removeprefix(f"{{{SPACE}}}")
    if tag in BELOW and has_room and element[0].text in WITH_LIMITS:
        element.tag = f"{{{SPACE}}}{BELOW[tag]}"
    if tag == "mo" and element.text == "|":
        # An absolute value's bars, which browsers take for an operator with space around it
        element.attrib |= {"lspace": "0", "rspace": "0"}
    if tag == "mi" and element.text in FUNCTIONS:
        # Its argument would touch it
        element.tag = f"{{{SPACE}}}mo"
        element.attrib |= {"lspace": "0", "rspace": "0.17em"}
    if element.get("mathvariant") == "double-struck" and element.text in BLACKBOARD:
        element.text = BLACKBOARD[element.text]
    for child in element:
        mend(child, has_room and tag != "mfrac")
