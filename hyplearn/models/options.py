"""Options of the hyperbolic layers of a model, as data."""

from __future__ import annotations

from dataclasses import dataclass

from hyplearn.nn.batchnorm import CENTROIDS, COORDINATES, DISPERSIONS
from hyplearn.nn.boost import BOOSTS
from hyplearn.nn.checks import one_of
from hyplearn.nn.rotation import NORM_MATCHES, ORTHOGONALS, RESCALES

KINDS = ("rotation", "original")


@dataclass(frozen=True)
class ConvolutionOptions:
    """kind: `rotation`, the convolution of Bdeir Section 3.3, with the options of `LorentzConv2d`; or `original`, that
    of HCNN, which has a bias and none of the other options."""

    kind: str = "rotation"
    norm_match: str = "exact"
    orthogonal: str = "cayley"
    boost: str = "full"

    def __post_init__(self) -> None:
        one_of("conv.kind", self.kind, KINDS)
        one_of("conv.norm_match", self.norm_match, NORM_MATCHES)
        one_of("conv.orthogonal", self.orthogonal, ORTHOGONALS)
        one_of("conv.boost", self.boost, BOOSTS)


@dataclass(frozen=True)
class NormOptions:
    """Options of `LorentzBatchNorm2d`; momentum and eps hold for the Euclidean batch norms as well."""

    dispersion: str = "mean_distance"
    centroid: str = "two_stage"
    coordinates: str = "space"
    momentum: float = 0.1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        one_of("norm.dispersion", self.dispersion, DISPERSIONS)
        one_of("norm.centroid", self.centroid, CENTROIDS)
        one_of("norm.coordinates", self.coordinates, COORDINATES)


@dataclass(frozen=True)
class RescaleSites:
    """Where maximum-distance rescaling (Bdeir Eqs. 2-3) is applied.

    entry: from Euclidean features to the hyperboloid. conv: `both` sides of the boost, `pre_boost`, `post_boost` or
    `none`. norm: in the batch norm, after the dispersion is scaled. residual: after a residual sum. transfer: between
    hyperboloids.
    """

    entry: bool = True
    conv: str = "both"
    norm: bool = True
    residual: bool = True
    transfer: bool = True

    def __post_init__(self) -> None:
        one_of("rescale.conv", self.conv, RESCALES)
