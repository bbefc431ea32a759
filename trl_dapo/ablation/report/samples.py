"""
Which sample completions are shown, and how. They come from a model: all of it is text.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest

from ..results import RunResult, SampleCompletion
from .escaping import as_html
from .page_tables import folded


PER_KIND = 4
LONGEST = 3000


def chosen(runs: Sequence[RunResult], right: bool) -> list[tuple[int, SampleCompletion]]:
    """Returns a few right or wrong completions of a row with their seeds, from as many seeds as there are."""
    by_seed = [[(run.seed, one) for one in run.completions if one.right is right] for run in runs]
    mixed: Iterable[tuple[int, SampleCompletion] | None] = chain.from_iterable(zip_longest(*by_seed))
    return [one for one in mixed if one is not None][:PER_KIND]


def samples_as_html(rows: Sequence[tuple[str, Sequence[RunResult]]]) -> str:
    """Returns the completions of each row, folded."""
    parts = []
    for name, runs in rows:
        those = [one for right in (True, False) for one in chosen(runs, right)]
        parts.append(folded(name, "".join(_sample(seed, one) for seed, one in those)))
    return "".join(parts)


def _sample(seed: int, one: SampleCompletion) -> str:
    kind = "right" if one.right else "wrong"
    prompt, completion = (f"<pre{kind}>{_text(text)}</pre>" for kind, text in _pieces(one))
    return f'<div class="sample {kind}"><p>{kind}, seed {seed}</p>{prompt}{completion}</div>'


def _pieces(one: SampleCompletion) -> tuple[tuple[str, str], tuple[str, str]]:
    return (' class="prompt"', one.prompt), ("", one.completion)


def _text(text: str) -> str:
    # The parser drops a line feed at the start of <pre>, so one is put there for it to drop
    if len(text) <= LONGEST:
        return "\n" + as_html(text)
    return "\n" + as_html(f"{text[:LONGEST]}… ({len(text) - LONGEST:,} more characters)")
