"""The digest names the weights, whatever they are computed in or wrapped by."""

from __future__ import annotations

import torch
from torch import nn

from hyplearn.models.digest import weights_digest


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def test_equal_weights_have_one_digest_in_every_precision_and_wrapper() -> None:
    plain = weights_digest(network())
    assert len(plain) == 64
    assert weights_digest(network().double()) == plain
    assert weights_digest({f"_orig_mod.{name}": x for name, x in network().state_dict().items()}) == plain
    assert weights_digest(dict(reversed(network().state_dict().items()))) == plain


def test_any_change_gives_another_digest() -> None:
    plain, changed = weights_digest(network()), network()
    with torch.no_grad():
        changed[0].weight[0, 0] += 1e-6
    moved, renamed, counted = network(), network().state_dict(), network()
    moved[1].running_mean[0] = 1e-6
    renamed["2.weight"] = renamed.pop("0.weight")
    counted[1].num_batches_tracked += 1
    digests = {plain, *map(weights_digest, (changed, moved, renamed, counted))}
    assert len(digests) == 5


def test_shapes_count() -> None:
    x = torch.arange(6.0)
    assert weights_digest({"x": x.view(2, 3)}) != weights_digest({"x": x.view(3, 2)})
