"""How large a Lorentz head must start, so that a network learns from its first step as its Euclidean twin does.

**The defect.** `nn.Linear(n, classes)` draws its weights from U(-1/sqrt n, 1/sqrt n), of variance 1/(3 n), because it
reads features whose length grows as sqrt n: a Euclidean batch norm gives *each channel* the variance 1. A Lorentz batch
norm gives the *whole vector* the dispersion 1, so that |x| does not depend on n. HCNN draws z from the same
distribution; the logits of its images then differ by sqrt n too little, and with them every gradient of the encoder.

**What the head reads.** Write a feature vector as a part that all images share and a part that each image has on its
own, `|x|^2 = shared + own`, sums over the channels. At initialisation the outputs of convolutions followed by a batch
norm are close to normal with mean 0 and independent, so for the last stage

- Euclidean: a branch has |f|^2 = n. The first block gives relu(f1 + f2), later blocks relu(f + carried).
- Lorentz: a branch has the tangent norm 1, so with R for the maximum-distance rescaling |x| = k sinh(R(1) / k). Sums
  are those of the space coordinates and then rescaled by their length, a factor that leaves their shape as it is.
- relu(f + carried), f normal with |f|^2 = s and carried half a normal variable with mean square t: with a^2 = 2 t,
  h^2 = s + a^2, r = a / h, two half planes at the angle arccos r give the mean (sqrt s + (1 + r) h) / (2 sqrt(2 pi))
  and the mean square s / 4 + h^2 (pi / 2 + arcsin r + r sqrt(1 - r^2)) / (2 pi).

Pooling over P positions, which are as good as independent, divides `own` by P. The Lorentz centroid also divides by the
Lorentz norm of the mean: |mean|_L^2 = k^2 + own (1 - 1/P), both parts are multiplied by k^2 over that. The way to the
head (lift, transfer, clip, rescaling) changes lengths only.

**What it makes of that.** The Euclidean twin has logits of the spread sqrt(own / (3 n)) between images, whatever n:
0.58 for one position, 0.29 for 4, 0.14 for 16. The Lorentz logit is |z| k asinh(alpha / k) with alpha = z.x / |z| -
a x_t / k for small a; |z| = scale / sqrt 3; alpha has the mean square (own + shared + x_t^2 c / 3) / n, of which the
part own / n differs between images. asinh is taken at the root of that mean square, which is exact for small and for
large alpha. The spread is proportional to `scale`; `matched_scale` returns the one that makes it equal to the twin's.
Gradients of the encoder are proportional to `scale` as well.

Against networks on Fashion-MNIST and digits the spread is met within 25 % at widths 8 to 64, 8 to 28 pixels and c from
0.2 to 5; the table is in docs/reference/initial_scale.md. No data are read: the number is a function of the
architecture and of the initial curvature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hyplearn.manifolds import Lorentz
from hyplearn.models.options import RescaleSites

HeadInit = Literal["published", "matched"]
Lengths = Callable[[float], float]


@dataclass(frozen=True)
class Features:
    """Mean square length of feature vectors at initialisation: the part all images share, and each image's own."""

    shared: float
    own: float

    @property
    def square(self) -> float:
        return self.shared + self.own

    def times(self, factor: float) -> Features:
        """Vectors longer by a factor."""
        return Features(self.shared * factor**2, self.own * factor**2)

    def through(self, lengths: Lengths) -> Features:
        """Vectors after a map that changes their length only."""
        length = math.sqrt(self.square)
        return self.times(lengths(length) / length)


@dataclass(frozen=True)
class Stage:
    """The last stage of a ResNet, as far as the length of its output depends on it.

    positions: of its feature map. manifold: None for a Euclidean stage.
    """

    channels: int
    blocks: int
    positions: int
    manifold: Lorentz | None
    rescale: RescaleSites

    def pooled(self) -> Features:
        """The features of whole images, before the way to the head."""
        out = self._output()
        if self.manifold is None:
            return Features(out.shared, out.own / self.positions)
        k = self.manifold.c.item() ** -0.5
        inverse = k / math.sqrt(k * k + out.own * (1 - 1 / self.positions))
        return Features(out.shared, out.own / self.positions).times(inverse)

    def euclidean(self) -> Stage:
        """The Euclidean twin."""
        return Stage(self.channels, self.blocks, self.positions, None, self.rescale)

    def _output(self) -> Features:
        branch = self._branch()
        carried = self._summed(math.sqrt(2) * branch) ** 2 / 2
        for _ in range(self.blocks - 1):
            before = math.sqrt(branch**2 + carried)
            out = rectified_sum(branch**2, carried).times(self._summed(before) / before)
            carried = out.square
        return out

    def _branch(self) -> float:
        """Length of the output of a batch norm."""
        if self.manifold is None:
            return math.sqrt(self.channels)
        manifold, rescale = self.manifold, self.rescale.norm
        return length_after(lambda v: manifold.expmap0(manifold.rescale0(v) if rescale else v), 1.0)

    def _summed(self, length: float) -> float:
        """Length of a residual sum after its rescaling."""
        if self.manifold is None or not self.rescale.residual:
            return length
        return length_after(self.manifold.rescale, length)


def rectified_sum(branch: float, carried: float) -> Features:
    """relu(f + u) for f normal with |f|^2 = branch and u = relu of a normal variable, |u|^2 = carried."""
    a = math.sqrt(2 * carried)
    h = math.hypot(math.sqrt(branch), a)
    r = a / h
    mean = (math.sqrt(branch) + (1 + r) * h) / (2 * math.sqrt(2 * math.pi))
    wedge = (math.pi / 2 + math.asin(r) + r * math.sqrt(1 - r * r)) / (2 * math.pi)
    return Features(mean**2, branch / 4 + h**2 * wedge - mean**2)


@torch.no_grad()
def length_after(change: Callable[[Tensor], Tensor], length: float) -> float:
    """Length of the image of a vector of this length under a map that changes lengths only."""
    return float(change(torch.tensor([[length]])).item())


def matched_scale(stage: Stage, to_head: Callable[[Tensor], Tensor], decoder: Lorentz) -> float:
    """Return the factor on HCNN's z that makes the logits spread as those of the Euclidean twin do."""
    read = stage.pooled().through(lambda length: length_after(to_head, length))
    c, n = decoder.c.item(), stage.channels
    k, time_squared = 1 / math.sqrt(c), 1 / c + read.square
    alpha_squared = read.square + time_squared * c / 3
    spread = k * math.asinh(math.sqrt(alpha_squared / n) / k) * math.sqrt(read.own / alpha_squared)
    return math.sqrt(stage.euclidean().pooled().own / n) / spread
