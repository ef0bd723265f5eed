"""Options of the hyperbolic layers, as data."""

from __future__ import annotations

import pytest

from hyplearn.models import ConvolutionOptions, NormOptions, RescaleSites
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.conv import LorentzConv2d, OriginalLorentzConv2d
from hyplearn.nn.lift import Lift, Transfer, Unlift
from hyplearn.nn.residual import LorentzResidual
from tests.support.configured_models import NAMES, model_of


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (ConvolutionOptions, {"kind": "orig"}, r"conv\.kind='orig'.*Did you mean original"),
        (ConvolutionOptions, {"norm_match": "exactly"}, r"conv\.norm_match='exactly'.*Did you mean exact"),
        (ConvolutionOptions, {"orthogonal": "qr"}, r"conv\.orthogonal='qr' must be one of 'cayley'"),
        (ConvolutionOptions, {"boost": "half"}, r"conv\.boost='half' must be one of 'full'"),
        (NormOptions, {"dispersion": "std"}, r"norm\.dispersion='std' must be one of 'mean_distance'"),
        (NormOptions, {"centroid": "joined"}, r"norm\.centroid='joined'.*Did you mean joint"),
        (NormOptions, {"coordinates": "spaces"}, r"norm\.coordinates='spaces'.*Did you mean space"),
        (RescaleSites, {"conv": "before"}, r"rescale\.conv='before' must be one of 'both'"),
    ],
)
def test_wrong_values_are_named(options: type, values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options(**values)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("hcnn", "hecnn"))])
def test_options_reach_every_layer(name: str) -> None:
    model = model_of(
        name, "model.norm.dispersion=rms", "model.norm.centroid=joint", "model.norm.momentum=0.2",
        "model.norm.eps=1e-4", "++model.norm.tangent_limit=7.0",
        "model.rescale.entry=false", "model.rescale.norm=false", "model.rescale.residual=false",
        "model.rescale.transfer=false", "model.entry=exp0", "model.exit=space",
    )  # fmt: skip
    for layer in model.modules():
        if isinstance(layer, LorentzBatchNorm2d):
            assert (layer.dispersion, layer.centroid, layer.momentum, layer.eps) == ("rms", "joint", 0.2, 1e-4)
            assert layer.tangent_limit == 7.0
        if isinstance(layer, Lift):
            assert layer.kind == "exp0"
        if isinstance(layer, Unlift):
            assert layer.kind == "space"
        if isinstance(layer, LorentzBatchNorm2d | Lift | LorentzResidual | Transfer):
            assert not layer.rescale


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("hcnn", "hecnn"))])
def test_originals_alone_have_the_published_tangent_limit(name: str) -> None:
    limits = {layer.tangent_limit for layer in model_of(name).modules() if isinstance(layer, LorentzBatchNorm2d)}
    assert limits == {10.0 if "original" in name else None}


def test_options_of_the_convolution_reach_every_layer() -> None:
    changes = ["model.conv.norm_match=sum", "model.conv.orthogonal=householder", "model.conv.boost=scale"]
    model = model_of("hcnn_r18", *changes, "model.rescale.conv=post_boost")
    layers = [layer for layer in model.modules() if isinstance(layer, LorentzConv2d)]
    assert len(layers) == 20
    for layer in layers:
        assert (layer.boost.kind, layer.rescale) == ("scale", "post_boost")
        assert layer.norm_match == ("none" if layer.is_orthogonal else "sum")
    original = model_of("hcnn_original_r18")
    assert sum(isinstance(layer, OriginalLorentzConv2d) for layer in original.modules()) == 20
    assert not any(isinstance(layer, LorentzConv2d) for layer in original.modules())


def test_options_of_the_norm_reach_euclidean_layers() -> None:
    model = model_of("euclidean_r18", "model.norm.momentum=0.3", "model.norm.eps=1e-3")
    assert (model.stem.norm.momentum, model.stem.norm.eps) == (0.3, 1e-3)
