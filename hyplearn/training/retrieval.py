"""Training of embeddings for retrieval, and their evaluation under the metric that is trained."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hyplearn.data.randomness import derived_seed
from hyplearn.data.retrieval_datamodule import RetrievalDataModule
from hyplearn.geometry import tf32
from hyplearn.losses.base import EmbeddingLoss, input_of
from hyplearn.losses.host import host_copy, remember
from hyplearn.losses.pairwise import PairwiseCrossEntropy
from hyplearn.manifolds import CurvedManifold
from hyplearn.models.base import Retriever
from hyplearn.nn.processes import gather, gather_on_host, gather_rows, processes
from hyplearn.nn.space import Space
from hyplearn.training.chunks import ChunkedBatch
from hyplearn.training.meter import LossMeter
from hyplearn.training.model_readings import space_radii
from hyplearn.training.module import Batch, Inspection, Optimization, TrainingModule
from hyplearn.training.retrieval_metrics import NOTHING_RANKED, Compared, Embedded, Points, RankedStage, rank
from hyplearn.training.settings import EvaluationSettings


class LastBatch(NamedTuple):
    """What the loss saw last, of all processes: points per space, labels and ids of the training images.

    scales: weight/tau, and c (None without curvature) of each space as they were before the step that followed.
    """

    points: Points
    labels: Tensor
    ids: Tensor
    scales: tuple[Tensor, ...]
    curvatures: tuple[Tensor | None, ...]


class RetrievalModule(TrainingModule):
    """Images to points to loss; retrieval of validation and test images. Evaluation is in float32 or better.

    chunk: see `ChunkedBatch`. Of the last validation and of the test, `embedded` holds the images' embeddings and
    `stages` what ranking them gave.
    """

    loss: EmbeddingLoss

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        *,
        seed: int,
        optimization: Optimization,
        settings: EvaluationSettings,
        chunk: int | None = None,
    ) -> None:
        if not isinstance(loss, EmbeddingLoss):
            raise ValueError(
                f"{type(loss).__name__} is computed from {input_of(loss)!r}: retrieval needs a loss of 'embeddings'"
            )
        if settings.hard_negatives and not isinstance(loss, PairwiseCrossEntropy):
            raise ValueError(
                "evaluation.hard_negatives=true reads the weights that the pairwise loss gives its negatives (Yue "
                f"Eq. 9), {type(loss).__name__} has none: use loss=pairwise, or leave it out"
            )
        super().__init__(model, loss, seed=seed, optimization=optimization)
        self.settings, self.chunk = settings, chunk
        self.embedded: dict[str, Embedded] = {}
        self.stages: dict[str, RankedStage] = {"val": NOTHING_RANKED, "test": NOTHING_RANKED}
        self.last_batch: LastBatch | None = None
        self._collected: list[tuple[Tensor, Points, Tensor]] = []
        self._chunked: ChunkedBatch | None = None
        self._host_labels: Tensor | None = None

    @property
    def retriever(self) -> Retriever:
        """The model, as what is asked of a retrieval model."""
        return cast(Retriever, self.model)

    @property
    def spaces(self) -> Sequence[Space]:
        """The spaces of the embedding."""
        return cast("list[Space]", list(self.retriever.spaces))

    def new_meter(self) -> LossMeter:
        return LossMeter()

    def rate_groups(self) -> dict[str, list[nn.Parameter]]:
        learned = (space.log_weight for space in self.spaces if space.log_weight is not None)
        scalars = [*learned, *self.loss.scalars()]
        groups = {
            **{name: [p for p in own if not _among(p, scalars)] for name, own in self.retriever.rate_groups().items()},
            **{name: list(own) for name, own in self.loss.proxies().items()},
            "scalars": scalars,
        }
        return {name: parameters for name, parameters in groups.items() if parameters}

    def inspect(self, images: Tensor) -> Inspection:
        points: Points = self.model(images)
        return Inspection(space_radii(self.spaces, points), all(bool(x.isfinite().all()) for x in points))

    # Training

    def on_train_start(self) -> None:
        wrapped = self.trainer.strategy.model
        if self.chunk is not None and isinstance(wrapped, DistributedDataParallel):
            wrapped.require_backward_grad_sync = False  # it expects one backward pass; `backward` averages instead

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Keep the labels as they came from the loader: the loss checks them there, without waiting for a device."""
        self._host_labels = batch[1] if self.trainer.training else None
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels, ids = batch
        if self._host_labels is not None:
            remember(labels, self._host_labels)
            self._host_labels = None
        points = self._embed(images.to(self.dtype))
        whole, all_labels = tuple(map(gather, points)), gather(labels)
        if processes() > 1:
            remember(all_labels, gather_on_host(host_copy(labels)))
        # Every process computes the loss of the whole batch: its random numbers are the same in each.
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "loss", self.current_epoch, batch_idx))
        loss: Tensor = self.loss(whole, all_labels, self.spaces, generator=generator)
        self.latest_loss = loss.detach()
        if self.settings.hard_negatives:
            self.last_batch = self._kept(whole, all_labels, gather(ids))
        meter = self.meters["train"]
        assert isinstance(meter, LossMeter)
        meter.update(self.latest_loss, len(labels))
        return loss

    def _kept(self, points: Points, labels: Tensor, ids: Tensor) -> LastBatch:
        assert isinstance(self.loss, PairwiseCrossEntropy)
        manifolds = [space.manifold for space in self.spaces]
        return LastBatch(
            tuple(x.detach() for x in points),
            labels,
            ids,
            tuple(scale.detach().clone() for scale in self.loss.scales(self.spaces)),
            tuple(m.c.detach().clone() if isinstance(m, CurvedManifold) else None for m in manifolds),
        )

    def _embed(self, images: Tensor) -> Points:
        if self.chunk is None or len(images) <= self.chunk:
            points: Points = self.model(images)
            return points
        context = self.trainer.precision_plugin.forward_context
        self._chunked = ChunkedBatch(self.model, images, self.chunk, context=context)
        return self._chunked.points

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().backward(loss, *args, **kwargs)
        if self._chunked is not None:
            self._chunked.backward()
            self._chunked = None
        if self.chunk is not None and processes() > 1:
            average_gradients(self)

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._collected = []

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self._collected = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._collect(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._collect(batch)

    def on_validation_epoch_end(self) -> None:
        self._rank("val")

    def on_test_epoch_end(self) -> None:
        self._rank("test")
        self.tests = self.metrics("test")

    def metrics(self, stage: str) -> dict[str, float]:
        if stage == "train":
            return super().metrics(stage)
        return {f"{stage}/{name}": value for name, value in self.stages[stage].metrics.items()}

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.stages["val"] = NOTHING_RANKED  # an epoch without validation has no metrics of the last one

    @torch.no_grad()
    def _collect(self, batch: Batch) -> None:
        images, _, ids = batch
        with torch.autocast(images.device.type, enabled=False), tf32.refused():
            features = self.retriever.features(images.to(self.dtype))
            points = self.retriever.points(features)
        self._collected.append((ids.cpu(), tuple(x.cpu() for x in points), features.cpu()))

    def _rank(self, stage: Literal["val", "test"]) -> None:
        needed = stage == "test" and (self.settings.backbone or self.settings.save)
        self.embedded[stage] = self._whole_stage(features=needed)
        self._collected = []
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, RetrievalDataModule)
        with tf32.refused():
            self.stages[stage] = rank(
                self.embedded[stage],
                data.evaluation(stage),
                stage=stage,
                compared=self.compared(),
                thumbnails=functools.partial(data.thumbnails, stage),
            )

    def compared(self) -> Compared:
        """What decides how this model's embeddings are compared."""
        return Compared(self.spaces, self.loss, self.settings, self.device, self.global_rank, self.seed)

    def _whole_stage(self, *, features: bool) -> Embedded:
        """All images of the stage, of all processes, by id: each exactly once.

        features: whether something needs them. If not, several processes tell each other only if they are finite.
        """
        # a process may have got no image at all
        nothing = torch.zeros(0, 0).to(self.dtype)
        parts = self._collected or [(torch.zeros(0, dtype=torch.int64), (nothing,) * len(self.spaces), nothing)]
        own = torch.cat([found for _, _, found in parts])
        if processes() > 1 and not features:
            own = torch.zeros(len(own), 1).masked_fill_(~own.isfinite().all(-1, keepdim=True), math.nan)
        spaces = zip(*(points for _, points, _ in parts), strict=True)
        tensors = [torch.cat([ids for ids, _, _ in parts]), own, *(torch.cat(space) for space in spaces)]
        ids, gathered, *points = (gather_rows(x, self.device) for x in tensors)
        order = ids.argsort()
        assert len(ids.unique()) == len(ids), "an image must not be embedded twice"
        return Embedded(ids[order], tuple(x[order] for x in points), gathered[order])


def _among(parameter: Tensor, others: Sequence[Tensor]) -> bool:
    return any(parameter is other for other in others)


@torch.no_grad()
def average_gradients(module: nn.Module) -> None:
    """What distributed data parallel does after its one backward pass: the mean over the processes."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= processes()
