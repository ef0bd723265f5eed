"""A plain reference of the published fully hyperbolic ResNet (HCNN): ambient tensors, no shortcut of any kind.

Points are (..., n + 1), time first, on <x, x>_L = -K with K = 1/c; feature maps are (B, H, W, n + 1). Every step is the
printed formula: unfolded patches that carry their own time, a linear map of time and space, exponential and logarithmic
maps, transports. Module and parameter names are those of the published checkpoints (`kschwethelm/HyperbolicCV`), so
that a state dict of this model has the published layout. Slow; used by tests alone, preferably in float64.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Manifold(nn.Module):
    """The hyperboloid <x, x>_L = -k (the checkpoints' `k` is K = 1/c).

    limit: longest |v| / sqrt(k) that the exponential map goes along a tangent vector v; 10 in the published code.
    """

    def __init__(self, k: float, limit: float = math.inf) -> None:
        super().__init__()
        self.limit = limit
        self.k = nn.Parameter(torch.tensor(float(k)), requires_grad=False)

    def add_time(self, space: Tensor) -> Tensor:
        return torch.cat([(space.square().sum(-1, keepdim=True) + self.k).sqrt(), space], dim=-1)

    def inner(self, x: Tensor, y: Tensor) -> Tensor:
        return (x[..., 1:] * y[..., 1:]).sum(-1, keepdim=True) - x[..., :1] * y[..., :1]

    def origin(self, n: int) -> Tensor:
        return F.pad(self.k.detach().sqrt().view(1), (0, n))

    def centroid(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """(..., N, n + 1) to (..., n + 1)."""
        mean = x.mean(-2) if weights is None else (weights.unsqueeze(-1) * x).sum(-2)
        return self.k.sqrt() * mean / (-self.inner(mean, mean)).sqrt()

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        cosine = (-self.inner(x, y) / self.k).clamp_min(1)
        angle = torch.acosh(cosine)
        ratio = torch.where(cosine > 1, angle / torch.sinh(angle).clamp_min(1e-300), 1.0)
        return ratio * (y - cosine * x)

    def expmap(self, x: Tensor, v: Tensor) -> Tensor:
        angle = (self.inner(v, v).clamp_min(0) / self.k).sqrt()
        length = angle.clamp_max(self.limit)
        ratio = torch.where(angle > 0, torch.sinh(length) / angle.clamp_min(1e-300), 1.0)
        return torch.cosh(length) * x + ratio * v

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v + self.inner(y, v) / (self.k - self.inner(x, y)) * (x + y)


class FullyConnected(nn.Module):
    """Linear map of all coordinates; its first output is dropped and replaced by the time of the rest."""

    def __init__(self, manifold: Manifold, inputs: int, outputs: int) -> None:
        super().__init__()
        self.manifold = manifold
        self.weight = nn.Linear(inputs, outputs)
        self.scale = nn.Parameter(torch.tensor(2.3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.manifold.add_time(self.weight(x)[..., 1:])


class Convolution(nn.Module):
    """Unfold, patch time sqrt(sum t^2 - (N - 1) K), linear map. Sizes count the time."""

    def __init__(
        self, manifold: Manifold, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.manifold, self.channels = manifold, inputs - 1
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.linearized_kernel = FullyConnected(manifold, (inputs - 1) * kernel**2 + 1, outputs)
        bound = (2 / ((inputs - 1) * kernel**2)) ** 0.5
        nn.init.uniform_(self.linearized_kernel.weight.weight, -bound, bound)
        nn.init.uniform_(self.linearized_kernel.weight.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        p = self.padding
        origin = self.manifold.origin(x.shape[-1] - 1)
        padded = origin.expand(x.shape[0], x.shape[1] + 2 * p, x.shape[2] + 2 * p, -1).clone()
        padded[:, p : p + x.shape[1], p : p + x.shape[2]] = x
        height = (padded.shape[1] - self.kernel) // self.stride + 1
        width = (padded.shape[2] - self.kernel) // self.stride + 1
        pixels = [
            padded[:, i : i + self.stride * height : self.stride, j : j + self.stride * width : self.stride]
            for i in range(self.kernel)
            for j in range(self.kernel)
        ]
        squares = torch.stack([pixel[..., :1].square() for pixel in pixels]).sum(0)
        patch_time = (squares - (len(pixels) - 1) * self.manifold.k).sqrt()
        # position after position, the channels of one position side by side
        patch = torch.cat([patch_time, *[pixel[..., 1:] for pixel in pixels]], dim=-1)
        return self.linearized_kernel(patch)


class BatchNorm(nn.Module):
    """Centroid of images, then of the batch; mean distance; log, transports through the origin, exp."""

    def __init__(self, manifold: Manifold, features: int) -> None:
        super().__init__()
        self.manifold = manifold
        self.beta = nn.Parameter(manifold.origin(features - 1))
        self.gamma = nn.Parameter(torch.ones(1))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(1))

    def forward(self, x: Tensor, momentum: float = 0.1) -> Tensor:
        manifold, origin = self.manifold, self.manifold.origin(x.shape[-1] - 1)
        if self.training:
            mean = manifold.centroid(manifold.centroid(x.flatten(1, 2)))
        else:
            mean, dispersion = manifold.expmap(origin, self.running_mean), self.running_var
        v = manifold.transport(mean, origin, manifold.logmap(mean, x))
        if self.training:
            dispersion = v.square().sum(-1).sqrt().mean()
            self._update(mean, dispersion, momentum)
        v = v * self.gamma / (dispersion + 1e-5)
        return manifold.expmap(self.beta, manifold.transport(origin, self.beta, v))

    @torch.no_grad()
    def _update(self, mean: Tensor, dispersion: Tensor, momentum: float) -> None:
        origin = self.manifold.origin(mean.shape[-1] - 1)
        pair = torch.stack([self.manifold.expmap(origin, self.running_mean), mean])
        weights = torch.tensor([1 - momentum, momentum], dtype=mean.dtype)
        self.running_mean.copy_(self.manifold.logmap(origin, self.manifold.centroid(pair, weights)))
        self.running_var.mul_(1 - momentum).add_(momentum * dispersion)


class ReLU(nn.Module):
    def __init__(self, manifold: Manifold) -> None:
        super().__init__()
        self.manifold = manifold

    def forward(self, x: Tensor) -> Tensor:
        return self.manifold.add_time(x[..., 1:].relu())


class InputBlock(nn.Module):
    """Pixels are space coordinates."""

    def __init__(self, manifold: Manifold, channels: int, width: int) -> None:
        super().__init__()
        self.manifold = manifold
        self.conv = nn.Sequential(
            Convolution(manifold, channels + 1, width + 1, 3, padding=1), BatchNorm(manifold, width + 1), ReLU(manifold)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.manifold.add_time(images.permute(0, 2, 3, 1)))


class BasicBlock(nn.Module):
    """conv - norm - ReLU - conv - norm, sum of the space coordinates with the shortcut, ReLU."""

    def __init__(self, manifold: Manifold, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.manifold = manifold
        self.activation = ReLU(manifold)
        self.conv = nn.Sequential(
            Convolution(manifold, inputs + 1, outputs + 1, 3, stride=stride, padding=1),
            BatchNorm(manifold, outputs + 1),
            ReLU(manifold),
            Convolution(manifold, outputs + 1, outputs + 1, 3, padding=1),
            BatchNorm(manifold, outputs + 1),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                Convolution(manifold, inputs + 1, outputs + 1, 1, stride=stride), BatchNorm(manifold, outputs + 1)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.manifold.add_time(self.conv(x)[..., 1:] + self.shortcut(x)[..., 1:]))


class GlobalAveragePool(nn.Module):
    def __init__(self, manifold: Manifold) -> None:
        super().__init__()
        self.manifold = manifold

    def forward(self, x: Tensor) -> Tensor:
        return self.manifold.centroid(x.flatten(1, 2))


class MLR(nn.Module):
    """Hyperplane logits in the four-term form of the HCNN paper, with its sign and absolute value."""

    def __init__(self, manifold: Manifold, features: int, classes: int) -> None:
        super().__init__()
        self.manifold = manifold
        bound = (features - 1) ** -0.5
        self.a = nn.Parameter(torch.empty(classes).uniform_(-bound, bound))
        self.z = nn.Parameter(torch.empty(classes, features - 1).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        k = self.manifold.k.sqrt()
        norm = self.z.square().sum(-1).sqrt()
        w_t = torch.sinh(self.a / k) * norm
        w_s = torch.cosh(self.a / k).unsqueeze(-1) * self.z
        beta = (w_s.square().sum(-1) - w_t.square()).sqrt()
        alpha = x[..., 1:] @ w_s.T - w_t * x[..., :1]
        return torch.sign(alpha) * beta * k * torch.asinh(alpha / (k * beta)).abs()


class Encoder(nn.Module):
    """Stem and four stages of two basic blocks."""

    def __init__(self, manifold: Manifold, channels: int, width: int) -> None:
        super().__init__()
        self.manifold = manifold
        self.conv1 = InputBlock(manifold, channels, width)
        self.conv2_x = self._stage(width, width, 1)
        self.conv3_x = self._stage(width, 2 * width, 2)
        self.conv4_x = self._stage(2 * width, 4 * width, 2)
        self.conv5_x = self._stage(4 * width, 8 * width, 2)
        self.avg_pool = GlobalAveragePool(manifold)

    def _stage(self, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = BasicBlock(self.manifold, inputs, outputs, stride)
        return nn.Sequential(first, BasicBlock(self.manifold, outputs, outputs, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv1(images)
        for stage in (self.conv2_x, self.conv3_x, self.conv4_x, self.conv5_x):
            x = stage(x)
        return self.avg_pool(x)


class Classifier(nn.Module):
    """HCNN ResNet-18: encoder, move between the curvatures through the tangent space of the origin, MLR."""

    def __init__(
        self, *, channels: int = 3, classes: int = 10, width: int = 64, k: float = 1.0, decoder_k: float = 1.0,
        limit: float = math.inf,
    ) -> None:  # fmt: skip
        super().__init__()
        self.enc_manifold = Manifold(k, limit)
        self.dec_manifold = Manifold(decoder_k, limit)
        self.encoder = Encoder(self.enc_manifold, channels, width)
        self.decoder = MLR(self.dec_manifold, 8 * width + 1, classes)

    def embed(self, images: Tensor) -> Tensor:
        x = self.encoder(images)
        if self.enc_manifold.k == self.dec_manifold.k:
            return x
        n = x.shape[-1] - 1
        v = self.enc_manifold.logmap(self.enc_manifold.origin(n), x)
        return self.dec_manifold.expmap(self.dec_manifold.origin(n), v)

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.embed(images))


@torch.no_grad()
def make_trained(model: nn.Module, generator: torch.Generator) -> None:
    """Give shifts, scales, running statistics and the head values that a trained model could have."""
    for module in model.modules():
        if isinstance(module, MLR):
            module.z.mul_(40)
        if isinstance(module, BatchNorm):
            for tensor, spread in ((module.beta, 0.3), (module.running_mean, 0.4)):
                noise = torch.randn(tensor.shape[0] - 1, generator=generator, dtype=tensor.dtype)
                tensor.copy_(F.pad(spread * noise / noise.shape[0] ** 0.5, (1, 0)))
            module.beta.copy_(module.manifold.add_time(module.beta[1:]))
            module.gamma.fill_(1 + 0.3 * torch.rand((), generator=generator).item())
            module.running_var.fill_(1 + torch.rand((), generator=generator).item())
