"""The encoder as an ONNX graph, held against the network it comes from."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hyplearn.evaluation.neighbours import neighbours
from hyplearn.inference.prediction import Trained
from hyplearn.models.base import as_classifier
from hyplearn.runs.atomic import write_whole

NEIGHBOURS = 10
# Largest difference of an output, relative to the largest number in it: rounding of float32 through a deep network.
TOLERANCE = 1e-3
# Distances that differ by less than this share of them are ties.
TIED = 1e-5


class Comparison(NamedTuple):
    """Of the graph with the network. differences: by output, the largest |difference| and the largest |number|.

    random, images: how many of either were compared. same_neighbours: the share of images whose `k` nearest others are
    the same ones, None without images; tied_neighbours: the same ones, or others as far to five digits. same_class: the
    share of the most probable classes that are the same, of a classifier.
    """

    random: int
    images: int
    differences: dict[str, tuple[float, float]]
    k: int
    same_neighbours: float | None
    tied_neighbours: float | None
    same_class: float | None


class _Encoder(nn.Module):
    """Normalised images to the points of each space, and the logits of a classifier."""

    def __init__(self, network: nn.Module, *, retrieval: bool) -> None:
        super().__init__()
        self.network, self.retrieval = network, retrieval

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.retrieval:
            points: tuple[Tensor, ...] = self.network(images)
            return points
        classifier = as_classifier(self.network)
        embedding = classifier.embed(images)
        return embedding, classifier.head(embedding)


def with_plain_weights(network: nn.Module) -> nn.Module:
    """A copy whose weights are numbers: a rotation by the Cayley map solves a linear system, which ONNX cannot."""
    copied = copy.deepcopy(network)
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if parametrize.is_parametrized(child):
                setattr(parent, name, _plain(child))
    return copied


def _plain(module: nn.Module) -> nn.Module:
    """A linear layer of the weight that the parametrization gives."""
    assert isinstance(module, nn.Linear) and module.bias is None
    # torch removes a parametrization from the class, which a copy shares with its original
    plain = nn.Linear(module.in_features, module.out_features, bias=False, device=module.weight.device)
    plain.weight = nn.Parameter(module.weight.detach().clone())
    return plain


def output_names(model: Trained) -> list[str]:
    """Of the graph: the embedding of each space, and the logits of a classifier."""
    names = ["embedding"] if len(model.metrics) == 1 else [f"embedding_{i}" for i in range(len(model.metrics))]
    return names if model.retrieval else [*names, "logits"]


def write_onnx(path: Path, model: Trained, *, channels: int, size: int) -> None:
    """Write the graph; its input is `images` (batch, C, H, W) float32, normalised. Needs onnx and onnxscript.

    Raises ValueError for a network that holds operations without an ONNX form.
    """
    encoder = _Encoder(with_plain_weights(model.model), retrieval=model.retrieval).eval()
    example = torch.zeros(2, channels, size, size, device=model.device)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations inside the exporter
            program = torch.onnx.export(
                encoder,
                (example,),
                dynamo=True,
                optimize=False,  # it takes the floors below the resolution of 1, without which 0/0 occurs, for zeros
                input_names=["images"],
                output_names=output_names(model),
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=65536)}},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(f"this network has no ONNX form: {_reason(error)}") from error
    finally:
        logger.setLevel(level)
    assert program is not None
    content = program.model_proto.SerializeToString()
    write_whole(path, lambda stream: stream.write(content))


def _reason(error: BaseException) -> str:
    """The first line of what went wrong underneath, not of the exporter's advice to its developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0]


def compare(path: Path, model: Trained, *, channels: int, size: int, images: Tensor | None) -> Comparison:
    """Run the file by onnxruntime on normalised images (N, C, H, W), and on as many random ones, beside the network.

    Raises ValueError where an output differs by more than rounding.
    """
    random = torch.randn(64, channels, size, size, generator=torch.Generator().manual_seed(0))
    random[0] = 0  # where ratios of norms meet their limits
    session = _session(path)
    names = output_names(model)
    differences = dict.fromkeys(names, (0.0, 0.0))
    pairs = [_both(session, model, names, part) for part in (random, images) if part is not None]
    for graph, network in pairs:
        for name, a, b in zip(names, graph, network, strict=True):
            worst, largest = differences[name]
            difference = (a - b).abs().nan_to_num(math.inf, math.inf).max().item()  # max() passes over NaN
            differences[name] = max(worst, difference), max(largest, b.abs().max().item())
    _require_equal(path, differences)
    if images is None:
        return Comparison(len(random), 0, differences, 0, None, None, None)
    graph, network = pairs[-1]
    same_class = None
    if not model.retrieval:
        same_class = (graph[-1].argmax(-1) == network[-1].argmax(-1)).float().mean().item()
    k = min(NEIGHBOURS, len(images) - 1)
    same, tied = _same_neighbours(model, graph[: len(model.metrics)], network[: len(model.metrics)], k)
    return Comparison(len(random), len(images), differences, k, same, tied, same_class)


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _both(session: Any, model: Trained, names: Sequence[str], images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of graph and network, float32 on the CPU."""
    encoder = _Encoder(model.model, retrieval=model.retrieval).eval()
    graph: list[list[Tensor]] = []
    network: list[list[Tensor]] = []
    for part in images.split(64):
        answers = session.run(list(names), {"images": np.ascontiguousarray(part.numpy())})
        graph.append([torch.from_numpy(answer) for answer in answers])
        with torch.no_grad():
            network.append([x.float().cpu() for x in encoder(part.to(model.device))])
    joined = ([torch.cat(parts) for parts in zip(*batches, strict=True)] for batches in (graph, network))
    return next(joined), next(joined)


def _require_equal(path: Path, differences: dict[str, tuple[float, float]]) -> None:
    for name, (worst, largest) in differences.items():
        if not worst <= TOLERANCE * max(largest, 1.0):
            path.unlink()
            raise ValueError(
                f"the ONNX graph differs from the network: {name} by up to {worst:.3g} at numbers of up to "
                f"{largest:.3g}; the file was removed"
            )


def _same_neighbours(model: Trained, graph: Sequence[Tensor], network: Sequence[Tensor], k: int) -> tuple[float, float]:
    """The share of images whose k nearest others are the same, and that share with ties counted as the same."""
    ids = torch.arange(len(graph[0]))
    both = [model.embeddings(points) for points in (graph, network)]
    found, exact = (neighbours(x, x, k, query_ids=ids, gallery_ids=ids, index="torch") for x in both)
    same = (found.indices.sort(-1).values == exact.indices.sort(-1).values).all(-1)
    measured = both[1].direct(ids.repeat_interleave(k), both[1], found.indices.flatten()).view(-1, k)
    tied = (measured <= exact.distances[:, -1:] * (1 + TIED)).all(-1)
    return same.float().mean().item(), (same | tied).float().mean().item()
