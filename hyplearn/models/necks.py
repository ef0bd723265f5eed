"""Necks: from the features of a backbone to points of one or several geometries.

A neck is described by data, `Neck` or `LorentzNeck`, and built for a number of features and a family of manifolds.
Everything after the backbone computes in float32, whatever autocast says.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyplearn.errors import one_of
from hyplearn.geometry import lorentz, sphere
from hyplearn.geometry.numerics import vector_norm
from hyplearn.manifolds import CurvedManifold, Lorentz, Manifold, Manifolds
from hyplearn.manifolds.family import Kind
from hyplearn.manifolds.precision import promote
from hyplearn.nn import monitor
from hyplearn.nn.checks import in_full_precision, positive
from hyplearn.nn.fused.lift import EntryKind
from hyplearn.nn.lift import Lift
from hyplearn.nn.linear import LorentzLinear, OriginalLorentzLinear
from hyplearn.nn.poincare_gradient import riemannian_gradient
from hyplearn.nn.rotation import RescaleSide
from hyplearn.nn.space import Space, numbered, space_names

CURVED = ("poincare", "lorentz")
FeatureNormalization = Literal["none", "l2", "layer_norm"]
BranchInput = Literal["raw", "unit"]
NeckLinear = Literal["rotation_boost", "original"]
MANIFOLD_OF = {  # the choice of group `manifold` that goes with a kind
    "sphere": "sphere",
    "euclidean": "euclidean",
    "poincare": "poincare_embedding",
    "lorentz": "lorentz_embedding",
}


class Head(nn.Module):
    """Features (B, D) to one tensor of points (B, n_i) per space, in float32 or better."""

    spaces: nn.ModuleList
    sizes: tuple[int, ...]

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(features.device.type, enabled=False):
            return self.place(promote(features))

    @abstractmethod
    def place(self, z: Tensor) -> tuple[Tensor, ...]:
        """The points of features (B, D) in float32 or better, outside autocast."""

    def named_spaces(self) -> dict[str, Space]:
        """The spaces by their geometry, numbered from the second of a kind on: poincare, poincare2."""
        spaces = [cast(Space, space) for space in self.spaces]
        return dict(zip(space_names(spaces), spaces, strict=True))


# Branches on one linear layer: Sph-, Hyp-, Mix-ViT and HIER


@dataclass(frozen=True)
class Branch:
    """One geometry of an embedding.

    kind: sphere, euclidean, poincare or lorentz; None for that of the manifold. weight: > 0, of its distances beside
    those of other branches (lambda of Yue Eq. 10). learned: whether the weight is. c: initial curvature of a poincare
    or lorentz branch, each of which has a curvature of its own; None for the manifold's.
    """

    kind: Kind | None = None
    weight: float = 1.0
    learned: bool = False
    c: float | None = None

    def __post_init__(self) -> None:
        if self.kind is not None:
            one_of("kind", self.kind, Kind)
        if self.c is not None and self.kind in ("sphere", "euclidean"):
            raise ValueError(f"c={self.c}: a branch of kind {self.kind} has no curvature; set c=null")


@dataclass(frozen=True)
class Neck:
    """One linear layer (orthogonal weight, bias 0) whose output u goes to every branch.

    sphere: u / |u|. euclidean: u. poincare: exp at the origin of u shortened to `clip`, at distance 2 |u| (Yue Eq. 3).
    lorentz: the isometric point of the hyperboloid, at the same distance.

    size: n, numbers per branch. branches: by a name that only the configuration uses; null for none of that name.
    clip: largest |u|, > 0; None for no limit but the precision's.
    normalize: what is done to the features first, `none`, `l2` (the text of Yue: features normalised before they
        branch) or `layer_norm` (HIER, without weights).
    branch_input: what reaches the branches: `raw`, u itself, so that Mix has two radii; `unit`, u / |u| (the authors'
        Mix: clip 2.3 never acts, and the hyperbolic distance is a function of the cosine).
    riemannian_gradient: poincare branches scale their gradient by the inverse metric (HIER).
    """

    size: int
    branches: Mapping[str, Branch | None]
    clip: float | None = None
    normalize: FeatureNormalization = "none"
    branch_input: BranchInput = "raw"
    riemannian_gradient: bool = False

    def __post_init__(self) -> None:
        positive("size", self.size)
        one_of("normalize", self.normalize, FeatureNormalization)
        one_of("branch_input", self.branch_input, BranchInput)
        _check_clip(self.clip)
        if not any(self.branches.values()):
            raise ValueError("branches must name at least one geometry")

    def build(self, features: int, manifolds: Manifolds | None) -> Head:
        """The layers for features (B, features). Raises ValueError for branches that the manifold does not fit."""
        branches = [branch for branch in self.branches.values() if branch is not None]
        kinds = _kinds(branches, manifolds)
        curved = [kind for kind in kinds if kind in CURVED]
        if self.clip is not None and not curved:
            raise ValueError(
                f"clip={self.clip} is for points of a hyperbolic space, here are {kinds}: choose a hyperbolic "
                "manifold, or set model.head.clip=null"
            )
        if self.riemannian_gradient and "poincare" not in kinds:
            raise ValueError(
                f"riemannian_gradient=true is for points of the ball, here are {kinds}: set riemannian_gradient=false"
            )
        spaces = [
            Space(_manifold(name, kind, branch.c, manifolds), weight=branch.weight, learned=branch.learned)
            for name, kind, branch in zip(numbered(kinds), kinds, branches, strict=True)
        ]
        return BranchHead(features, self, spaces)


class BranchHead(Head):
    """The head that a `Neck` describes. spaces: one per branch, with the manifold of each."""

    def __init__(self, features: int, neck: Neck, spaces: Sequence[Space]) -> None:
        super().__init__()
        self.neck, self.spaces = neck, nn.ModuleList(spaces)
        self.sizes = (neck.size,) * len(spaces)
        self.linear = nn.Linear(features, neck.size)
        nn.init.orthogonal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def place(self, z: Tensor) -> tuple[Tensor, ...]:
        in_full_precision(self, self.linear.weight)
        u: Tensor = self.linear(_normalized(z, self.neck.normalize))
        if self.neck.branch_input == "unit":
            u = sphere.proj(u)
        return tuple(_PLACES[space.name](u, name, space, self.neck) for name, space in self.named_spaces().items())

    def extra_repr(self) -> str:
        neck = self.neck
        return f"clip={neck.clip}, normalize={neck.normalize}, branch_input={neck.branch_input}"


def _normalized(z: Tensor, kind: str) -> Tensor:
    if kind == "l2":
        return sphere.proj(z)
    return F.layer_norm(z, z.shape[-1:]) if kind == "layer_norm" else z


def _on_sphere(u: Tensor, name: str, space: Space, neck: Neck) -> Tensor:
    return sphere.proj(u)


def _flat(u: Tensor, name: str, space: Space, neck: Neck) -> Tensor:
    return u


def _on_hyperboloid(u: Tensor, name: str, space: Space, neck: Neck) -> Tensor:
    manifold = cast(CurvedManifold, space.manifold)
    point: Tensor = manifold.expmap0(2 * clipped(u, name, manifold, neck.clip))
    return point


def _on_ball(u: Tensor, name: str, space: Space, neck: Neck) -> Tensor:
    manifold = cast(CurvedManifold, space.manifold)
    point: Tensor = manifold.expmap0(clipped(u, name, manifold, neck.clip))
    return riemannian_gradient(point, c=manifold.c) if neck.riemannian_gradient else point


_PLACES: dict[str, Callable[[Tensor, str, Space, Neck], Tensor]] = {
    "sphere": _on_sphere,
    "euclidean": _flat,
    "poincare": _on_ball,
    "lorentz": _on_hyperboloid,
}


def clipped(u: Tensor, name: str, manifold: CurvedManifold, clip: float | None) -> Tensor:
    """u (B, n) with |u| at most `clip`, and at most d_max / 2, where the precision ends; gives the share it shortened.

    Beyond the limit nothing pulls back: the gradient along u is exactly 0.
    """
    limit = lorentz.d_max(c=manifold.c, dtype=u.dtype, x_t_max=manifold.x_t_max) / 2
    limit = limit.clamp_max(math.inf if clip is None else clip)
    length = vector_norm(u, keepdim=True)
    monitor.give(f"clipped/{name}", lambda: length > limit)
    return u * (limit / length.clamp_min(limit))


# The Lorentz neck of LHIER


@dataclass(frozen=True)
class LorentzNeck:
    """Bdeir Section 4.1: LayerNorm without weights, the way to the hyperboloid, a Lorentz linear layer, rescaling.

    size: n. linear: `rotation_boost`, the layer of Bdeir Eq. (5), or `original`, that of HCNN, which the paper's name
    for it may mean as well. entry: see `Lift`. clip: None for maximum-distance rescaling; a number > 0 for the limit
    |log_0| <= clip in its place, as HIER has it (there 2.3 means a distance of 4.6, so 4.6 here).
    """

    size: int
    linear: NeckLinear = "rotation_boost"
    entry: EntryKind = "project"
    clip: float | None = None

    def __post_init__(self) -> None:
        positive("size", self.size)
        one_of("linear", self.linear, NeckLinear)
        one_of("entry", self.entry, EntryKind)
        _check_clip(self.clip)

    def build(self, features: int, manifolds: Manifolds | None) -> Head:
        """The layers for features (B, features). Raises ValueError unless the manifold is the hyperboloid."""
        if _kind_of(manifolds) != "lorentz":
            raise ValueError(f"manifold={_kind_of(manifolds)}: a Lorentz neck needs manifold=lorentz_embedding")
        return LorentzHead(features, self, Space(_manifold("lorentz", "lorentz", None, manifolds)))


class LorentzHead(Head):
    """The head that a `LorentzNeck` describes."""

    def __init__(self, features: int, neck: LorentzNeck, space: Space) -> None:
        super().__init__()
        self.neck, self.spaces, self.sizes = neck, nn.ModuleList([space]), (neck.size,)
        manifold = cast(Lorentz, space.manifold)
        self.enter = Lift(manifold, kind=neck.entry)
        self.linear: nn.Module
        if neck.linear == "original":
            self.linear = OriginalLorentzLinear(features, neck.size, manifold=manifold)
        else:  # its last step is the rescaling, which must not be applied twice
            rescale: RescaleSide = "both" if neck.clip is None else "pre_boost"
            self.linear = LorentzLinear(features, neck.size, manifold=manifold, rescale=rescale)

    def place(self, z: Tensor) -> tuple[Tensor, ...]:
        manifold = cast(Lorentz, cast(Space, self.spaces[0]).manifold)
        x: Tensor = self.linear(self.enter(_normalized(z, "layer_norm")))
        if self.neck.clip is not None:
            v = clipped(manifold.logmap0(x) / 2, "lorentz", manifold, self.neck.clip / 2)
            return (manifold.expmap0(2 * v),)
        if self.neck.linear == "original":
            rescaled = manifold.rescale(x)
            monitor.give_shrunk("neck", x, rescaled)
            return (rescaled,)
        return (x,)


# Checks


def _check_clip(clip: float | None) -> None:
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip} must be > 0: 0 would put every point at the origin; null for no clipping")


def _kind_of(manifolds: Manifolds | None) -> str:
    return "euclidean" if manifolds is None else manifolds.kind


def _kinds(branches: Sequence[Branch], manifolds: Manifolds | None) -> list[str]:
    """The kind of every branch. Raises ValueError if they and the manifold do not go together."""
    family = _kind_of(manifolds)
    if family not in get_args(Kind):
        raise ValueError(
            f"manifold={family}: a neck places points on {', '.join(get_args(Kind))} alone; derive the manifold from "
            "Lorentz or PoincareBall, or place its points in a model of your own"
        )
    kinds = [branch.kind or family for branch in branches]
    curved = [kind for kind in kinds if kind in CURVED]
    wanted = MANIFOLD_OF[curved[0] if curved else kinds[0]]
    if family in CURVED and family not in kinds:
        raise ValueError(
            f"manifold={family}: its curvature would be ignored, the branches are {kinds}; use manifold={wanted}"
        )
    if curved and family not in CURVED:
        raise ValueError(f"manifold={family} gives no curvature to the branches {kinds}; use manifold={wanted}")
    return kinds


def _manifold(name: str, kind: str, c: float | None, manifolds: Manifolds | None) -> Manifold:
    options: dict[str, Any] = {"kind": kind, "c": c}
    return (Manifolds("euclidean") if manifolds is None else manifolds).embedding(name, **options)
