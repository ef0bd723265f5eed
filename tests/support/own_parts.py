"""Parts that are not ours, as a user writes them, and some that lack something: the package of `test_own_parts.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from hyplearn.data.base import DataModule
from hyplearn.data.reading.images import ImageArrays
from hyplearn.data.sources.base import ImageSource
from hyplearn.data.sources.source import Facts
from hyplearn.losses.base import EmbeddingLoss
from hyplearn.manifolds import Euclidean, Lorentz, Manifold
from hyplearn.manifolds.base import Family
from hyplearn.models.base import ClassificationModel, EmbeddingModel
from hyplearn.nn.space import Space

# Models


class PlainNet(nn.Module):
    """A forward pass and nothing else."""

    def __init__(self, *, in_channels: int, num_classes: int, image_size: int, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(in_channels * image_size**2, width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class FixedNet(nn.Module):
    """Asks for nothing that the program knows."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)  # a layer of this name, as timm's networks have it

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


class CurvedNet(ClassificationModel):
    """Logits are distances to points of the manifold that the configuration chose."""

    def __init__(self, *, num_classes: int, image_size: int, manifold: Family) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(image_size**2, 4))
        self.manifold, self.centres = manifold.decoder(), nn.Parameter(torch.randn(num_classes, 4) * 0.1)

    def embed(self, images: Tensor) -> Tensor:
        return self.manifold.expmap0(self.features(images))

    def head(self, embedding: Tensor) -> Tensor:
        return -self.manifold.cdist(embedding, self.manifold.expmap0(self.centres))

    def manifolds(self) -> dict[str, Manifold]:
        return {"decoder": self.manifold}


class NoForward(nn.Module):
    def __init__(self, *, num_classes: int) -> None:
        super().__init__()


class NoHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def embed(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(self.embed(images))


class NoEmbed(ClassificationModel):
    """Derived from the base class, without what it asks for."""

    def head(self, embedding: Tensor) -> Tensor:
        return embedding


class AnyOption(nn.Module):
    """Takes any keyword, and so is given none."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10, **options)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


class OwnEmbedder(EmbeddingModel):
    """Points on the hyperboloid of the family."""

    def __init__(self, *, image_size: int, manifold: Family, size: int = 4) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(image_size**2, 8), nn.ReLU())
        self.neck = nn.Linear(8, size)
        self.spaces, self.sizes = nn.ModuleList([Space(manifold.embedding("own"))]), (size,)

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def points(self, features: Tensor) -> tuple[Tensor, ...]:
        return (self.spaces[0].manifold.expmap0(self.neck(features.float())),)


class NoPoints(nn.Module):
    gives = "embeddings"

    def forward(self, images: Tensor) -> Tensor:
        return images


class NoSpaces(OwnEmbedder):
    def __init__(self, *, image_size: int, manifold: Family) -> None:
        super().__init__(image_size=image_size, manifold=manifold)
        del self.spaces


# Losses


class PlainLoss(nn.Module):
    """The squared error of the probabilities."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        wanted = nn.functional.one_hot(labels, logits.shape[1])
        return (logits.softmax(-1) - wanted).square().sum(-1).mean()


class OneArgument(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits.mean()


class NoLossForward(nn.Module):
    pass


class NoCompute(EmbeddingLoss):
    pass


def a_function() -> int:
    """No part at all."""
    return 3


# Manifolds


class OwnLorentz(Lorentz):
    """A hyperboloid of one's own."""


class Scaled(Euclidean):
    """A flat manifold with a scale."""

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.scale = scale

    def expmap0(self, u: Tensor) -> Tensor:
        return self.scale * u

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x, y)


class NoFamily:
    kind = "own"


# Callbacks


class Counting(pl.Callback):
    """Counts batches; a resumed run goes on counting."""

    def __init__(self, *, start: int = 0) -> None:
        self.batches = start

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *given: Any) -> None:
        self.batches += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.row["own/batches"] = float(self.batches)

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


# Data


def _images(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 10
    images = torch.randint(0, 200, (count, 8, 8, 1), generator=generator, dtype=torch.uint8)
    images[:, :, 0, 0] += labels[:, None].to(torch.uint8) * 5
    return images, labels


class OwnSource(ImageSource):
    """Ten classes of noise."""

    def facts(self, root: Path | None) -> Facts:
        return Facts(1, 10, 8, None)

    def train(self, root: Path | None) -> ImageArrays:
        return ImageArrays(*_images(80))

    def test(self, root: Path | None) -> ImageArrays:
        return ImageArrays(*_images(20))


class NoTest:
    name, in_files = "own", False

    def facts(self, root: Path | None) -> Facts:
        return Facts(1, 10, 8, None)


class Loaders(pl.LightningDataModule):
    """What Lightning knows, and nothing more."""

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(80)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(40)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(20)

    def _loader(self, count: int) -> DataLoader[Any]:
        images, labels = _images(count)
        return DataLoader(TensorDataset(images.permute(0, 3, 1, 2).float() / 255, labels), batch_size=16)


class OwnData(Loaders, DataModule):
    in_channels, num_classes, image_size, batch_size = 1, 10, 8, 16


class NoNumbers(Loaders, DataModule):
    in_channels = 1


class NoTestLoader(DataModule):
    in_channels, num_classes, image_size, batch_size = 1, 10, 8, 16
    train_dataloader = val_dataloader = Loaders.train_dataloader
