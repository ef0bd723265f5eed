"""The decorator that keeps geometry out of autocast and out of half precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hyplearn.manifolds import full_precision


@full_precision
def product(x: Tensor, *, y: Tensor, scale: float = 1.0) -> tuple[Tensor, bool]:
    """x y^T and whether autocast was on."""
    return scale * (x @ y.mT), torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
@pytest.mark.parametrize("autocast", [True, False])
def test_dtype_inside(dtype: torch.dtype, expected: torch.dtype, autocast: bool) -> None:
    x = torch.randn(3, 4, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        result, enabled = product(x, y=x)
        assert torch.is_autocast_enabled("cpu") == autocast
    assert result.dtype == expected
    assert not enabled


def test_name_and_gradient_pass_through() -> None:
    assert product.__name__ == "product"
    assert product.__doc__ == "x y^T and whether autocast was on."
    x = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    product(x, y=x.detach(), scale=2.0)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_functions_of_no_tensor_and_of_meta_tensors_work() -> None:
    assert full_precision(lambda a: a + 1)(1) == 2
    meta = torch.empty(3, 4, device="meta")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(meta, y=meta)[0].shape == (3, 3)
