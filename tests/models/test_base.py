"""A classifier of one's own needs a forward pass; what it has beyond that is used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hyplearn.manifolds import Lorentz, Manifold, PoincareBall, Sphere
from hyplearn.models import ResNet
from hyplearn.models.base import (
    ClassificationModel,
    EmbeddingModel,
    as_classifier,
    as_model,
    embeds,
    output_of,
)
from hyplearn.models.embedder import Embedder
from hyplearn.nn.space import Space


class Telling(ClassificationModel):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.ball = nn.Linear(3, 2), PoincareBall(0.5)

    def embed(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]

    def manifolds(self) -> dict[str, Manifold]:
        return {"ball": self.ball}


class Embedding(EmbeddingModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.sizes = nn.Linear(4, 3), (3, 3, 3)
        self.spaces = nn.ModuleList([Space(Sphere()), Space(Lorentz(1.0)), Space(Lorentz(2.0))])

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def points(self, features: Tensor) -> tuple[Tensor, ...]:
        x = self.layer(features)
        return (nn.functional.normalize(x), x, x)


def test_a_plain_classifier_has_its_logits_for_an_embedding() -> None:
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.randn(5, 1, 2, 2)
    stands_in = as_classifier(model)
    assert torch.equal(stands_in.head(stands_in.embed(images)), model(images))
    assert as_model(model).manifolds() == {}
    assert not embeds(model)


def test_a_layer_called_embed_is_no_method() -> None:
    model = nn.Linear(2, 2)
    model.embed = nn.Linear(2, 2)
    assert not embeds(model)


def test_what_a_model_tells_is_taken() -> None:
    model, images = Telling(), torch.randn(5, 1, 2, 2)
    assert as_classifier(model) is model
    assert as_model(model) is model
    assert torch.equal(model(images), model.head(model.embed(images)))
    assert list(as_model(model).manifolds()) == ["ball"]


def test_an_embedding_model_has_defaults() -> None:
    model = Embedding()
    assert [x.shape for x in model(torch.randn(5, 1, 2, 2))] == [(5, 3)] * 3
    assert list(model.manifolds()) == ["lorentz", "lorentz2"]
    (group,) = model.rate_groups().values()
    assert {id(p) for p in group} == {id(p) for p in model.layer.parameters()}  # no curvature


def test_a_base_class_names_what_is_missing() -> None:
    class Without(ClassificationModel):
        pass

    with pytest.raises(TypeError, match="embed"):
        Without()


def test_models_say_what_they_give() -> None:
    assert [output_of(kind) for kind in (ResNet, Telling, nn.Linear)] == ["logits"] * 3
    assert [output_of(kind) for kind in (Embedder, Embedding)] == ["embeddings"] * 2
