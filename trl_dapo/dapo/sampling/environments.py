"""
Environments of kept rows: out of the pool while others are generated, and never reset again by the replay.

TRL reuses environment instances from one batch to the next and resets each before it generates. A reset belongs to a
generated row, so an instance whose episode is kept must neither serve the next round nor be reset by the replay.
"""

from typing import Any


Pool = dict[str | None, list]


class FinishedEpisode:
    """Stands in for an environment during the replay: a reset that adds nothing to the prompt, and no tools."""

    def reset(self, **kwargs: Any) -> None:
        return None


def set_aside(pool: Pool, instances: list) -> tuple[Pool, Pool]:
    """Splits the pool into what may be used again and `instances`, both by environment name."""
    aside = {id(instance) for instance in instances}
    free = {name: [one for one in members if id(one) not in aside] for name, members in pool.items()}
    kept = {name: [one for one in members if id(one) in aside] for name, members in pool.items()}
    return free, kept


def merged(first: Pool, second: Pool) -> Pool:
    """Returns the members of both pools, by environment name."""
    return {name: first.get(name, []) + second.get(name, []) for name in {**first, **second}}


def finished(names: list[str | None]) -> Pool:
    """Returns a pool of stand-ins that lasts for rows of these environment names."""
    pool: Pool = {}
    for name in names:
        pool.setdefault(name, []).append(FinishedEpisode())
    return pool
