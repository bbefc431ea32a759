"""
Lets names in tables break behind `_` and `/` between letters, and nowhere else: a column is then no wider than a word
on a phone.
"""

import re


JOINT = re.compile(r"(?<=\w)[_/](?=\w)")
CELL = re.compile(r"(?<=<td>)<code>([^<]+)</code>")


def on_page_content(html: str, **_: object) -> str:
    """Marks where the names at the beginning of cells may break."""
    return CELL.sub(lambda found: "<code>" + JOINT.sub(r"\g<0><wbr>", found[1]) + "</code>", html)
