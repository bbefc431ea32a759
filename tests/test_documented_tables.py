"""The tables of `docs/ablation.md` are those of the archives beside it, whose numbers follow from their runs."""

import numpy as np
import pytest

from documented_tables import DOCS, REGIMES, archives, tables
from trl_dapo.ablation.statistics import RowScores, table_statistics
from trl_dapo.arena import REGIMES as ALL


PAGE = (DOCS / "ablation.md").read_text()


def test_each_regime_has_an_archive():
    assert set(REGIMES) == set(ALL)


@pytest.mark.parametrize(("title", "text"), list(tables()), ids=lambda one: one[:60].split("\n")[0])
def test_the_page_has_the_table(title, text):
    assert text in PAGE, title


@pytest.mark.parametrize("regime", REGIMES)
def test_eight_seeds_from_three_warm_starts_are_behind_each_row(regime):
    section = archives()[regime]["sections"][0]
    assert section["problems"] == []
    for table in section["tables"]:
        assert table["problems"] == []
        assert all(row["statistics"]["seeds"] == 8 for row in table["rows"])
    assert len({run["start"] for run in section["runs"]}) == 3
    assert {run["seed"] for run in section["runs"]} == set(range(8))


@pytest.mark.parametrize("regime", REGIMES)
def test_statistics_follow_from_the_runs(regime):
    section = archives()[regime]["sections"][0]
    for table in section["tables"]:
        scores = []
        for row in table["rows"]:
            by_seed = {}
            for run in section["runs"]:
                if run["key"] == row["key"]:
                    found = run["ends"][table["match"]]["data_sets"][table["data_set"]]
                    by_seed[run["seed"]] = np.array(found["right"]) / found["samples"]
            scores.append(RowScores(row["name"], by_seed))
        again = table_statistics(scores)
        for row, own, previous, first in zip(
            table["rows"], again.rows, again.to_previous, again.to_first, strict=True
        ):
            assert own.mean == pytest.approx(row["statistics"]["mean"], abs=1e-12)
            assert own.over_seeds.low == pytest.approx(row["statistics"]["over_seeds"]["low"], abs=1e-9)
            for found, kept in ((previous, row["to_previous"]), (first, row["to_first"])):
                if kept is not None:
                    assert found.mean == pytest.approx(kept["mean"], abs=1e-12)
                    assert found.over_seeds.high == pytest.approx(kept["over_seeds"]["high"], abs=1e-9)
                    assert found.p_holm == pytest.approx(kept["p_holm"], abs=1e-9)
