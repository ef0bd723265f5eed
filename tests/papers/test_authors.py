"""protocol=code is what the authors' code runs, key by key: the table of authors.yaml against resolved experiments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from hyplearn.config.compose import compose
from hyplearn.config.specification import checked_specification
from hyplearn.papers.authors import Family, families, without_counterpart
from hyplearn.papers.cells import select
from hyplearn.runs.keys import NOT_THE_RUN, within

EXPERIMENTS = [(family, short) for family in families() for short in family.experiments]
NAMES = [family.experiments[short] for family, short in EXPERIMENTS]


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values, without what names classes and what is not the run."""
    for key, value in tree.items():
        name = f"{path}{key}"
        if key in ("_target_", "_partial_") or within(name, NOT_THE_RUN):
            continue
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


@pytest.mark.parametrize(("family", "short"), EXPERIMENTS, ids=NAMES)
def test_every_setting_is_that_of_the_authors_code(family: Family, short: str) -> None:
    """No key is left out: one that is in no table is one that nobody compared."""
    found = dict(leaves(compose([f"experiment={family.experiments[short]}", "protocol=code"]).config))
    values = family.of(short)
    assert {key: found.get(key, "missing") for key in values} == values
    unknown = [key for key in found if key not in values and not within(key, without_counterpart())]
    assert unknown == []


def test_every_family_names_its_source_and_cells_of_the_tables() -> None:
    for family in families():
        assert "/" in family.source
        for name in family.experiments.values():
            assert [cell.experiment for cell in select(name)] == [name]


def test_a_value_for_each_experiment_is_for_all_of_them() -> None:
    for family in families():
        for key, value in family.values.items():
            if isinstance(value, Mapping):
                assert set(family.experiments) <= set(value), f"{family.name}: {key}"


@pytest.mark.slow
@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_every_family_can_be_built(family: Family) -> None:
    name = next(iter(family.experiments.values()))
    weights = ["model.pretrained=false"] if "evaluation" in name or "table1" in name else []
    checked_specification(compose([f"experiment={name}", "protocol=code", "trainer.precision=32", *weights]))
