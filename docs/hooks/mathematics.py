"""
Sets formulas as MathML when the site is built: no script runs in the browser, and they print.

`pymdownx.arithmatex` finds them, between `$` and between `$$` as on GitHub, and this renders what it found.
"""

import re
from html import unescape

from latex2mathml.converter import convert


FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


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
    mathml = convert(formula, display="block" if is_display else "inline")
    unknown = re.findall(r"<m[iotn][^>]*>(\\[a-zA-Z]+)", mathml)
    if unknown:
        raise ValueError(f"{formula!r} has {', '.join(unknown)}, which is not rendered. Use another command.")
    return f'<div class="formula">{mathml}</div>' if is_display else mathml
