"""Two processes with half of every batch are one process with the whole: losses, gradients, weights, memories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch.testing import assert_close

from hyplearn.nn.processes import gather
from tests.support import gather_processes as two_processes


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes got."""
    folder = tmp_path_factory.mktemp("two")
    multiprocessing.spawn(two_processes.worker, args=(str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", two_processes.CASES)
def test_two_processes_are_one_with_the_whole_batch(case: str, parts: list[dict[str, Any]]) -> None:
    whole = two_processes.train(case, slice(None), parallel=False)
    assert whole["gradients"]
    for part in parts:
        for what in ("losses", "gradients", "state"):
            assert_close(part[case][what], whole[what], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["test", "val", "one_sided"])
def test_two_processes_evaluate_to_the_last_bit_as_one(name: str, parts: list[dict[str, Any]]) -> None:
    """Uneven shares, none at all, duplicates, several spaces; the metrics beside the trained one, too."""
    alone = two_processes.stages(0, 1)[name]
    for part in parts:
        found = part["stages"][name]
        assert found["metrics"] == alone["metrics"]
        assert found["results"].keys() == alone["results"].keys()
        assert all(torch.equal(found["results"][key], value) for key, value in alone["results"].items())
        assert torch.equal(found["embedded"]["ids"], alone["embedded"]["ids"])
        assert all(map(torch.equal, found["embedded"]["points"], alone["embedded"]["points"]))


def test_features_travel_only_where_a_metric_needs_them(parts: list[dict[str, Any]]) -> None:
    for part in parts:
        assert part["stages"]["test"]["embedded"]["features"].shape == (two_processes.IMAGES, 6)
        assert part["stages"]["val"]["embedded"]["features"].shape == (two_processes.IMAGES, 1)


def test_one_process_gathers_itself() -> None:
    x = torch.randn(3)
    assert gather(x) is x
