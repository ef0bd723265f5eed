"""1 x 1 convolutions with a stride, done so that oneDNN cannot crash in them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hyplearn.nn.checks import of_one_type

NARROW = 64  # channels; from here on oneDNN's strided 1 x 1 convolutions are right

Pair = tuple[int, int]


def read_positions(x: Tensor, *, kernel: Pair, stride: Pair, padding: Pair) -> tuple[Tensor, Pair]:
    """Return what a convolution shall read in place of the feature map x (B, C, H, W), and its stride there.

    A 1 x 1 convolution of stride s reads each s-th position alone, so it equals one of stride 1 on these. Narrow ones
    are done so on a CPU: with AVX2, the backward pass of oneDNN writes beyond its memory there, crashes or never ends.
    All others are left as they are.
    """
    strided = kernel == (1, 1) and padding == (0, 0) and stride != (1, 1)
    if not strided or x.device.type != "cpu" or x.shape[1] >= NARROW:
        return x, stride
    return x[:, :, :: stride[0], :: stride[1]], (1, 1)


class PointwiseConv2d(nn.Conv2d):
    """A 1 x 1 convolution without bias, as torch's, which reads a narrow map through `read_positions`."""

    def __init__(self, into: int, out: int, *, stride: int) -> None:
        super().__init__(into, out, 1, stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return the map (B, out, H / stride, W / stride)."""
        of_one_type(self, self.weight, input)
        x, stride = read_positions(input, kernel=(1, 1), stride=(self.stride[0], self.stride[1]), padding=(0, 0))
        return F.conv2d(x, self.weight, None, stride)
