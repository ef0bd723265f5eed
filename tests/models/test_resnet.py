"""Every model of the papers, built from its configuration."""

from __future__ import annotations

import copy
import gc
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from hyplearn.manifolds import Lorentz, Manifolds, PoincareBall
from hyplearn.models import ResNet
from hyplearn.nn import monitor
from hyplearn.nn.lift import Lift, Transfer, Unlift
from tests.support.configured_models import NAMES, images, model_of

SHAPES = [(8, 1), (9, 3), (32, 3), (65, 1), (96, 3)]  # image size, channels
LORENTZ = ("hcnn_r18", "hecnn_r18", "hecnn_r50", "hcnn_original_r18")
LABELS = torch.tensor([0, 1, 2, 3])


def build(**changes: Any) -> ResNet:
    arguments: dict[str, Any] = {
        "depth": 18, "in_channels": 3, "num_classes": 10, "image_size": 8, "width": 4,
        "stem": "lorentz", "stages": ["lorentz"] * 4, "head": "lorentz_mlr", "manifold": Manifolds("lorentz"),
    }  # fmt: skip
    return ResNet(**{**arguments, **changes})


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    F.cross_entropy(model(x), LABELS[: len(x)]).backward()
    return {name: p.grad for name, p in model.named_parameters()}


# From 8 px up


@pytest.mark.parametrize(("size", "channels"), SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_every_model_at_every_size(name: str, size: int, channels: int) -> None:
    model = model_of(name, image_size=size, in_channels=channels, width=4 if size > 32 else 8)
    x = images(4 if size < 32 else 2, size=size, channels=channels)
    embedding = model.embed(x)
    assert embedding.shape == (len(x), model.embedding_size)
    logits = model.head(embedding)
    assert logits.shape == (len(x), 10)
    F.cross_entropy(logits, LABELS[: len(x)]).backward()
    assert logits.isfinite().all()
    for key, p in model.named_parameters():
        assert p.grad is not None, f"no gradient of {key}"
        assert p.grad.isfinite().all(), key
    model.eval()
    assert model(x[:1]).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_constant_and_zero_images_give_finite_gradients(name: str) -> None:
    """Of different levels: where all images are one, a batch norm multiplies gradients by up to 1/eps = 1e5 a layer."""
    model = model_of(name)
    x = torch.tensor([0.0, 0.5, -1.0, 3.0]).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    assert all(g.isfinite().all() for g in gradients(model, x).values())
    model.eval()
    assert all(g.isfinite().all() for g in gradients(model, torch.zeros(4, 3, 8, 8)).values())


@pytest.mark.parametrize("c", [0.05, 20.0])
@pytest.mark.parametrize("name", ["hcnn_r18", "hecnn_r18", "hecnn_r50"])
def test_both_bounds_of_the_curvature_give_finite_gradients(name: str, c: float) -> None:
    model = model_of(name, f"manifold.c={c}")
    assert all(g.isfinite().all() for g in gradients(model, images()).values())


# What a model is


def test_blocks_and_widths_are_those_of_the_papers() -> None:
    for name, blocks, features, parameters in (
        ("euclidean_r18", [2, 2, 2, 2], 512, 11_173_962),
        ("euclidean_r50", [3, 4, 6, 3], 2048, 23_520_842),
    ):
        model = model_of(name, image_size=32, width=64)
        assert [len(stage) for stage in model.stages] == blocks
        assert model.embedding_size == features
        assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("name", NAMES)
def test_a_model_has_as_many_weights_as_its_euclidean_twin_up_to_vectors(name: str) -> None:
    """One shift per channel more or less, a scalar for a vector of scales: within 2 %."""
    model = model_of(name, width=64)
    twin = model_of("euclidean_r50" if name.endswith("50") else "euclidean_r18", width=64)
    count, expected = (sum(p.numel() for p in m.parameters()) for m in (model, twin))
    assert abs(count / expected - 1) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_stem_has_stride_two_above_64_px(name: str) -> None:
    for size, expected in ((64, 64), (65, 33)):
        stem = model_of(name, image_size=size, width=4).stem
        assert stem(images(2, size=size)).shape == (2, 4, expected, expected)


@pytest.mark.parametrize(
    ("name", "curved"),
    [
        ("euclidean_r18", {}),
        ("hybrid_lorentz_r18", {"decoder": Lorentz}),
        ("hybrid_poincare_r18", {"decoder": PoincareBall}),
        ("hecnn_r18", {"encoder": Lorentz, "decoder": Lorentz}),
        ("hecnn_r50", {"encoder": Lorentz, "decoder": Lorentz}),
        ("poincare_resnet_r18", {"encoder": PoincareBall, "decoder": PoincareBall}),
    ],
)
def test_manifolds_are_named(name: str, curved: dict[str, type]) -> None:
    model = model_of(name)
    made = model.manifolds()
    assert {key: type(manifold) for key, manifold in made.items()} == curved
    inside = {id(module) for module in model.modules()}
    assert all(id(manifold) in inside for manifold in made.values())


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ("single", {"shared"}),
        ("encoder_decoder", {"encoder", "decoder"}),
        ("per_stage", {*(f"encoder.stage{i}" for i in range(5)), "decoder"}),
    ],
)
def test_curvatures_are_shared_as_asked(share: str, expected: set[str]) -> None:
    model = model_of("hcnn_r18", f"manifold.share={share}")
    assert set(model.manifolds()) == expected
    learned = [name for name, _ in model.named_parameters() if "curvature" in name]
    assert len(learned) == len(expected)
    grads = gradients(model, images())
    assert all(grads[name].isfinite() and grads[name] != 0 for name in learned)
    transfers = sum(isinstance(module, Transfer) for module in model.modules())
    assert transfers == {"single": 1, "encoder_decoder": 1, "per_stage": 5}[share]


def test_a_hybrid_enters_and_leaves_the_hyperboloid_between_stages() -> None:
    model = model_of("hecnn_r18")  # stages 1 and 3 on the hyperboloid
    exits = [type(model.stem.exit), *(type(stage[-1].last.exit) for stage in model.stages)]
    assert exits == [Lift, Unlift, Lift, Unlift, type(None)]
    assert isinstance(model.to_decoder, Lift)


def test_a_core_bottleneck_is_euclidean_outside() -> None:
    block = model_of("hecnn_r50").stages[0][0]
    assert isinstance(block.unit2.entry, Lift) and isinstance(block.unit2.exit, Unlift)
    assert isinstance(block.unit1.conv, nn.Conv2d) and isinstance(block.unit3.conv, nn.Conv2d)
    assert block.unit2.conv.convolution.kernel == (3, 3)
    assert model_of("hecnn_r50").stages[1][0].unit2.conv.convolution.stride == (2, 2)


def test_clipped_features_of_a_hybrid_head() -> None:
    model = model_of("hybrid_lorentz_r18", "model.clip=0.5")
    embedding = model.embed(10 * images())
    assert model.manifolds()["decoder"].dist0(embedding).max() <= 0.5 + 1e-5


def test_dropout_is_drawn_in_training_alone() -> None:
    model, x = model_of("hecnn_r18", "model.dropout=0.9"), images()
    assert (model.embed(x) == 0).float().mean() > 0.5
    model.eval()
    assert_close(model(x), model(x), rtol=0, atol=0)


def test_readings_of_a_pass_name_the_sites() -> None:
    for name, sites in (
        ("hecnn_r18", {"rescaled/entry", "rescaled/norm", "rescaled/conv", "rescaled/residual"}),
        ("hcnn_r18", {"rescaled/transfer", "rescaled/norm", "rescaled/conv", "rescaled/residual"}),
        ("euclidean_r18", set()),
    ):
        with monitor.record() as readings:
            model_of(name)(images())
        assert set(readings) == sites
        assert all(0 <= value <= 1 for value in readings.values())


# One model, two paths


@pytest.mark.parametrize("name", LORENTZ)
def test_fused_and_layer_by_layer_are_the_same_in_float64(name: str) -> None:
    fused, layers = model_of(name).double(), model_of(name, "model.fused=false").double()
    x = images(size=16).double()
    results = [gradients(model, x) for model in (fused, layers)]
    for key in results[0]:
        made, expected = (r[key] for r in results)
        assert (made - expected).abs().max() <= 1e-6 * expected.abs().max().clamp_min(1e-3), key
    assert_close(dict(fused.named_buffers()), dict(layers.named_buffers()), rtol=1e-8, atol=1e-10)
    assert_close(fused.eval()(x), layers.eval()(x), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["hcnn_r18", "hecnn_r18", "hcnn_original_r18"])
def test_fused_and_layer_by_layer_are_the_same_in_float32(name: str) -> None:
    """Gradients to 1e-2 of the largest entry: batches of 16 positions in the last stage magnify rounding."""
    x = images(size=16)
    results = []
    for fused in ("true", "false"):
        model = model_of(name, f"model.fused={fused}")
        results.append((model(x).detach(), gradients(model, x)))
    assert_close(results[0][0], results[1][0], rtol=1e-3, atol=1e-3)
    for key, expected in results[1][1].items():
        assert (results[0][1][key] - expected).abs().max() <= 1e-2 * expected.abs().max().clamp_min(1e-3), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hecnn_r18", "hcnn_r18"])
def test_compiled_it_is_the_same(name: str) -> None:
    """Through the compiler's tracing and partitioning, without building kernels."""
    model = model_of(name, width=4)
    torch._dynamo.reset()
    compiled, x = torch.compile(copy.deepcopy(model), backend="aot_eager"), images()
    assert_close(compiled(x), model(x), rtol=1e-3, atol=1e-3)
    made, expected = gradients(compiled, x), gradients(model, x)
    for (key, a), b in zip(made.items(), expected.values(), strict=True):
        assert (a - b).abs().max() <= 1e-2 * b.abs().max().clamp_min(1e-2), key


# Copies and precision


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_state_dicts_are_the_same_model(name: str) -> None:
    model, x = model_of(name), images()
    model(x)
    model.eval()
    expected = model(x)
    other = model_of(name)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    other.load_state_dict(model.state_dict())
    assert_close(other.eval()(x), expected)
    twin = copy.deepcopy(model)
    assert_close(twin(x), expected)
    assert set(twin.manifolds()) == set(model.manifolds())
    assert not {id(m) for m in twin.modules()} & {id(m) for m in model.modules()}


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_reports_its_own_manifolds(name: str) -> None:
    twin = copy.deepcopy(model_of(name))
    inside = {id(module) for module in twin.modules()}
    assert all(id(manifold) in inside for manifold in twin.manifolds().values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_passes_are_finite_and_heads_float32(name: str, dtype: torch.dtype) -> None:
    model, x = model_of(name), images()
    with torch.autocast("cpu", dtype):
        embedding = model.embed(x)
        logits = model.head(embedding)
    curved = bool(model.manifolds())
    assert logits.dtype == (torch.float32 if curved else dtype)
    assert logits.isfinite().all()
    F.cross_entropy(logits.float(), LABELS).backward()
    for key, p in model.named_parameters():
        assert p.grad.dtype == torch.float32 and p.grad.isfinite().all(), key


# Memory


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes of all tensors kept for backward, each storage once, without the parameters."""
    seen: dict[int, int] = {}
    kept: list[Tensor] = []
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
            kept.append(t)  # or its address would be used again
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model(x).sum()
    return sum(seen.values())


@pytest.mark.parametrize(
    ("name", "limit"), [("hcnn_r18", 1.15), ("hecnn_r18", 1.10), ("hcnn_original_r18", 1.20), ("hecnn_r50", 1.10)]
)
def test_activations_kept_for_backward_relative_to_the_euclidean_twin(name: str, limit: float) -> None:
    x = images(16, size=32).contiguous(memory_format=torch.channels_last)
    twin = "euclidean_r50" if name.endswith("50") else "euclidean_r18"
    made, expected = (saved_bytes(model_of(key, image_size=32, width=64), x) for key in (name, twin))
    gc.collect()
    assert expected < made <= limit * expected


# Messages


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 34}, "depth=34 must be one of 18, 50"),
        ({"in_channels": 0}, "in_channels=0 must be an integer >= 1"),
        ({"num_classes": -1}, "num_classes=-1 must be an integer >= 1"),
        ({"width": 0}, "width=0 must be an integer >= 1"),
        ({"image_size": 7}, r"image_size=7 must be >= 8.*set dataset\.image_size"),
        ({"stem": "lorenz"}, r"stem='lorenz'.*Did you mean lorentz"),
        ({"head": "mlr"}, r"head='mlr' must be one of 'linear', 'lorentz_mlr', 'poincare_mlr'"),
        ({"stages": ["lorentz"] * 3}, "must name four geometries"),
        ({"stages": ["lorentz", "lorentz", "flat", "lorentz"]}, r"stages\[3\]='flat' must be one of"),
        ({"stages": ["lorentz_core"] * 4}, "stages with lorentz_core need depth=50"),
        ({"stages": ["poincare"] * 4}, "poincare does not mix with other geometries"),
        ({"stem": "poincare"}, "poincare does not mix with other geometries"),
        ({"entry": "exp"}, r"entry='exp'.*Did you mean exp0"),
        ({"exit": "log"}, r"exit='log'.*Did you mean log0"),
        ({"head_entry": "exp"}, r"head_entry='exp'.*Did you mean exp0"),
        ({"clip": 1.0}, "clip=1.0 belongs to hybrid models: Euclidean stages with a hyperbolic head"),
        ({"stem": "euclidean", "stages": ["euclidean"] * 4, "head": "linear", "clip": 1.0}, "clip=1.0 belongs to"),
        ({"manifold": None}, "manifold=euclidean: this model has Lorentz layers and needs manifold=lorentz"),
        ({"manifold": Manifolds("euclidean")}, "manifold=euclidean: .* needs manifold=lorentz"),
        ({"manifold": Manifolds("poincare")}, "manifold=poincare: .* needs manifold=lorentz"),
        (
            {"stem": "poincare", "stages": ["poincare"] * 4, "head": "poincare_mlr"},
            "manifold=lorentz: this model has Poincare layers and needs manifold=poincare",
        ),
        ({"head": "poincare_mlr"}, "manifold=lorentz: .* needs manifold=poincare"),
        ({"dropout": 1.0}, r"p=1.0 must lie in \[0, 1\)"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_every_mix_of_geometries_is_a_model() -> None:
    for stem, *stages in itertools.product(("euclidean", "lorentz"), repeat=5):
        for head in ("linear", "lorentz_mlr"):
            model = build(stem=stem, stages=stages, head=head, width=2)
            assert model(images(2)).isfinite().all()


@pytest.mark.parametrize(
    ("stem", "stages", "head"),
    [
        ("euclidean", ["euclidean"] * 4, "linear"),
        ("euclidean", ["lorentz", "euclidean", "lorentz", "euclidean"], "lorentz_mlr"),
        ("lorentz", ["lorentz"] * 4, "lorentz_mlr"),
        ("lorentz", ["euclidean", "lorentz", "lorentz", "lorentz"], "linear"),
        ("poincare", ["poincare"] * 4, "poincare_mlr"),
    ],
)
def test_stage_points_lie_in_the_space_of_their_stage(stem: str, stages: list[str], head: str) -> None:
    family = Manifolds("poincare" if stem == "poincare" else "lorentz", c=0.6, share="per_stage")
    model = build(stem=stem, stages=stages, head=head, manifold=family, image_size=16).eval()
    x = images(3, size=16)
    with torch.no_grad():
        before = model(x)
        found = model.stage_points(x)
        assert torch.equal(model(x), before)
        pooled, last = found["stage4"]
        if head != "linear" and last is not None:
            assert_close(model.to_decoder(pooled if stem != "poincare" else last.logmap0(pooled)), model.embed(x))
    spaces = {"euclidean": type(None), "lorentz": Lorentz, "poincare": PoincareBall}
    assert list(found) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    for (points, manifold), kind in zip(found.values(), (stem, *stages), strict=True):
        assert isinstance(manifold, spaces[kind])
        assert points.ndim == 2 and points.isfinite().all()
        assert kind != "poincare" or (manifold.c * points.square().sum(-1) < 1).all()


@pytest.mark.parametrize("name", ["hecnn_r18", "hcnn_r18", "hybrid_lorentz_r18", "poincare_resnet_r18"])
def test_a_model_in_float64_is_the_same_model(name: str) -> None:
    model, x = model_of(name).eval(), images()
    with torch.no_grad():
        assert_close(copy.deepcopy(model).double()(x.double()).float(), model(x), rtol=1e-4, atol=1e-4)
