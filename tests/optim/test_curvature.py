"""Algorithm 1 and the interface of torch.optim, for every optimizer and manifold."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from hyplearn.geometry import lorentz
from hyplearn.manifolds import Curvature, Lorentz, ManifoldParameter, PoincareBall, Sphere
from hyplearn.manifolds.interop import geoopt
from hyplearn.optim import CurvatureAware, RiemannianAdam, RiemannianAdamW, RiemannianSGD, parameter_groups

Make = Callable[..., CurvatureAware]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda params, **kw: RiemannianSGD(params, **{"lr": 0.05, "momentum": 0.9, **kw}),
    "adam": lambda params, **kw: RiemannianAdam(params, **{"lr": 0.02, **kw}),
    "adamw": lambda params, **kw: RiemannianAdamW(params, **{"lr": 0.02, "weight_decay": 0.1, **kw}),
}
MANIFOLDS: dict[str, Callable[[], Any]] = {
    "lorentz": lambda: Lorentz(c=0.6),
    "lorentz_log": lambda: Lorentz(c=0.6, parametrization="log_c"),
    "lorentz_scale": lambda: Lorentz(c=0.6, mode="scale"),
    "ball": lambda: PoincareBall(c=0.6),
    "geoopt_lorentz": lambda: geoopt.Lorentz(k=1 / 0.6, learnable=True),
    "geoopt_ball": lambda: geoopt.PoincareBall(c=0.6, learnable=True),
}


@pytest.fixture(params=OPTIMIZERS)
def make(request: pytest.FixtureRequest) -> Make:
    return OPTIMIZERS[request.param]


@pytest.fixture(params=MANIFOLDS)
def manifold(request: pytest.FixtureRequest) -> Any:
    return MANIFOLDS[request.param]().double()


def curvature_of(manifold: Any) -> nn.Parameter:
    (parameter,) = manifold.parameters()
    return parameter


def c_of(manifold: Any) -> Tensor:
    return (manifold.c if hasattr(manifold, "c") else 1 / manifold.k).detach().clone()


def points(manifold: Any, *shape: int, seed: int = 0, std: float = 0.5) -> Tensor:
    """Points of a hyperbolic manifold, away from the origin."""
    v = std * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if isinstance(manifold, geoopt.Lorentz):
        v = nn.functional.pad(v, (1, 0))
    with torch.no_grad():
        return manifold.expmap0(v)


def give_gradients(*parameters: Tensor, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


# Algorithm 1


def test_points_and_momentum_follow_the_curvature(make: Make, manifold: Any) -> None:
    """Against a twin whose curvature rests: same distances to the origin, directions and lengths after the move."""
    twin = copy.deepcopy(manifold)
    moved, rested = (ManifoldParameter(points(m, 4, 3), manifold=m) for m in (manifold, twin))
    optimizers = make([moved, curvature_of(manifold)]), make([rested, curvature_of(twin)])
    for seed in range(3):
        give_gradients(moved, seed=seed)
        rested.grad = moved.grad.clone()
        if seed == 2:
            curvature_of(manifold).grad = torch.tensor(3.0, dtype=torch.float64)
        for optimizer in optimizers:
            optimizer.step()
    c_new, c_old = c_of(manifold), c_of(twin)
    assert (c_new / c_old - 1).abs() > 1e-3
    ratio = (c_old / c_new).sqrt() if getattr(manifold, "mode", "logexp") == "scale" else 1.0
    assert_close(manifold.dist0(moved), ratio * twin.dist0(rested))
    direction = [nn.functional.normalize(p.detach()[..., -3:], dim=-1) for p in (moved, rested)]
    assert_close(*direction)
    for name in optimizers[0].tangent_names:
        momentum = [o.state[p][name] for o, p in zip(optimizers, (moved, rested), strict=True)]
        square = [
            m.inner(p, v, keepdim=True) for m, p, v in zip((manifold, twin), (moved, rested), momentum, strict=True)
        ]
        assert_close(square[0], ratio**2 * square[1])
        assert (square[0] > 0).all()
    for name in optimizers[0].scalar_names:
        states = [o.state[p] for o, p in zip(optimizers, (moved, rested), strict=True)]
        assert (name in states[0]) == (name in states[1])
        assert name not in states[0] or torch.equal(states[0][name], states[1][name])


def test_one_step_is_algorithm_1() -> None:
    """Points by the old curvature, then the curvature, then the move: by the public geometry, step by step."""
    manifold = Lorentz(c=0.6).double()
    x = points(manifold, 4, 3)
    parameter, weight = (
        ManifoldParameter(x.clone(), manifold=manifold),
        nn.Parameter(torch.ones(2, dtype=torch.float64)),
    )
    raw = manifold.curvature.raw
    give_gradients(parameter, weight, raw)
    c_old, gradient, old_raw = c_of(manifold), parameter.grad.clone(), raw.detach().clone()
    RiemannianSGD([raw, weight, parameter], lr=0.1, momentum=0.9).step()
    u = lorentz.egrad2rgrad(x, gradient, c=c_old)
    y = lorentz.expmap(x, -0.1 * u, c=c_old)
    assert_close(raw.detach(), old_raw - 0.1 * raw.grad)
    expected = lorentz.change_curvature(y, c_old=c_old, c_new=c_of(manifold))
    assert_close(parameter.detach(), expected)
    assert_close(weight.detach(), 1 - 0.1 * weight.grad)


def test_order_of_groups_and_parameters_does_not_matter(make: Make, manifold: Any) -> None:
    def run(order: list[int]) -> list[Tensor]:
        own = copy.deepcopy(manifold)
        first, second = (ManifoldParameter(points(own, 2, 3, seed=s), manifold=own) for s in (0, 1))
        weight = nn.Parameter(torch.ones(5, dtype=torch.float64))
        parameters = [first, weight, curvature_of(own), second]
        optimizer = make([{"params": [parameters[i]], "lr": 0.01 * (i + 1)} for i in order])
        for seed in range(3):
            give_gradients(*parameters, seed=seed)
            optimizer.step()
        return [p.detach() for p in parameters]

    assert all(map(torch.equal, run([0, 1, 2, 3]), run([2, 3, 1, 0])))


def test_points_without_gradient_and_frozen_points_follow_too(make: Make, manifold: Any) -> None:
    idle = ManifoldParameter(points(manifold, 2, 3), manifold=manifold)
    frozen = ManifoldParameter(points(manifold, 2, 3, seed=1), manifold=manifold, requires_grad=False)
    distances = [manifold.dist0(p).detach() for p in (idle, frozen)]
    c_old = c_of(manifold)
    optimizer = make([idle, frozen, curvature_of(manifold)])
    give_gradients(curvature_of(manifold))
    optimizer.step()
    ratio = (c_old / c_of(manifold)).sqrt() if getattr(manifold, "mode", "logexp") == "scale" else 1.0
    assert c_of(manifold) != c_old
    for parameter, distance in zip((idle, frozen), distances, strict=True):
        assert_close(manifold.dist0(parameter).detach(), ratio * distance)
        assert not optimizer.state[parameter]


def test_nothing_moves_without_a_gradient_of_the_curvature(make: Make, manifold: Any) -> None:
    parameter = ManifoldParameter(points(manifold, 2, 3), manifold=manifold)
    weight = nn.Parameter(torch.ones(2))
    before, c = parameter.detach().clone(), c_of(manifold)
    optimizer = make([parameter, weight, curvature_of(manifold)])
    give_gradients(weight)
    optimizer.step()
    assert torch.equal(parameter.detach(), before)
    assert torch.equal(c_of(manifold), c)


def test_manifolds_with_one_curvature_move_together() -> None:
    first, second = Lorentz(c=0.6).double(), Lorentz(c=0.6).double()
    second.curvature = first.curvature
    parameters = [ManifoldParameter(points(m, 2, 3), manifold=m) for m in (first, second)]
    give_gradients(first.curvature.raw)
    RiemannianSGD([*parameters, first.curvature.raw], lr=0.1).step()
    assert torch.equal(parameters[0].detach(), parameters[1].detach())
    assert not torch.equal(parameters[0].detach(), points(Lorentz(c=0.6).double(), 2, 3))


def test_fixed_curvature_needs_no_scheme(make: Make) -> None:
    manifold = Lorentz(c=0.6, learned=False).double()
    results = []
    for scheme in (True, False):
        parameter = ManifoldParameter(points(manifold, 2, 3), manifold=manifold)
        give_gradients(parameter)
        make([parameter], curvature_scheme=scheme).step()
        results.append(parameter.detach())
    assert torch.equal(*results)


def train_ambient(make: Make, *, scheme: bool, steps: int) -> tuple[float, float]:
    """Largest distance off the manifold of geoopt's ambient points over a run, and the k at its end."""
    manifold = geoopt.Lorentz(k=1.0, learnable=True)
    generator = torch.Generator().manual_seed(0)
    v = nn.functional.pad(0.5 * torch.randn(8, 3, generator=generator), (1, 0))
    parameter = ManifoldParameter(manifold.expmap0(v).detach(), manifold=manifold)
    optimizer = make([parameter, manifold.k], curvature_scheme=scheme)
    target, worst = torch.randn(8, 3, generator=generator), 0.0
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (manifold.logmap0(parameter)[..., 1:] - target).square().sum() + (manifold.k - 3).square()
        loss.backward()
        optimizer.step()
        x = parameter.detach()
        square = x[..., 1:].square().sum(-1) - x[..., 0].square()
        worst = max(worst, (square + manifold.k.detach()).abs().max().item())
    return worst, manifold.k.item()


def test_ambient_points_stay_on_the_manifold_for_1000_steps(make: Make) -> None:
    worst, k = train_ambient(lambda p, **kw: make(p, **{**kw, "lr": 0.005}), scheme=True, steps=1000)
    assert worst < 1e-5
    assert abs(k - 1) > 0.5


def test_ambient_points_leave_the_manifold_without_the_scheme(make: Make) -> None:
    """The ablation of Bdeir Table 5: off by the change of k of the last step."""
    worst, k = train_ambient(lambda p, **kw: make(p, **{**kw, "lr": 0.005}), scheme=False, steps=20)
    assert worst > 1e-3
    assert k != 1


def test_the_ablation_leaves_space_coordinates_behind() -> None:
    manifold = Lorentz(c=0.6).double()
    parameter = ManifoldParameter(points(manifold, 2, 3), manifold=manifold)
    before = parameter.detach().clone()
    give_gradients(manifold.curvature.raw)
    RiemannianSGD([parameter, manifold.curvature.raw], lr=0.1, curvature_scheme=False).step()
    assert torch.equal(parameter.detach(), before)


# Curvatures


@pytest.mark.parametrize(("gradient", "c"), [(1e6, 20.0), (-1e6, 0.05)])
def test_curvature_stays_in_its_bounds(make: Make, gradient: float, c: float) -> None:
    manifold = Lorentz(c=1.0)
    parameter = ManifoldParameter(torch.full((2, 3), 0.1), manifold=manifold)
    raw = manifold.curvature.raw
    distance = manifold.dist0(parameter).detach()
    optimizer = make([{"params": [parameter]}, {"params": [raw], "lr": 100.0}])
    raw.grad = torch.tensor(gradient)
    optimizer.step()
    assert_close(manifold.c.item(), c)
    assert_close(manifold.dist0(parameter).detach(), distance, rtol=1e-5, atol=0)


def test_ambient_curvature_stays_positive() -> None:
    manifold = geoopt.Lorentz(k=1.0, learnable=True)
    parameter = ManifoldParameter(manifold.origin(4).detach(), manifold=manifold)
    manifold.k.grad = torch.tensor(100.0)
    RiemannianSGD([parameter, manifold.k], lr=1.0).step()
    assert manifold.k.item() > 0
    assert parameter.isfinite().all()


def test_curvature_is_not_decayed_with_the_weights(make: Make, manifold: Any) -> None:
    parameter = ManifoldParameter(points(manifold, 2, 3), manifold=manifold)
    raw = curvature_of(manifold)
    before = raw.detach().clone()
    raw.grad = torch.zeros_like(raw)
    make([parameter, raw], weight_decay=0.5).step()
    assert torch.equal(raw.detach(), before)


def test_curvature_decays_where_its_group_says_so() -> None:
    manifold = Lorentz(c=0.5)
    raw = manifold.curvature.raw
    raw.grad = torch.zeros_like(raw)
    groups = [{"params": [raw], "curvature_weight_decay": 0.1}]
    groups[0]["params"].append(ManifoldParameter(torch.zeros(2), manifold=manifold))
    RiemannianSGD(groups, lr=1.0).step()
    assert_close(raw.item(), 2.0 * 0.9)


def test_curvature_takes_the_options_of_its_group() -> None:
    manifold = Lorentz(c=0.5)
    parameter, raw = ManifoldParameter(torch.zeros(2), manifold=manifold), manifold.curvature.raw
    groups = [{"params": [parameter]}, {"params": [raw], "lr": 0.01, "momentum": 0.0}]
    optimizer = RiemannianSGD(groups, lr=1.0, momentum=0.9)
    for _ in range(2):
        raw.grad = torch.tensor(1.0)
        optimizer.step()
    assert_close(raw.item(), 2.0 - 0.02)


def test_curvature_without_points(make: Make) -> None:
    """A head without manifold parameters: its curvature keeps its bounds through the groups' `curvatures`."""
    curvature = Curvature(c=1.0)
    optimizer = make([{"params": [curvature.raw], "curvatures": [curvature], "lr": 100.0}])
    curvature.raw.grad = torch.tensor(1.0)
    optimizer.step()
    assert_close(curvature.c.item(), 20.0)
    assert "curvatures" not in optimizer.state_dict()["param_groups"][0]


def test_curvature_of_unknown_bounds_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="parameter_groups"):
        make([Curvature().raw])


def test_points_that_cannot_move_are_refused(make: Make) -> None:
    manifold = geoopt.Stereographic(k=-1.0, learnable=True)
    parameter = ManifoldParameter(torch.zeros(2, 3), manifold=manifold)
    with pytest.raises(ValueError, match="curvature_scheme=False"):
        make([parameter, manifold.k])
    with pytest.raises(ValueError, match="curvature_scheme=False"):
        make([manifold.k]).add_param_group({"params": [parameter]})
    make([parameter], weight_decay=0.0)  # a curvature that is not optimized is fixed


# The interface of torch.optim


class Net(nn.Module):
    """A weight, points of two widths, a learned curvature and one without points."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Lorentz(c=0.7), Lorentz(c=1.3)
        self.linear = nn.Linear(4, 3)
        self.narrow = ManifoldParameter(0.1 * torch.randn(3), manifold=self.encoder)
        self.wide = ManifoldParameter(0.1 * torch.randn(2, 5), manifold=self.encoder)

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder.expmap(self.narrow, self.linear(x))
        return self.encoder.dist0(y).sum() + self.encoder.dist0(self.wide).sum() + self.decoder.dist0(y).sum()


def build(make: Make, seed: int = 0, **options: Any) -> tuple[Net, CurvatureAware]:
    torch.manual_seed(seed)
    net = Net()
    return net, make(parameter_groups(net, lr=0.02, curvature_lr=0.01), **options)


def train(net: Net, optimizer: CurvatureAware, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(6, 4, generator=generator)).backward()
        optimizer.step()


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(map(torch.equal, first.parameters(), second.parameters()))


def test_all_parameters_learn(make: Make) -> None:
    net, optimizer = build(make)
    before = copy.deepcopy(net)
    train(net, optimizer, 3)
    assert not any(map(torch.equal, net.parameters(), before.parameters()))


def test_gradients_are_never_edited(make: Make) -> None:
    net, optimizer = build(make, weight_decay=0.1)
    net(torch.randn(6, 4)).backward()
    before = [p.grad.clone() for p in net.parameters()]
    optimizer.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("scheme", [True, False])
def test_state_dict_round_trip_continues_bit_for_bit(make: Make, scheme: bool) -> None:
    net, optimizer = build(make, curvature_scheme=scheme)
    train(net, optimizer, 3)
    buffer = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    train(net, optimizer, 3, seed=1)
    other, fresh = build(make, seed=9, curvature_scheme=scheme)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    other.load_state_dict(saved["net"])
    fresh.load_state_dict(saved["optimizer"])
    train(other, fresh, 3, seed=1)
    assert same(net, other)


def test_state_dict_goes_by_name(make: Make) -> None:
    """A model whose groups changed places resumes, and what it does afterwards is the same."""
    net, optimizer = build(make)
    train(net, optimizer, 3)
    other = copy.deepcopy(net)
    groups = parameter_groups(other, lr=1.0, curvature_lr=1.0)[::-1]
    for group in groups:
        group["params"].reverse()
        group["param_names"].reverse()
    fresh = make(groups)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(net, optimizer, 2)
    train(other, fresh, 2)
    assert same(net, other)


def test_state_is_cast_to_the_parameters(make: Make) -> None:
    net, optimizer = build(make)
    train(net, optimizer, 2)
    other, fresh = build(make)
    groups = parameter_groups(other.double(), lr=0.02)
    fresh = make(groups)
    fresh.load_state_dict(optimizer.state_dict())
    for name in fresh.tangent_names + fresh.scalar_names:
        values = [state[name] for state in fresh.state.values() if name in state]
        assert all(value.dtype == torch.float64 for value in values)
    other(torch.randn(6, 4).double()).backward()
    fresh.step()


def test_copy_and_pickle_continue_alike(make: Make) -> None:
    net, optimizer = build(make)
    train(net, optimizer, 2)
    copies = [copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))]
    train(net, optimizer, 2, seed=1)
    for other, twin in copies:
        train(other, twin, 2, seed=1)
        assert same(net, other)


def test_closure_is_evaluated_with_gradients(make: Make) -> None:
    (net, optimizer), (other, twin) = build(make), build(make)
    x = torch.randn(6, 4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = net(x)
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    expected = other(x)
    expected.backward()
    assert twin.step() is None
    assert torch.equal(loss, expected)
    assert same(net, other)


def test_maximize_is_the_step_of_the_negative_loss(make: Make) -> None:
    (net, optimizer), (other, twin) = build(make, maximize=True), build(make)
    x = torch.randn(6, 4)
    net(x).backward()
    (-other(x)).backward()
    optimizer.step()
    twin.step()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert_close(p, q)


def test_accumulated_gradients_are_one_step(make: Make) -> None:
    (net, optimizer), (other, twin) = build(make), build(make)
    x = torch.randn(6, 4)
    for part in x.chunk(2):
        net(part).backward()
    # The wide points do not see x, so each part counts them once.
    (other(x[:3]) + other(x[3:])).backward()
    optimizer.step()
    twin.step()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert_close(p, q)


def test_groups_can_be_added(make: Make) -> None:
    net, optimizer = build(make)
    train(net, optimizer, 1)
    late = ManifoldParameter(torch.full((4,), 0.2), manifold=net.encoder)
    optimizer.add_param_group({"params": [("late", late)], "lr": 0.5, "name": "late"})
    distance = net.encoder.dist0(late).detach()
    train(net, optimizer, 1)
    assert_close(net.encoder.dist0(late).detach(), distance)  # no gradient yet, but its curvature changed
    net.encoder.dist0(late).backward()
    optimizer.step()
    assert net.encoder.dist0(late) != distance


def test_skipped_amp_step_moves_nothing(make: Make) -> None:
    net, optimizer = build(make)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = copy.deepcopy(net)
    scaler.scale(net(torch.full((6, 4), float("inf")))).backward()
    scaler.step(optimizer)
    scaler.update()
    assert same(net, before)
    assert not optimizer.state
    assert scaler.get_scale() == 2.0**9


def test_amp_steps_by_the_unscaled_gradients(make: Make) -> None:
    (net, optimizer), (other, twin) = build(make), build(make)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    x = torch.randn(6, 4)
    scaler.scale(net(x)).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    other(x).backward()
    twin.step()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert_close(p, q)


def test_schedulers_of_torch_drive_every_group(make: Make) -> None:
    net, optimizer = build(make)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    train(net, optimizer, 1)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01, 0.005]


def test_hooks_run_around_the_step(make: Make) -> None:
    net, optimizer = build(make)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(net, optimizer, 1)
    assert calls == ["before", "after"]


def test_an_implementation_that_is_asked_for_is_kept() -> None:
    def options(**given: bool) -> tuple[Any, Any]:
        group = RiemannianSGD([nn.Parameter(torch.zeros(1))], **given).param_groups[0]
        return group["foreach"], group["fused"]

    assert options() == (None, True)
    assert options(foreach=False) == (False, None)
    assert options(foreach=True) == (True, None)
    assert options(fused=False) == (None, False)


def test_nan_gradients_are_not_hidden(make: Make) -> None:
    net, optimizer = build(make)
    give_gradients(*net.parameters())
    net.narrow.grad.fill_(float("nan"))
    optimizer.step()
    assert net.narrow.isnan().all()
    assert net.wide.isfinite().all()


def test_half_precision_points(make: Make) -> None:
    manifold = Lorentz(c=0.6)
    parameter = ManifoldParameter(torch.full((4,), 0.25, dtype=torch.bfloat16), manifold=manifold)
    optimizer = make([parameter, manifold.curvature.raw])
    for _ in range(2):
        give_gradients(parameter, manifold.curvature.raw)
        optimizer.step()
    assert parameter.dtype == torch.bfloat16
    assert parameter.isfinite().all()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
def test_sparse_gradients_are_refused(make: Make) -> None:
    parameter = nn.Parameter(torch.zeros(3, 2))
    nn.functional.embedding(torch.tensor([1]), parameter, sparse=True).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        make([parameter]).step()


def test_points_of_a_sphere_take_part(make: Make) -> None:
    manifold = Sphere()
    parameter = ManifoldParameter(manifold.random(5, 3), manifold=manifold)
    optimizer = make([parameter], weight_decay=0.0)
    for seed in range(20):
        give_gradients(parameter, seed=seed)
        optimizer.step()
    manifold.assert_check_point_on_manifold(parameter.detach())


@pytest.mark.parametrize("option", [{"lr": -0.1}, {"weight_decay": -1.0}])
def test_options_out_of_range_are_refused(make: Make, option: dict[str, float]) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=f"{name}=.*must be >= 0"):
        make([nn.Parameter(torch.zeros(1))], **option)
    with pytest.raises(ValueError, match=f"{name}=.* of parameter group 'head' must be >= 0"):
        make([{"params": [nn.Parameter(torch.zeros(1))], "name": "head", **option}])
