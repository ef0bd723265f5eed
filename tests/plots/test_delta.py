from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hyplearn.evaluation.delta import hyperbolicity
from hyplearn.evaluation.metric import Metric
from hyplearn.plots.delta import draw_delta, printed


def test_the_printed_values_are_those_of_the_table_headers() -> None:
    assert printed() == {"CIFAR-10": 0.26, "CIFAR-100": 0.23, "Tiny-ImageNet": 0.20}


@pytest.mark.parametrize("draws", [1, 3])
def test_bars_and_their_numbers(tmp_path: Path, draws: int) -> None:
    points = torch.randn(40, 3)
    found = {
        str(metric): hyperbolicity(points.__getitem__, 40, metric, samples=20, draws=draws, seed=0)
        for metric in (Metric("euclidean"), Metric("lorentz", 0.5))
    }
    pictures = []
    for name in "ab":
        png, table = draw_delta(tmp_path / f"{name}.png", found, convention="half")
        pictures.append(png.read_bytes())
    assert pictures[0] == pictures[1]
    header, first, second = table.read_text().splitlines()
    assert header.startswith("part,delta_rel,std,convention")
    assert first.split(",")[1] == f"{found['euclidean'].mean('half'):.6g}"
    assert second.startswith("lorentz(c=0.5),")
