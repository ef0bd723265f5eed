"""The published HCNN against `hcnn_original_r18` and its layers in float64, values and gradients, train and eval."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyplearn.manifolds import Lorentz
from hyplearn.models import ResNet
from hyplearn.models.convert import _converted, load_published_hcnn
from hyplearn.nn import monitor
from hyplearn.nn.batchnorm import LorentzBatchNorm2d
from hyplearn.nn.block import LorentzBlock
from hyplearn.nn.conv import OriginalLorentzConv2d
from hyplearn.optim import RiemannianSGD, parameter_groups
from tests.support.configured_models import model_of
from tests.support.oracles import difference, meets, oracle, tensor

CASES = [  # case, entry of its outputs, limit of the tangent vectors
    ("K1_stride1", None, 10.0),
    ("K2_stride2", None, 10.0),
    ("K1_far_points", "as_published", 10.0),
    ("K1_far_points", "tangent_clamp_removed", None),
]


def by_space(ambient: Any, point: Tensor) -> Tensor:
    """The gradient by space coordinates from that by ambient ones at a point of K = 1, or the k given in its time."""
    g = tensor(ambient)
    return g[1:] + g[0] * point[1:] / point[0]


def with_time(x: Any, k: float = 1.0) -> Tensor:
    space = tensor(x)
    return torch.cat([(k + space.square().sum(0, keepdim=True)).sqrt(), space])


# One block


def block_of(given: dict[str, Any], limit: float | None, *, fused: bool) -> LorentzBlock:
    manifold = Lorentz(1 / given["K"], learned=False)
    weight, bias = tensor(given["conv_weight_time_first"]), tensor(given["conv_bias_time_first"])
    outputs, inputs = len(bias) - 1, (weight.shape[1] - 1) // 9
    conv = OriginalLorentzConv2d(
        inputs, outputs, 3, manifold=manifold, stride=given["stride"], padding=given["padding"]
    )
    norm = LorentzBatchNorm2d(outputs, manifold=manifold, rescale=False, tangent_limit=limit)
    block = LorentzBlock(conv, norm, fused=fused).double()
    with torch.no_grad():
        conv.weight.copy_(weight[1:, 1:].view(outputs, 3, 3, inputs).permute(0, 3, 1, 2))
        conv.weight_time.copy_(weight[1:, 0])
        conv.bias.copy_(bias[1:])
        norm.beta.copy_(tensor(given["beta_space"]))
        norm.gamma.copy_(tensor(given["gamma"][0]))
        norm.running_mean.copy_(tensor(given["running_mean_space"]))
        norm.running_dispersion.copy_(tensor(given["running_var"][0]))
    return block


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("case", "entry", "limit"), CASES)
def test_block(case: str, entry: str | None, limit: float | None, fused: bool) -> None:
    inputs, outputs = oracle("hcnn_block")
    given, expected = inputs[case], outputs[case][entry] if entry else outputs[case]
    block = block_of(given, limit, fused=fused)
    x = tensor(given["input_space_channels_last"]).requires_grad_()
    out = block.conv(x.movedim(-1, 1)).movedim(1, -1)
    listed = tensor(expected["conv_output_space"])
    meets(out if listed.dim() == 4 else out.flatten(0, 2)[: len(listed)], expected["conv_output_space"], 1e-10)
    with monitor.record() as readings:
        out = block(x.movedim(-1, 1)).movedim(1, -1)
    calls = expected["exp_calls"]
    if limit is not None:
        assert readings["limited/norm"] == pytest.approx(calls["positions_clamped"] / calls["positions"])
    out.backward(tensor(given["upstream_gradient_on_output_space"]))
    meets(out, expected["train_output_space"], 1e-10)
    norm, g = block.norm, expected["gradients"]
    meets(norm.running_mean, expected["running_mean_after"][1:], 1e-10)
    meets(norm.running_dispersion, expected["running_var_after"][0], 1e-10)
    kernel = tensor(g["conv_weight"])
    meets(x.grad, g["input_space"], 1e-10)
    meets(block.conv.weight.grad.permute(0, 2, 3, 1).flatten(1), kernel[1:, 1:].tolist(), 1e-10)
    meets(block.conv.weight_time.grad, kernel[1:, 0].tolist(), 1e-10)
    meets(block.conv.bias.grad, g["conv_bias"][1:], 1e-10)
    meets(norm.gamma.grad, g["gamma"][0], 1e-10)
    meets(norm.beta.grad, by_space(g["beta_ambient"], with_time(given["beta_space"], given["K"])).tolist(), 1e-10)
    block.eval()
    meets(block(x.movedim(-1, 1)).movedim(1, -1), expected["eval_output_space_with_the_new_running_statistics"], 1e-10)


@pytest.mark.parametrize("fused", [True, False])
def test_without_the_limit_far_points_differ(fused: bool) -> None:
    inputs, outputs = oracle("hcnn_block")
    given, expected = inputs["K1_far_points"], outputs["K1_far_points"]["as_published"]
    out = block_of(given, None, fused=fused)(tensor(given["input_space_channels_last"]).movedim(-1, 1)).movedim(1, -1)
    assert difference(out, expected["train_output_space"]) > 1


# The network


def network(state: dict[str, Any], *overrides: str) -> ResNet:
    model = model_of("hcnn_original_r18", *overrides, width=2, in_channels=1).double()
    load_published_hcnn(model, state)
    return model


def state_of(inputs: dict[str, Any], *, at_origin: bool = False) -> dict[str, Tensor]:
    state = {name: tensor(value) for name, value in inputs["state"].items()}
    for name, value in state.items():
        if name.endswith("beta"):
            state[name] = with_time((value * (not at_origin)).tolist())
    return state


def ours(published: dict[str, Any], model: ResNet) -> dict[str, Tensor]:
    """Published names and layouts, time first, to those of the model."""
    return dict(_converted({name: tensor(value) for name, value in published.items()}, model.state_dict()))


def test_network_in_training_and_evaluation() -> None:
    inputs, outputs = oracle("hcnn_network")
    state, images = state_of(inputs), tensor(inputs["images"])
    model = network(state)
    model.eval()
    found = model(tensor(inputs["eval_images"])).detach()
    meets(found, outputs["eval_logits_of_the_given_state"], 1e-10)
    model.train()
    logits = model(images.requires_grad_())
    loss = F.cross_entropy(logits, torch.tensor(inputs["labels"]))
    loss.backward()
    meets(logits, outputs["train_logits"], 1e-10)
    meets(loss, outputs["cross_entropy"], 1e-10)
    gradients = {
        name: [0.0, *by_space(value, state[name]).tolist()] if name.endswith("beta") else value
        for name, value in outputs["gradients"].items()
    }
    parameters = dict(model.named_parameters())
    compared = ours(gradients, model)
    assert len(compared) >= 12
    for name, wanted in compared.items():
        meets(parameters[name].grad, wanted.tolist(), 1e-9)
    buffers = dict(model.named_buffers())
    for name, wanted in ours(outputs["running_after_one_forward"], model).items():
        meets(buffers[name], wanted.tolist(), 1e-10)
    model.eval()
    meets(model(tensor(inputs["eval_images"])), outputs["eval_logits_after_that_forward"], 1e-10)


@pytest.mark.parametrize(
    ("entry", "override", "tolerance"),
    [("as_published", "10.0", 1e-9), ("tangent_clamp_removed", "null", 1e-9)],
)
def test_network_with_far_points(entry: str, override: str, tolerance: float) -> None:
    inputs, outputs = oracle("hcnn_network")
    expected = outputs["far_batch"][entry]
    state = state_of(inputs)
    model = network(state, f"model.norm.tangent_limit={override}")
    logits = model(tensor(inputs["far_images"]))
    loss = F.cross_entropy(logits, torch.tensor(inputs["labels"]))
    loss.backward()
    meets(logits, expected["train_logits"], tolerance)
    meets(loss, expected["cross_entropy"], tolerance)
    norms = expected["gradient_norms"]
    meets(model.head.z.grad.norm(), norms["decoder.z"], tolerance)
    meets(model.head.a.grad.norm(), norms["decoder.a"], tolerance)
    meets(model.stem.norm.gamma.grad.norm(), norms["encoder.conv1.conv.1.gamma"], 1e-7)
    meets(model.stem.conv.bias.grad.norm(), norms["encoder.conv1.conv.0.linearized_kernel.weight.bias"], 1e-7)


def test_without_the_limit_the_network_differs() -> None:
    inputs, outputs = oracle("hcnn_network")
    logits = network(state_of(inputs), "model.norm.tangent_limit=null")(tensor(inputs["far_images"]))
    assert difference(logits, outputs["far_batch"]["as_published"]["train_logits"]) > 0.05


def two_steps(case: str, *, first_step: bool) -> tuple[float, list[float]]:
    """The largest difference of weights after two steps, and of the losses on the way."""
    inputs, outputs = oracle("hcnn_network")
    expected, model = outputs["two_steps"][case], network(state_of(inputs, at_origin="at_origin" in case))
    optimizer = RiemannianSGD(
        parameter_groups(
            model, lr=inputs["optimizer"]["lr"], weight_decay=0.0005 if "decay0.0005" in case else 0.0,
            manifold_lr_scale=inputs["optimizer"]["lr_of_betas"] / inputs["optimizer"]["lr"],
        ),
        momentum=0.9 if "momentum0.9" in case else 0.0,
        nesterov="nesterov" in case,
    )  # fmt: skip
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tensor(inputs["images"])), torch.tensor(inputs["labels"]))
        losses.append(loss.item())
        if step == 2:
            break
        loss.backward()
        if first_step and step == 0:
            for p in model.parameters():
                if p.grad is not None:
                    optimizer.state[p]["momentum_buffer"] = p.grad.clone()
        optimizer.step()
    listed = [*expected["losses_before_each_step"], expected["loss_after_two_steps"]]
    parameters = dict(model.named_parameters())
    weights = [
        (parameters[name].detach() - wanted).abs().max().item()
        for name, wanted in ours(expected["weights"], model).items()
    ]
    assert len(weights) >= 10
    return max(weights), [abs(a - b) for a, b in zip(losses, listed, strict=True)]


def test_two_steps_of_sgd() -> None:
    """With torch's first step and no decay; their decay of betas acts on ambient coordinates, twice as hard."""
    weights, losses = two_steps("given_state_momentum0.9_nesterov_decay0_zero_buffers", first_step=False)
    assert weights < 1e-11
    assert max(losses) < 1e-11
    weights, losses = two_steps("given_state_momentum0_decay0.0005", first_step=False)
    assert 1e-9 < weights < 1e-5
    assert max(losses) < 1e-4


def test_two_steps_with_the_published_first_step() -> None:
    """The buffer starts as the raw gradient, which the same step counts again: equal if imitated, else bounded."""
    case = "betas_at_origin_momentum0.9_nesterov_decay0_as_published"
    weights, losses = two_steps(case, first_step=True)
    assert weights < 1e-11
    assert max(losses) < 1e-11
    weights, losses = two_steps(case, first_step=False)
    assert 1e-2 < weights < 0.3
    assert 1e-3 < max(losses) < 0.1
