"""Ways between Euclidean features and the hyperboloid, and between hyperboloids."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyplearn.errors import one_of
from hyplearn.manifolds import Lorentz
from hyplearn.manifolds.foreign import ours
from hyplearn.nn import monitor
from hyplearn.nn.fused.lift import Entry, EntryKind, lift_relu
from hyplearn.nn.fused.norm import ExitKind
from hyplearn.nn.fused.scalars import Limits


class Lift(nn.Module):
    """Euclidean features (B, n, ...) to points of the hyperboloid, kept within d_max (Bdeir Eqs. 2-3).

    kind: `exp0`, the exponential map at the origin that Eq. (2) prints, or `project`, which takes the rescaled vector
    itself as the space coordinates, as the published encoders do (numerically far milder: a vector of norm 8 gets
    time 8, not 1500).
    clip: features longer than this are shortened to it first (the hybrid heads of HCNN), None to leave them.
    """

    def __init__(
        self, manifold: Lorentz, *, kind: EntryKind = "exp0", rescale: bool = True, clip: float | None = None
    ) -> None:
        super().__init__()
        one_of("kind", kind, EntryKind)
        if clip is not None and not clip > 0:
            raise ValueError(f"clip={clip} must be > 0, or None for no clipping")
        self.manifold, self.kind, self.rescale, self.clip = ours(manifold), kind, rescale, clip

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):  # float16 cannot hold sinh
            v = z.to(torch.promote_types(z.dtype, torch.float32)).movedim(1, -1)
            if self.clip is not None:
                v = v * (self.clip / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp_min(self.clip))
            if self.rescale:
                v = _rescaled0(self.manifold, v, "entry")
            return (self.manifold.expmap0(v) if self.kind == "exp0" else v).movedim(-1, 1)

    def of_relu(self, h: Tensor) -> Tensor:
        """The lift of relu(h) for a feature map h (B, n, H, W), in the memory of the ReLU alone."""
        if self.clip is not None:
            lifted: Tensor = self(torch.relu(h))
            return lifted
        manifold = self.manifold
        return lift_relu(h, c=manifold.c, limits=Limits.of_manifold(manifold), entry=Entry(self.kind, self.rescale))

    def extra_repr(self) -> str:
        return f"kind={self.kind}, rescale={self.rescale}, clip={self.clip}"


class Unlift(nn.Module):
    """Points (B, n, ...) to Euclidean features: the space part of the logarithm at the origin, or of the point."""

    def __init__(self, manifold: Lorentz, *, kind: ExitKind = "log0") -> None:
        super().__init__()
        one_of("kind", kind, ExitKind)
        self.manifold, self.kind = ours(manifold), kind

    def forward(self, x: Tensor) -> Tensor:
        return self.manifold.logmap0(x.movedim(1, -1)).movedim(-1, 1) if self.kind == "log0" else x

    def extra_repr(self) -> str:
        return f"kind={self.kind}"


class Transfer(nn.Module):
    """Points of one hyperboloid to another: log at the origin, rescale, exp at the origin (Bdeir Section 3.2)."""

    def __init__(self, source: Lorentz, target: Lorentz, *, rescale: bool = True) -> None:
        super().__init__()
        self.source, self.target, self.rescale = source, target, rescale

    def forward(self, x: Tensor) -> Tensor:
        v = self.source.logmap0(x.movedim(1, -1))
        if self.rescale:
            v = _rescaled0(self.target, v, "transfer")
        return self.target.expmap0(v).movedim(-1, 1)


def _rescaled0(manifold: Lorentz, v: Tensor, site: str) -> Tensor:
    limited = manifold.rescale0(v)
    monitor.give_shrunk(site, v, limited)
    return limited
