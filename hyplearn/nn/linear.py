"""Lorentz linear layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyplearn.manifolds import Lorentz
from hyplearn.manifolds.foreign import ours
from hyplearn.nn.boost import BoostKind
from hyplearn.nn.checks import of_one_type, positive
from hyplearn.nn.fused.conv import NormMatch
from hyplearn.nn.rotation import Orthogonal, RescaleSide, RotationBoost


class LorentzLinear(RotationBoost):
    """Points (B, n) to points (B, m) by rotation, rescaling and boost (Bdeir Eq. 5 with a 1 x 1 kernel).

    See `LorentzConv2d` for the options.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        manifold: Lorentz,
        norm_match: NormMatch = "exact",
        orthogonal: Orthogonal = "cayley",
        boost: BoostKind = "full",
        rescale: RescaleSide = "both",
    ) -> None:
        positive("in_features", in_features)
        positive("out_features", out_features)
        super().__init__(
            (out_features, in_features),
            manifold=manifold,
            norm_match=norm_match,
            orthogonal=orthogonal,
            boost=boost,
            rescale=rescale,
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        of_one_type(self, weight, x)
        y = F.linear(x, weight)
        with torch.autocast(x.device.type, enabled=False):
            x, y = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (x, y))
            return self.move(y, x.square().sum(1, keepdim=True))

    def extra_repr(self) -> str:
        return f"{self.shape[1]}, {self.shape[0]}, norm_match={self.norm_match}, rescale={self.rescale}"


class OriginalLorentzLinear(nn.Module):
    """Linear layer of HCNN: `W x + w_t x_t + bias`, time derived. Not a Lorentz map (it reads the time as a feature);
    kept as the baseline of Bdeir Table 4."""

    def __init__(self, in_features: int, out_features: int, *, manifold: Lorentz, bias: bool = True) -> None:
        super().__init__()
        positive("in_features", in_features)
        positive("out_features", out_features)
        self.manifold = ours(manifold)
        bound = (2 / (in_features + 1)) ** 0.5
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.weight_time = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        of_one_type(self, self.weight, x)
        time = self.manifold.time(x)
        return F.linear(x, self.weight, self.bias) + time.unsqueeze(-1) * self.weight_time
