"""Two processes with synchronized statistics are one process with the whole batch: values and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch.testing import assert_close

from hyplearn.nn.processes import total
from tests.support import batch_norm_processes as two_processes


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes got."""
    folder = tmp_path_factory.mktemp("two")
    multiprocessing.spawn(two_processes.worker, args=(str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", two_processes.CASES, ids=str)
def test_batch_norm_of_two_processes_is_that_of_the_whole_batch(
    case: tuple[str, str, bool], parts: list[dict[str, Any]]
) -> None:
    first, second = (part["norms"][two_processes.CASES.index(case)] for part in parts)
    whole = two_processes.run(case, *two_processes.whole_batch(), synchronized=False)
    for name in ("out", "x"):
        assert_close(torch.cat([first[name], second[name]]), whole[name], rtol=1e-8, atol=1e-10)
    for name in ("beta", "gamma", "manifold.curvature.raw"):
        assert_close(first[name] + second[name], whole[name], rtol=1e-7, atol=1e-9)
    for name in ("running_mean", "running_dispersion", "num_batches_tracked"):
        assert_close(first[name], whole[name], rtol=1e-9, atol=1e-12)
        assert_close(second[name], first[name], rtol=0, atol=0)


def test_gradient_of_a_sum_is_that_of_all_processes_losses(parts: list[dict[str, Any]]) -> None:
    for part in parts:
        assert_close(part["sums"]["out"], torch.tensor([3.0, 6.0]))
        assert_close(part["sums"]["x"], torch.tensor([3.0, 3.0]))


def test_one_process_sums_nothing() -> None:
    x = torch.randn(3)
    assert total(x) is x
    case = two_processes.CASES[0]
    made, whole = (two_processes.run(case, *two_processes.whole_batch(), synchronized=s) for s in (True, False))
    assert_close(made, whole)
