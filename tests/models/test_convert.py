"""The published HCNN state dict in our model: same logits, in eval and in training mode."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from hyplearn.manifolds import Manifolds
from hyplearn.models import ConvolutionOptions, NormOptions, ResNet
from hyplearn.models.convert import load_published_hcnn
from hyplearn.models.options import RescaleSites
from hyplearn.nn import monitor
from tests.support import reference_hcnn as reference


def published(*, width: int = 8, classes: int = 10, seed: int = 0, **curvatures: float) -> reference.Classifier:
    torch.manual_seed(seed)
    model = reference.Classifier(width=width, classes=classes, limit=10, **curvatures)
    reference.make_trained(model, torch.Generator().manual_seed(seed))
    return model


def ours(*, width: int = 8, classes: int = 10, image_size: int = 32, depth: int = 18, **manifold: object) -> ResNet:
    """`hcnn_original_r18` as its config builds it."""
    none = RescaleSites(entry=False, conv="none", norm=False, residual=False, transfer=False)
    return ResNet(
        depth=depth,
        in_channels=3,
        num_classes=classes,
        image_size=image_size,
        manifold=Manifolds("lorentz", **{"learned": False, **manifold}),
        stem="lorentz",
        stages=["lorentz"] * 4,
        head="lorentz_mlr",
        width=width,
        conv=ConvolutionOptions(kind="original"),
        norm=NormOptions(tangent_limit=10),
        rescale=none,
    )


def images(batch: int = 3, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("k", "decoder_k"), [(1.0, 1.0), (0.4, 2.5)])
def test_same_logits_in_float32(training: bool, k: float, decoder_k: float) -> None:
    theirs, model = published(k=k, decoder_k=decoder_k), ours()
    load_published_hcnn(model, theirs.state_dict())
    theirs.double().train(training)  # float64: the ambient formulas lose too much in float32 to be the measure
    model.train(training)
    with torch.no_grad():
        logits, expected = model(images()), theirs(images().double())
    assert expected.std() > 1  # as those of a trained model; 1e-4 of 1e-2 would show little
    assert_close(logits.double(), expected, rtol=0, atol=1e-4)


def test_same_logits_at_full_width() -> None:
    theirs, model = published(width=64, classes=100).eval(), ours(width=64, classes=100).eval()
    load_published_hcnn(model, {"model": theirs.state_dict(), "epoch": 200})
    with torch.no_grad():
        assert_close(model(images(2)).double(), theirs.double()(images(2).double()), rtol=0, atol=1e-4)


def test_same_training_in_float64() -> None:
    """Logits, running statistics and gradients of the image, kernels, scales and head, through a training pass."""
    theirs, model = published(width=4).double(), ours(width=4).double()
    load_published_hcnn(model, theirs.state_dict())
    x, y = images(2, 16).double().requires_grad_(), images(2, 16).double().requires_grad_()
    out, expected = model(x), theirs(y)
    assert_close(out, expected, rtol=1e-5, atol=1e-7)  # acosh near 1 has half the digits
    out.square().sum().backward()
    expected.square().sum().backward()
    assert y.grad.abs().max() > 0.1
    assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-6)
    block, peer = model.stages[3][0], theirs.encoder.conv5_x[0]
    assert_close(block.unit2.norm.running_mean, peer.conv[4].running_mean[1:], rtol=1e-6, atol=1e-8)
    assert_close(block.unit2.norm.running_dispersion, peer.conv[4].running_var[0], rtol=1e-6, atol=1e-8)
    assert_close(block.shortcut.norm.gamma.grad, peer.shortcut[1].gamma.grad[0], rtol=1e-4, atol=1e-6)
    kernel = peer.conv[0].linearized_kernel.weight.weight.grad
    assert_close(block.unit1.conv.weight_time.grad, kernel[1:, 0], rtol=1e-4, atol=1e-6)
    assert_close(block.unit1.conv.weight.grad.permute(0, 2, 3, 1).flatten(1), kernel[1:, 1:], rtol=1e-4, atol=1e-6)
    assert_close(model.head.z.grad, theirs.decoder.z.grad, rtol=1e-4, atol=1e-6)
    assert_close(model.head.a.grad, theirs.decoder.a.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-1)])
def test_same_training_where_the_tangent_limit_acts(dtype: torch.dtype, tolerance: float) -> None:
    """A batch with two bright pixels; the reference in float64 both times."""
    theirs, model = published(width=4).double(), ours(width=4)
    load_published_hcnn(model, theirs.state_dict())
    model = model.to(dtype)
    pixels = images(8, 16)
    pixels[0, :, 3, 4], pixels[5, :, 9, 2] = 3e4, -2e4
    x, y = pixels.to(dtype, copy=True).requires_grad_(), pixels.to(torch.float64).requires_grad_()
    with monitor.record() as readings:
        out = model(x)
    assert readings["limited/norm"] > 1e-4
    expected = theirs(y)
    out.square().sum().backward()
    expected.square().sum().backward()
    block, peer = model.stages[3][0], theirs.encoder.conv5_x[0]
    kernel = theirs.encoder.conv1.conv[0].linearized_kernel.weight.weight.grad
    for found, wanted in (
        (out, expected),
        (x.grad, y.grad),
        (model.stem.conv.weight.grad.permute(0, 2, 3, 1).flatten(1), kernel[1:, 1:]),
        (block.shortcut.norm.gamma.grad, peer.shortcut[1].gamma.grad[0]),
        (model.head.z.grad, theirs.decoder.z.grad),
    ):
        # Of the whole: a value that rounding moves over the kink of a ReLU changes a few entries by much.
        assert (found.double() - wanted).norm() < tolerance * wanted.norm()


@pytest.mark.parametrize("seed", [9, 12])
def test_initial_batches_have_finite_gradients_in_float32(seed: int) -> None:
    """Width 8, 128 images of 14 x 14 with dark background: without the limit both seeds give NaN."""
    torch.manual_seed(seed)
    model, generator = ours(width=8, image_size=14), torch.Generator().manual_seed(seed)
    x = torch.rand(128, 3, 7, 7, generator=generator) * (torch.rand(128, 1, 7, 7, generator=generator) < 0.4)
    x = (F.interpolate(x, (14, 14)) - 0.29) / 0.35
    with monitor.record() as readings:
        F.cross_entropy(model(x), torch.arange(128) % 10).backward()
    assert readings["limited/norm"] > 0
    for name, p in model.named_parameters():
        assert p.grad is None or p.grad.isfinite().all(), name


def test_wrapped_names_and_learned_curvature() -> None:
    theirs = published(k=0.4, decoder_k=2.5)
    state = {f"_orig_mod.module.{name}": value for name, value in theirs.state_dict().items()}
    model = ours(learned=True, parametrization="log_c")
    load_published_hcnn(model, state)
    c = {name: manifold.c.item() for name, manifold in model.manifolds().items()}
    assert c == {"encoder": pytest.approx(1 / 0.4), "decoder": pytest.approx(1 / 2.5)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update({"encoder.fc.weight": torch.zeros(1)}), r"'encoder\.fc\.weight' is no name"),
        (lambda state: state.pop("decoder.z"), r"nothing for 'head\.z'"),
        (lambda state: state.pop("enc_manifold.k"), r"enc_manifold\.k"),
        (lambda state: state["dec_manifold.k"].fill_(1e3), r"decoder must lie in bounds=\[0\.05, 20\.0\]"),
        (
            lambda state: state.update({"encoder.conv2_x.2.conv.1.gamma": torch.ones(1)}),
            r"'stages\.0\.2\.unit1\.norm\.gamma', the model has not",
        ),
    ],
)
def test_other_state_dicts_are_refused(change: object, message: str) -> None:
    model, state = ours(), published().state_dict()
    change(state)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_published_hcnn(model, state)
    assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_other_models_are_refused() -> None:
    state = published().state_dict()
    with pytest.raises(ValueError, match=r"\(9, 28\) must be \(5, 28\).*width"):
        load_published_hcnn(ours(width=4), state)
    with pytest.raises(ValueError, match="depth"):
        load_published_hcnn(ours(depth=50), state)
    with pytest.raises(ValueError, match="one encoder manifold"):
        load_published_hcnn(ours(share="single"), state)
    with pytest.raises(ValueError, match="must be a state dict"):
        load_published_hcnn(ours(), {"model": [1, 2]})
