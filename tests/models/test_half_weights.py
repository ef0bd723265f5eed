"""Classifiers under what torch does to whole models: half weights, empty batches, functional calls."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from tests.support.configured_models import NAMES, images, model_of
from tests.support.gradients import finite_or_refused


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_half_weights_are_finite_or_refused(name: str, dtype: torch.dtype) -> None:
    for given in (dtype, torch.float32):
        finite_or_refused(model_of(name).to(dtype), images().to(given))


@pytest.mark.parametrize("name", NAMES)
def test_empty_batches_have_no_logits(name: str) -> None:
    assert model_of(name).eval()(images(count=0)).shape == (0, 10)


@pytest.mark.parametrize("name", NAMES)
def test_empty_batches_train_no_batch_norm(name: str) -> None:
    model = model_of(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items() if "num_batches" not in key}
    try:
        model(images(count=0))
    except ValueError as error:
        assert "no image" in str(error) or "more than 1 value per channel" in str(error)  # noqa: PT017
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("name", ["hecnn_r18", "poincare_resnet_r18", "hybrid_lorentz_r18"])
def test_a_functional_call_leaves_shared_curvatures_as_they_are(name: str) -> None:
    model, x = model_of(name, "manifold.learned=true").eval(), images()
    before, expected = {key: value.clone() for key, value in model.state_dict().items()}, model(x)
    parameters = {key: 1.1 * value.detach() for key, value in model.named_parameters()}
    changed = functional_call(model, parameters, (x,), tie_weights=False)
    assert not torch.equal(changed, expected)
    assert torch.equal(model(x), expected)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
