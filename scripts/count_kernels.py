"""Kernels that one training step launches on a GPU, operation by operation and in compiled regions. Needs no GPU.

    pip install triton==3.7.1          # the one that torch's GPU wheels of this version bring
    python scripts/count_kernels.py hcnn_r18 hecnn_r18 poincare_resnet_r18

The compiler schedules each region as for a GPU and stops before a kernel is built; the step itself runs operation by
operation on the CPU. A region counts as the kernels and library calls of its schedule, forward and backward, every
other operation as one launch, views left out; so does an operation on a list of tensors, of which a GPU needs one for
each hundred or so. Widths and images are small: the count does not depend on them, but for reductions over many
positions, which a GPU may split in two. The optimizer's step is counted by itself.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hyplearn import regions
from hyplearn.config.build import make
from hyplearn.config.compose import compose
from hyplearn.optim import RiemannianAdamW
from hyplearn.optim.groups import parameter_groups

VIEWS = {
    *(
        "view",
        "_unsafe_view",
        "expand",
        "permute",
        "transpose",
        "t",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "split",
    ),
    *("split_with_sizes", "unbind", "detach", "alias", "as_strided", "diagonal", "_reshape_alias"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("_record_function_enter_new", "_record_function_exit", "promote_types"),
}
LAUNCH = re.compile(r"\.run\(|extern_kernels\.|torch\.ops\.")


class _ScheduledOnly(Exception):  # noqa: N818 - no error: what is looked for has been found
    pass


class _Module:
    """Stands for a compiled module that is never run."""

    __file__ = __file__
    recursively_apply_fns = None

    @staticmethod
    def call(arguments: Any) -> Any:
        raise _ScheduledOnly


class _Device:
    """What Triton's compiler asks of a GPU that is not there."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0


class Schedules:
    """How many kernels a call of each region launches, by its compiled code."""

    def __init__(self) -> None:
        import torch._functorch.config
        import torch._inductor.config
        import torch._inductor.graph
        import triton

        triton.runtime.driver.set_active(_Device())
        torch._inductor.config.cpu_backend = "triton"  # type: ignore[assignment]
        torch._inductor.config.fx_graph_cache = False
        torch._functorch.config.enable_autograd_cache = False
        torch._functorch.config.force_non_lazy_backward_lowering = True
        self.codes: list[str] = []
        self.launched = self.inside = 0

        def note(graph: Any, code: Any) -> type[_Module]:
            self.codes.append(code.value)
            return _Module

        torch._inductor.graph.GraphLowering._compile_to_module_lines = note  # type: ignore[assignment]

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A region that counts what its schedule launches, and runs as it is written."""
        compiled = torch.compile(function, dynamic=True, fullgraph=True)
        known: dict[str, int] = {}

        def run(*args: Any, **kwargs: Any) -> Any:
            key = self._kind((args, kwargs))
            if key not in known:
                before = len(self.codes)
                try:
                    compiled(*args, **kwargs)
                except Exception as error:
                    if "_ScheduledOnly" not in repr(error) and not isinstance(error, _ScheduledOnly):
                        raise
                known[key] = sum(
                    len(LAUNCH.findall(code[code.index("def call(") :].split("\nrunner =")[0]))
                    for code in self.codes[before:]
                )
                print(f"    {function.__module__}.{function.__qualname__}: {known[key]}", flush=True)
            self.launched += known[key]
            return as_written(self, function, args, kwargs)

        return run

    @staticmethod
    def _kind(arguments: Any) -> str:
        """Equal for calls that one compiled code serves: settings, and what kind each tensor is."""
        leaves, structure = pytree.tree_flatten(arguments)
        kinds = [(leaf.dim(), leaf.dtype, leaf.requires_grad) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        return re.sub(r"tensor\([^)]*\)", "tensor", f"{kinds} {structure}")


class Watch(Protocol):
    """Says how deep in regions the run is: operations count where that is 0."""

    inside: int


def as_written(watch: Watch, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """A region operation by operation, none of which is counted, nor those of its backward pass."""
    leaves, structure = pytree.tree_flatten((args, kwargs))
    if torch.is_grad_enabled() and any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
        outputs = _Uncounted.apply(watch, function, structure, *leaves)
        return outputs if len(outputs) > 1 else outputs[0]
    watch.inside += 1
    try:
        with regions.as_written():
            return function(*args, **kwargs)
    finally:
        watch.inside -= 1


class _Uncounted(torch.autograd.Function):
    """A function whose operations, forward and backward, are not counted one by one."""

    @staticmethod
    def forward(ctx: Any, watch: Watch, function: Callable[..., Any], structure: Any, *leaves: Any) -> Any:
        watch.inside += 1
        with torch.enable_grad(), regions.as_written():
            ctx.inputs = [
                leaf.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf
                for leaf in leaves
            ]
            args, kwargs = pytree.tree_unflatten(ctx.inputs, structure)
            made = function(*args, **kwargs)
        ctx.set_materialize_grads(False)
        watch.inside -= 1
        ctx.outputs, ctx.watch = (made if isinstance(made, tuple) else (made,)), watch
        return tuple(output.detach() for output in ctx.outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.watch.inside += 1
        wanted = [leaf for leaf in ctx.inputs if isinstance(leaf, Tensor) and leaf.requires_grad]
        differentiable = [
            (o, g) for o, g in zip(ctx.outputs, gradients, strict=True) if o.requires_grad and g is not None
        ]
        outputs, given = zip(*differentiable, strict=True)
        with regions.as_written():  # the backward pass may compute parts of the forward one again
            found = iter(torch.autograd.grad(outputs, wanted, given, allow_unused=True))
        ctx.watch.inside -= 1
        rest = [next(found) if isinstance(leaf, Tensor) and leaf.requires_grad else None for leaf in ctx.inputs]
        return (None, None, None, *rest)


class Launches(TorchDispatchMode):
    """Operations outside of regions that launch a kernel."""

    def __init__(self, watch: Watch | None = None) -> None:
        super().__init__()
        self.watch, self.counts = watch, Counter[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.split("::")[1]
        if name not in VIEWS and not (self.watch and self.watch.inside):
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def network(name: str) -> nn.Module:
    config = compose([f"model={name}", "dataset=cifar100", "model.width=8"]).config
    manifold = make(config["manifold"], "manifold")
    model: nn.Module = make(config["model"], "model", manifold=manifold, in_channels=3, num_classes=100, image_size=32)
    return model.to(memory_format=torch.channels_last)


class Count(NamedTuple):
    """Launches outside of regions and in them."""

    outside: int
    inside: int

    @property
    def total(self) -> int:
        return self.outside + self.inside


def count(name: str, schedules: Schedules, *, compiled: bool) -> tuple[Count, Count]:
    """Launches of one training step after two, up to the gradients, and of the optimizer's step."""
    model, images = network(name), torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    optimizer = RiemannianAdamW(parameter_groups(model, lr=1e-3, weight_decay=1e-2))

    def gradients() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), torch.arange(4)).backward()

    def counted(part: Callable[[], Any]) -> Count:
        schedules.launched = 0
        with Launches(schedules) as launches:
            part()
        return Count(launches.counts.total(), schedules.launched)

    with regions.compiled(compiled):
        for _ in range(2):  # Adam keeps nothing before its first step
            gradients()
            optimizer.step()
        return counted(gradients), counted(optimizer.step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["hecnn_r18", "hcnn_r18", "poincare_resnet_r18"])
    schedules = Schedules()
    cached: dict[Any, Any] = {}
    regions._compiled = lambda function: cached.setdefault(function, schedules.counted(function))  # type: ignore[assignment]
    plain = count("euclidean_r18", schedules, compiled=False)
    lines = [f"| euclidean_r18 | {plain[0].total:,} | | | | {plain[1].total} | |"]
    for name in parser.parse_args().models:
        written, written_step = count(name, schedules, compiled=False)
        counted, step = count(name, schedules, compiled=True)
        numbers = [written, counted]
        against = " | ".join(f"{n.total:,} | {n.total / plain[0].total:.1f}" for n in numbers)
        lines.append(f"| {name} | {against} | {written_step.total} | {step.total} |")
        if regions.failed():
            raise SystemExit(f"regions that were not compiled: {', '.join(regions.failed())}")
    print(
        "| model | as written | against Euclidean | in regions | against Euclidean "
        "| optimizer as written | in regions |\n|---|---|---|---|---|---|---|"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
