"""The readings of a forward pass do not depend on how it is computed."""

from __future__ import annotations

import copy

import pytest
import torch

from hyplearn.manifolds import Manifolds
from hyplearn.models import ResNet
from hyplearn.nn.monitor import record


def test_fused_and_layered_networks_give_the_same_readings() -> None:
    options = {"depth": 18, "in_channels": 1, "num_classes": 3, "image_size": 8, "width": 4, "head": "lorentz_mlr"}
    stages = ["lorentz", "euclidean", "lorentz", "euclidean"]
    fused = ResNet(**options, stages=stages, manifold=Manifolds("lorentz")).eval()
    layered = ResNet(**options, stages=stages, manifold=Manifolds("lorentz"), fused=False).eval()
    layered.load_state_dict(copy.deepcopy(fused.state_dict()))
    found = []
    for network in (fused, layered):
        with torch.no_grad(), record() as readings:
            network(10 * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
        found.append(dict(readings))
    assert {"rescaled/conv", "rescaled/norm", "rescaled/residual", "rescaled/entry"} <= set(found[0])
    assert found[1] == pytest.approx(found[0], abs=0.02)
