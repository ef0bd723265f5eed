"""The norm-preserving linear map of the space coordinates shared by Lorentz linear and convolution layers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal as orthogonal_parametrization
from torch.nn.utils.parametrize import register_parametrization

from hyplearn.errors import one_of
from hyplearn.geometry import tf32
from hyplearn.manifolds import Lorentz
from hyplearn.manifolds.foreign import ours
from hyplearn.nn import monitor
from hyplearn.nn.boost import BoostKind, LorentzBoost
from hyplearn.nn.checks import in_full_precision
from hyplearn.nn.fused.conv import NormMatch
from hyplearn.nn.fused.placement import Placement, match_factor

Orthogonal = Literal["cayley", "householder", "matrix_exp"]
RescaleSide = Literal["both", "pre_boost", "post_boost", "none"]


class CayleyColumns(nn.Module):
    """Parametrization of an (m, n) weight, m >= n, with orthonormal columns by the Cayley map (Bdeir Algorithm 2).

    The columns are the first n of `(1 - A/2)^-1 (1 + A/2)`, with A skew and its first n columns the lower triangle of
    the parameter: what torch's `orthogonal` parametrization computes from an (m, m) system. With A/2 = [[a, -b^T],
    [b, 0]] and S = 1 - a + b^T b they are [2 S^-1 - 1; 2 b S^-1], an (n, n) system.
    """

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        lower = x[:n].tril(-1) / 2
        b = x[n:] / 2
        eye = torch.eye(n, dtype=x.dtype, device=x.device)
        inverse = torch.linalg.solve(eye - lower + lower.mT + b.mT @ b, 2 * eye)
        return torch.cat([inverse - eye, b @ inverse])


class RotationBoost(nn.Module):
    """`Boost(Rescale(Rotation(x)))`, Bdeir Eq. (5), for a weight of `out` rows and `fan_in` columns.

    fan_in > out: any weight, its output rescaled to the input's norm (`norm_match`). Otherwise (Algorithm 2) the
    weight has orthonormal columns: by the Cayley map, or another map of torch's orthogonal parametrization.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        manifold: Lorentz,
        norm_match: NormMatch,
        orthogonal: Orthogonal,
        boost: BoostKind,
        rescale: RescaleSide,
    ) -> None:
        super().__init__()
        one_of("norm_match", norm_match, NormMatch)
        one_of("orthogonal", orthogonal, Orthogonal)
        one_of("rescale", rescale, RescaleSide)
        self.manifold, self.shape = ours(manifold), shape
        out, fan_in = shape[0], int(torch.Size(shape[1:]).numel())
        self.is_orthogonal = fan_in <= out
        self.norm_match: NormMatch = "none" if self.is_orthogonal else norm_match
        self.rescale = rescale
        self.boost = LorentzBoost(out, manifold=manifold, kind=boost)
        weight = torch.empty(shape).uniform_(-((2 / fan_in) ** 0.5), (2 / fan_in) ** 0.5)
        if self.is_orthogonal:
            self.rotation = nn.Linear(fan_in, out, bias=False)
            self.rotation.weight = nn.Parameter(weight.flatten(1))
            if orthogonal == "cayley":
                register_parametrization(self.rotation, "weight", CayleyColumns())
            else:
                orthogonal_parametrization(self.rotation, "weight", orthogonal_map=orthogonal)
        else:
            self.weight_free = nn.Parameter(weight)

    @property
    def weight(self) -> Tensor:
        """The effective weight, of shape `shape`, in float32 or better."""
        if not self.is_orthogonal:
            return self.weight_free
        free = next(self.rotation.parameters())
        in_full_precision(self, free)
        with torch.autocast(free.device.type, enabled=False), tf32.refused():
            weight: Tensor = self.rotation.weight
            return weight.view(self.shape)

    def placement(self) -> Placement:
        """Return the steps of `move` for the fused path."""
        kind: Literal["vector", "scale", "none"] = "vector"
        if self.boost.kind in ("scale", "none"):
            kind = self.boost.kind
        return Placement(
            match=self.norm_match != "none",
            rescale_before=self.rescale in ("both", "pre_boost"),
            boost=kind,
            rescale_after=self.rescale in ("both", "post_boost"),
        )

    def move(self, y: Tensor, q_patch: Tensor) -> Tensor:
        """Norm match, rescale, boost, rescale of the linear map's output y (B, n, ...); q_patch: (B, 1, ...)."""
        if self.norm_match != "none":
            y = y * match_factor(q_patch, y.square().sum(1, keepdim=True))
        if self.rescale in ("both", "pre_boost"):
            y = self._rescaled(y)
        y = self.boost(y)
        return self._rescaled(y) if self.rescale in ("both", "post_boost") else y

    def _rescaled(self, x: Tensor) -> Tensor:
        points = x.movedim(1, -1)
        rescaled = self.manifold.rescale(points)
        monitor.give_shrunk("conv", points, rescaled)
        return rescaled.movedim(-1, 1)
