"""Pointwise operations on space coordinates."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyplearn.nn.activation import LorentzDropout, LorentzReLU


def test_relu_acts_on_space_and_leaves_its_input() -> None:
    x = torch.tensor([[-1.0, 2.0], [0.0, -3.0]])
    assert_close(LorentzReLU()(x), torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
    assert x[0, 0] == -1


def test_dropout_scales_survivors_in_training_only() -> None:
    dropout, x = LorentzDropout(0.25), torch.ones(10_000)
    out = dropout(x)
    assert_close(out.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert 0.23 < (out == 0).float().mean() < 0.27
    assert_close(dropout.eval()(x), x)
    assert "p=0.25" in repr(dropout)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_wrong_probability_is_named(p: float) -> None:
    with pytest.raises(ValueError, match=r"p=.* must lie in \[0, 1\)"):
        LorentzDropout(p)
