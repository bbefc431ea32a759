"""
What surrounds the body of a page: one file that opens offline and asks nobody for anything.

The script is named by its hash in the page's content security policy, so that no other would run; nothing may be
loaded.
"""

import base64
import hashlib
from collections.abc import Iterable
from importlib.resources import files

from .escaping import as_html


def as_document(title: str, body: Iterable[str]) -> str:
    """
    Returns a page in the colours of the reader's system, light or dark, with tables that can be sorted.

    Args:
        title (`str`):
            Its title, which may be any text.
        body (`Iterable[str]`):
            Pieces of HTML; empty ones are left out.
    """
    assets = files("trl_dapo.ablation.report").joinpath("page_assets")
    style, script = (assets.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">\n'
        f"<title>{as_html(title)}</title>\n<style>\n{style}</style></head>\n<body>\n"
        + "\n".join(filter(None, body))
        + f"\n<script>{script}</script>\n</body></html>\n"
    )
