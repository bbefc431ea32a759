"""
Text that anyone may have written, as each format can hold it.

Names of rows, ids of questions and completions come from files and models. Each function here returns what shows the
same characters in its format and can do nothing else.
"""

import html
import re


# Control characters except tab and line feed, halves of surrogate pairs, and what turns the direction of text around
_UNSHOWN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\uffff\ud800-\udfff]"
)
# Brackets matter where they make a link, a footnote or an image, and "@" where it names somebody
_MARKDOWN = re.compile(r"([\\`*_<>#|~$]|\](?=[(\[:])|(?<=!)\[|\[(?=\^))")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
}


def visible(text: str) -> str:
    r"""
    Returns the text with characters that cannot be shown, or that no file can hold, as escapes.

    Examples:

    ```python
    >>> visible("a\x1b[0m\ud800")
    'a\\x1b[0m\\ud800'
    ```
    """
    return _UNSHOWN.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """Returns the text in one line."""
    return " ".join(visible(text).split())


def shortened(text: str, most: int) -> str:
    """Returns the text in one line of at most so many characters."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def as_html(text: str) -> str:
    """Returns the text for an element or a quoted attribute of HTML."""
    return html.escape(visible(text), quote=True)


def as_markdown(text: str) -> str:
    """Returns the text for a cell or a heading of Markdown, where no HTML, link or formatting comes of it."""
    escaped = _MARKDOWN.sub(r"\\\1", one_line(text)).replace("&", "&amp;")
    escaped = re.sub(r"@(?=[A-Za-z])", "&#64;", escaped)
    return escaped.replace("://", r"\://").replace("www.", r"www\.")


def as_markdown_line(text: str) -> str:
    """Returns the text for a line of Markdown, which begins no list and no heading either."""
    return re.sub(r"^([-+=](?=\s|[-=])|\d+(?=[.)]\s))", _escaped_start, as_markdown(text))


def _escaped_start(found: re.Match) -> str:
    start = found.group()
    return f"{start}\\" if start[0].isdigit() else f"\\{start}"


def as_csv(text: str) -> str:
    """
    Returns the text for a cell of CSV, where no spreadsheet takes it for a formula.

    A text that begins like one is led by an apostrophe, see
    https://owasp.org/www-community/attacks/CSV_Injection. Numbers need no such thing: write them as numbers.
    """
    line = one_line(text)
    return f"'{line}" if line.startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) else line


def as_latex(text: str) -> str:
    """Returns the text for LaTeX, with each character that means something escaped."""
    return "".join(_LATEX.get(character, character) for character in one_line(text)).replace("−", "$-$")
