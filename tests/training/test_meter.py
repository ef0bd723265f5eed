from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from hyplearn.training.meter import ClassificationMeter


def definition(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss, top-1 and top-5 image by image."""
    loss = first = five = 0.0
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        loss += (row.logsumexp(0) - row[label]).item() / len(labels)
        order = row.argsort(descending=True).tolist()
        first += 100 * (order[0] == label) / len(labels)
        five += 100 * (label in order[:5]) / len(labels)
    return {"loss": loss, "top1": first, "top5": five}


def update(meter: ClassificationMeter, logits: Tensor, labels: Tensor) -> None:
    meter.update(F.cross_entropy(logits, labels), logits, labels)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(101, 9, generator=generator), torch.randint(9, (101,), generator=generator)


@pytest.mark.parametrize("batch", [101, 17])
def test_metrics_are_their_definition_however_images_are_batched(data: tuple[Tensor, Tensor], batch: int) -> None:
    meter = ClassificationMeter()
    for logits, labels in zip(*(part.split(batch) for part in data), strict=True):
        update(meter, logits, labels)
    assert_close(meter.metrics(), definition(*data))


def test_up_to_five_classes_have_no_top5(data: tuple[Tensor, Tensor]) -> None:
    meter = ClassificationMeter()
    update(meter, data[0][:, :5], data[1] % 5)
    assert set(meter.metrics()) == {"loss", "top1"}


def test_an_empty_meter_has_no_metrics(data: tuple[Tensor, Tensor]) -> None:
    meter = ClassificationMeter()
    assert meter.metrics() == {}
    update(meter, *data)
    meter.reset()
    assert meter.metrics() == {}


def test_sums_of_processes_add_up(data: tuple[Tensor, Tensor]) -> None:
    meters = [ClassificationMeter(), ClassificationMeter()]
    update(meters[0], data[0][:40], data[1][:40])
    update(meters[1], data[0][40:], data[1][40:])
    assert_close(meters[0].metrics(lambda sums: sums + meters[1].sums), definition(*data))


def test_the_state_continues_the_sums(data: tuple[Tensor, Tensor]) -> None:
    first, second = ClassificationMeter(), ClassificationMeter()
    update(first, data[0][:40], data[1][:40])
    second.load_state_dict(first.state_dict(lambda sums: sums))
    for meter in (first, second):
        update(meter, data[0][40:], data[1][40:])
    assert first.metrics() == second.metrics()
