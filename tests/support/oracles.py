"""Numbers computed once with the authors' code, see tests/oracles/README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

FOLDER = Path(__file__).parents[1] / "oracles"


def oracle(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and outputs of one file."""
    content = json.loads((FOLDER / f"{name}.json").read_text())
    return content["inputs"], content["outputs"]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def meets(found: Tensor, expected: Any, tolerance: float) -> None:
    """Assert a largest difference of at most tolerance times the largest entry."""
    wanted = tensor(expected)
    assert found.dtype == torch.float64
    assert_close(found.detach(), wanted, rtol=0, atol=tolerance * wanted.abs().max().item())


def difference(found: Tensor, expected: Any) -> float:
    """The largest difference over the largest entry."""
    wanted = tensor(expected)
    return ((found.detach() - wanted).abs().max() / wanted.abs().max()).item()
