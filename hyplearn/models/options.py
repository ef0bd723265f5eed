"""Options of the hyperbolic layers of a model, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hyplearn.errors import one_of
from hyplearn.nn.batchnorm import Centroid, Coordinates, Dispersion
from hyplearn.nn.boost import BoostKind
from hyplearn.nn.fused.conv import NormMatch
from hyplearn.nn.rotation import Orthogonal, RescaleSide

ConvolutionKind = Literal["rotation", "original"]


@dataclass(frozen=True)
class ConvolutionOptions:
    """kind: `rotation`, the convolution of Bdeir Section 3.3, with the options of `LorentzConv2d`; or `original`, that
    of HCNN, which has a bias and none of the other options."""

    kind: ConvolutionKind = "rotation"
    norm_match: NormMatch = "exact"
    orthogonal: Orthogonal = "cayley"
    boost: BoostKind = "full"

    def __post_init__(self) -> None:
        one_of("conv.kind", self.kind, ConvolutionKind)
        one_of("conv.norm_match", self.norm_match, NormMatch)
        one_of("conv.orthogonal", self.orthogonal, Orthogonal)
        one_of("conv.boost", self.boost, BoostKind)


@dataclass(frozen=True)
class NormOptions:
    """Options of `LorentzBatchNorm2d`; momentum and eps hold for the Euclidean batch norms as well."""

    dispersion: Dispersion = "mean_distance"
    centroid: Centroid = "two_stage"
    coordinates: Coordinates = "space"
    tangent_limit: float | None = None
    momentum: float = 0.1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        one_of("norm.dispersion", self.dispersion, Dispersion)
        one_of("norm.centroid", self.centroid, Centroid)
        one_of("norm.coordinates", self.coordinates, Coordinates)


@dataclass(frozen=True)
class RescaleSites:
    """Where maximum-distance rescaling (Bdeir Eqs. 2-3) is applied.

    entry: from Euclidean features to the hyperboloid. conv: `both` sides of the boost, `pre_boost`, `post_boost` or
    `none`. norm: in the batch norm, after the dispersion is scaled. residual: after a residual sum. transfer: between
    hyperboloids.
    """

    entry: bool = True
    conv: RescaleSide = "both"
    norm: bool = True
    residual: bool = True
    transfer: bool = True

    def __post_init__(self) -> None:
        one_of("rescale.conv", self.conv, RescaleSide)
