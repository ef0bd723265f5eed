from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hyplearn.losses import CrossEntropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_its_definition(smoothing: float) -> None:
    logits, labels = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        log_sum = torch.tensor(row, dtype=torch.float64).logsumexp(0).item()
        target = [smoothing / 7 + (1 - smoothing) * (k == label) for k in range(7)]
        expected -= sum(q * (z - log_sum) for q, z in zip(target, row, strict=True)) / 5
    assert_close(CrossEntropy(label_smoothing=smoothing)(logits, labels).item(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_taken_in_float32(dtype: torch.dtype) -> None:
    logits, labels = torch.tensor([[12.0, 0.0], [0.0, 10.0]]), torch.tensor([0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CrossEntropy()(logits.to(dtype), labels)
    assert loss.dtype == torch.float32
    assert_close(loss, CrossEntropy()(logits, labels))


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_label_smoothing_out_of_range_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing=.* must lie in \[0, 1\)"):
        CrossEntropy(label_smoothing=value)


def test_the_loss_says_what_it_expects() -> None:
    assert CrossEntropy.expects == "logits"
    assert "label_smoothing=0.2" in repr(CrossEntropy(label_smoothing=0.2))
