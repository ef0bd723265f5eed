"""The convolution of HCNN the way its authors compute it: what Bdeir Table 4 measures the cost of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hyplearn.nn.block import LorentzBlock
from hyplearn.nn.checks import in_full_precision
from hyplearn.nn.conv import OriginalLorentzConv2d


class UnfoldedLorentzConv2d(OriginalLorentzConv2d):
    """`OriginalLorentzConv2d` as published: every patch is written out as one point and mapped by a matrix.

    Same parameters, values and gradients, for kh kw times the memory: the features are unfolded with their times, the
    times of padded pixels raised to that of the origin, the pixels of a patch concatenated to one point (B, L, 1 +
    C kh kw), and the result is a linear map of all its coordinates. For measurements; nothing trains with it.
    """

    @classmethod
    def of(cls, conv: OriginalLorentzConv2d) -> UnfoldedLorentzConv2d:
        """Return the same layer with the parameters of `conv`."""
        out, into = conv.weight.shape[:2]
        shape = conv.convolution
        made = cls(
            into,
            out,
            shape.kernel,
            manifold=conv.manifold,
            stride=shape.stride,
            padding=shape.padding,
            dilation=shape.dilation,
            bias=conv.bias is not None,
        )
        made.weight, made.weight_time, made.bias = conv.weight, conv.weight_time, conv.bias
        return made

    def forward(self, x: Tensor) -> Tensor:
        in_full_precision(self, self.weight)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            point = self._patches(torch.cat([self._time(x), x], dim=1))
        # as the published layer stores it: of each patch first its time, then its pixels one after the other
        matrix = torch.cat([self.weight_time.unsqueeze(1), self.weight.flatten(2).mT.flatten(1)], dim=1)
        y = F.linear(point, matrix, self.bias)
        features: Tensor = y.mT.unflatten(2, self._size(x))
        return features.contiguous(memory_format=torch.channels_last)

    def _time(self, x: Tensor) -> Tensor:
        return torch.sqrt(x.square().sum(1, keepdim=True) + 1 / self.manifold.c)

    def _patches(self, x: Tensor) -> Tensor:
        """Ambient features (B, 1 + C, H, W) to points (B, L, 1 + C kh kw): Lorentz direct concatenation."""
        conv, c = self.convolution, self.manifold.c
        unfolded = F.unfold(x, conv.kernel, conv.dilation, conv.padding, conv.stride).mT
        size = conv.kernel[0] * conv.kernel[1]
        times = torch.maximum(unfolded[..., :size], c.rsqrt())
        time = torch.sqrt(times.square().sum(-1, keepdim=True) - (size - 1) / c)
        space = unfolded[..., size:]
        return torch.cat([time, space.unflatten(2, (-1, size)).mT.flatten(2)], dim=-1)

    def _size(self, x: Tensor) -> tuple[int, int]:
        """Height and width of the output."""
        conv = self.convolution
        sides = zip(x.shape[2:], conv.kernel, conv.stride, conv.padding, conv.dilation, strict=True)
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)
        return height, width


def unfold(model: torch.nn.Module) -> int:
    """Let every original convolution of the model's blocks unfold its patches. Returns how many there are.

    Raises ValueError for a fused block, which does not call its convolution.
    """
    found = 0
    for block in model.modules():
        if isinstance(block, LorentzBlock) and isinstance(block.conv, OriginalLorentzConv2d):
            if block.fused:
                raise ValueError("fused=True: a fused block does not call its convolution, build the model without")
            block.conv = UnfoldedLorentzConv2d.of(block.conv)
            found += 1
    return found
