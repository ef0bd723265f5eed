"""Feature maps as rows of points."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyplearn.nn import layout


def test_rows_of_a_channels_last_map_are_a_view_and_lead_back() -> None:
    x = layout.channels_last(torch.randn(2, 3, 4, 5))
    points = layout.rows(x)
    assert points.shape == (2, 20, 3)
    assert points.data_ptr() == x.data_ptr()
    assert_close(points[1, 7], x[1, :, 1, 2])
    back = layout.feature_map(points, x)
    assert_close(back, x, rtol=0, atol=0)
    assert back.is_contiguous(memory_format=torch.channels_last)


def test_rows_of_any_other_strides_are_the_same_points() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert_close(layout.rows(x), layout.rows(layout.channels_last(x)), rtol=0, atol=0)


def test_norms_of_half_precision_maps_are_float32() -> None:
    x = torch.full((1, 2, 1, 1), 300.0, dtype=torch.float16)  # the square is beyond float16
    assert_close(layout.squared_norm(x), torch.full((1, 1, 1, 1), 180000.0))
    assert layout.promoted(x).dtype == torch.float32
    assert layout.promoted(x.double()).dtype == torch.float64


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_row_dots_do_not_depend_on_the_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    monkeypatch.setattr(layout, "CHUNK", chunk)
    assert_close(layout.row_dots(x, y), (x * y).sum(-1))
    assert_close(layout.row_squares(x), x.square().sum(-1))
