"""One ResNet for every geometry: a variant is data, the geometry of the stem, of each stage and of the head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

from torch import Tensor, nn

from hyplearn import regions
from hyplearn.errors import one_of
from hyplearn.manifolds import CurvedManifold, Lorentz, Manifold, Manifolds, PoincareBall
from hyplearn.models.blocks import BasicBlock, Bottleneck
from hyplearn.models.geometries import Ball, Euclidean, Geometry, Hyperboloid
from hyplearn.models.initial_scale import HeadInit, Stage, matched_scale
from hyplearn.models.options import ConvolutionOptions, NormOptions, RescaleSites
from hyplearn.nn.activation import LorentzDropout
from hyplearn.nn.checks import positive
from hyplearn.nn.fused.lift import EntryKind
from hyplearn.nn.fused.norm import ExitKind
from hyplearn.nn.layout import channels_last
from hyplearn.nn.lift import Lift, Transfer
from hyplearn.nn.mlr import LorentzMLR
from hyplearn.nn.poincare_lift import PoincareLift
from hyplearn.nn.poincare_mlr import Orientation, PoincareMLR

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}
StageKind = Literal["euclidean", "lorentz", "lorentz_core", "poincare"]
StemKind = Literal["euclidean", "lorentz", "poincare"]
HeadKind = Literal["linear", "lorentz_mlr", "poincare_mlr"]
SMALL_IMAGE = 64  # up to here the stem is a 3 x 3 convolution of stride 1, above it 7 x 7 of stride 2; never a pool
SMALLEST_IMAGE = 8


class ResNet(nn.Module):
    """ResNet-18 (basic blocks) or ResNet-50 (bottlenecks) on images (B, in_channels, H, W), in any mix of geometries.

    depth: 18 or 50. stem: `euclidean`, `lorentz` or `poincare`; pixels become space coordinates as they are.
    stages: four of `euclidean`, `lorentz` (all layers of the block), `lorentz_core` (Euclidean bottleneck around a
        Lorentz 3 x 3 layer, depth 50 only; Bdeir Figure 1), `poincare`.
    head: `linear`, `lorentz_mlr`, `poincare_mlr`.
    head_init: how a Lorentz MLR starts: `published`, as in HCNN, or `matched`, with logits that spread as those of the
        Euclidean twin do (`initial_scale`).
    manifold: the `Manifolds` that encoder and decoder take their curvature from; None for a Euclidean network.
    width: channels of the first stage (64 in the papers). conv, norm, rescale: options of the Lorentz layers.
    entry: how Euclidean features enter the hyperboloid, between stages, in core blocks and before the head. exit: how
        they leave. clip: largest norm of the features before the head of a hybrid network (HCNN: 1; 4 for
        Tiny-ImageNet), with head_entry and without rescaling. dropout: on the embedding, in training.
    orientation: of the hyperplanes of a `poincare_mlr`, see `PoincareMLR`.
    fused: run Lorentz layers through the fused path; False for layer by layer (same values, slower).
    """

    def __init__(
        self,
        *,
        depth: int,
        in_channels: int,
        num_classes: int,
        image_size: int,
        manifold: Manifolds | None = None,
        stem: StemKind = "euclidean",
        stages: Sequence[StageKind] = ("euclidean",) * 4,
        head: HeadKind = "linear",
        head_init: HeadInit = "published",
        width: int = 64,
        conv: ConvolutionOptions | None = None,
        norm: NormOptions | None = None,
        rescale: RescaleSites | None = None,
        entry: EntryKind = "project",
        exit: ExitKind = "log0",
        head_entry: EntryKind | None = None,
        clip: float | None = None,
        dropout: float = 0.0,
        orientation: Orientation = "joint",
        fused: bool = True,
    ) -> None:
        super().__init__()
        self._check(depth, in_channels, num_classes, image_size, stem, stages, head, width)
        one_of("entry", entry, EntryKind)
        one_of("exit", exit, ExitKind)
        self._manifolds = _Named(manifold)
        self._conv, self._norm = conv or ConvolutionOptions(), norm or NormOptions()
        self._rescale, self._entry, self._exit, self._fused = rescale or RescaleSites(), entry, exit, fused

        geometry = self._geometry(stem, 0)
        self.stem = last = self._stem(geometry, in_channels, width, image_size)
        into, levels = width, []
        geometries = [geometry]
        for index, (kind, blocks) in enumerate(zip(stages, BLOCKS[depth], strict=True), start=1):
            before, geometry = geometry, self._geometry(kind, index)
            geometries.append(geometry)
            if before.manifold is not geometry.manifold:
                last.exit = self._passage(before, geometry)
            stage = [
                self._block(kind, index, depth, geometry, into if block == 0 else None, width, block)
                for block in range(blocks)
            ]
            last, into = stage[-1].last, (width << (index - 1)) * stage[-1].expansion
            levels.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*levels)
        self._geometries = geometries  # of the stem and of each stage
        self.pool = geometry.pool()
        self.to_decoder = self._to_decoder(head, geometry, head_entry or entry, clip)
        self.dropout = LorentzDropout(dropout)
        self.embedding_size = into
        hyperboloid = geometry.manifold if isinstance(geometry.manifold, Lorentz) else None
        last_stage = Stage(into, BLOCKS[depth][-1], _positions(image_size), hyperboloid, self._rescale)
        self.head = self._head(head, into, num_classes, self._head_scale(head, head_init, last_stage), orientation)

    @staticmethod
    def _check(
        depth: int, in_channels: int, num_classes: int, image_size: int,
        stem: str, stages: Sequence[StageKind], head: str, width: int,
    ) -> None:  # fmt: skip
        if depth not in BLOCKS:
            raise ValueError(f"depth={depth!r} must be one of {', '.join(map(str, BLOCKS))}")
        for name, value in (("in_channels", in_channels), ("num_classes", num_classes), ("width", width)):
            positive(name, value)
        if image_size < SMALLEST_IMAGE:
            raise ValueError(
                f"image_size={image_size} must be >= {SMALLEST_IMAGE}: three strides of 2 leave nothing of it; "
                "set dataset.image_size to enlarge the images"
            )
        one_of("stem", stem, StemKind)
        one_of("head", head, HeadKind)
        if len(stages) != 4:
            raise ValueError(f"stages={list(stages)} must name four geometries, one for each stage")
        for number, kind in enumerate(stages, start=1):
            one_of(f"stages[{number}]", kind, StageKind)
        if "lorentz_core" in stages and depth == 18:
            raise ValueError("stages with lorentz_core need depth=50: the core is the 3 x 3 layer of a bottleneck")
        ball = [kind == "poincare" for kind in (stem, *stages)]
        if any(ball) and not all(ball):
            raise ValueError(f"stem={stem!r}, stages={list(stages)}: poincare does not mix with other geometries")

    # Parts

    def _lorentz(self, stage: int | None) -> Lorentz:
        """The encoder manifold of a stage, or the decoder's for None."""
        manifold = self._manifolds.get(stage)
        if not isinstance(manifold, Lorentz):
            raise ValueError(f"{self._manifolds.what}: this model has Lorentz layers and needs manifold=lorentz")
        return manifold

    def _ball(self, stage: int | None) -> PoincareBall:
        manifold = self._manifolds.get(stage)
        if not isinstance(manifold, PoincareBall):
            raise ValueError(f"{self._manifolds.what}: this model has Poincare layers and needs manifold=poincare")
        return manifold

    def _geometry(self, kind: str, stage: int) -> Geometry:
        if kind in ("euclidean", "lorentz_core"):
            return Euclidean(self._norm)
        if kind == "poincare":
            return Ball(self._ball(stage), self._norm)
        return self._hyperboloid(stage)

    def _hyperboloid(self, stage: int) -> Hyperboloid:
        return Hyperboloid(
            self._lorentz(stage), self._conv, self._norm, self._rescale, self._entry, self._exit, self._fused
        )

    @staticmethod
    def _stem(geometry: Geometry, in_channels: int, width: int, image_size: int) -> nn.Module:
        if image_size <= SMALL_IMAGE:
            return geometry.unit(in_channels, width, 3)
        return geometry.unit(in_channels, width, 7, stride=2)

    def _block(
        self, kind: str, index: int, depth: int, geometry: Geometry, into: int | None, width: int, number: int
    ) -> BasicBlock | Bottleneck:
        """Block of a stage, 1 to 4. into: its input channels, those of the stage for all but the first block."""
        width, stride = width << (index - 1), 2 if index > 1 and number == 0 else 1
        if depth == 18:
            return BasicBlock(into or width, width, stride=stride, geometry=geometry)
        into = into or width * Bottleneck.expansion
        core = self._hyperboloid(index).core if kind == "lorentz_core" else None
        return Bottleneck(into, width, stride=stride, geometry=geometry, core=core)

    def _passage(self, before: Geometry, after: Geometry) -> nn.Module:
        """Return the layer that takes points from one space to another."""
        old, new = before.manifold, after.manifold
        if isinstance(old, Lorentz) and isinstance(new, Lorentz):
            return Transfer(old, new, rescale=self._rescale.transfer)
        return before.leave() if old is not None else after.enter()

    def _to_decoder(self, head: str, geometry: Geometry, entry: EntryKind, clip: float | None) -> nn.Module:
        """Return the layer from the pooled features to what the head reads."""
        one_of("head_entry", entry, EntryKind)
        if clip is not None and (head == "linear" or geometry.manifold is not None):
            raise ValueError(f"clip={clip} belongs to hybrid models: Euclidean stages with a hyperbolic head")
        if head == "linear":
            return geometry.leave()
        if head == "poincare_mlr":
            return PoincareLift(self._ball(None), clip=clip)
        if isinstance(geometry.manifold, Lorentz):
            return Transfer(geometry.manifold, self._lorentz(None), rescale=self._rescale.transfer)
        return Lift(self._lorentz(None), kind=entry, rescale=self._rescale.entry and clip is None, clip=clip)

    def _head_scale(self, head: str, head_init: str, last_stage: Stage) -> float:
        one_of("head_init", head_init, HeadInit)
        if head_init == "published":
            return 1.0
        if head != "lorentz_mlr":
            raise ValueError(f"head_init={head_init!r} belongs to head=lorentz_mlr; set head_init=published")
        return matched_scale(last_stage, self.to_decoder, self._lorentz(None))

    def _head(self, head: str, features: int, num_classes: int, scale: float, orientation: Orientation) -> nn.Module:
        if orientation != "joint" and head != "poincare_mlr":
            raise ValueError(f"orientation={orientation!r} is for head=poincare_mlr, not for head={head}: leave it out")
        if head == "lorentz_mlr":
            return LorentzMLR(features, num_classes, manifold=self._lorentz(None), scale=scale)
        if head == "poincare_mlr":
            return PoincareMLR(features, num_classes, manifold=self._ball(None), orientation=orientation)
        return nn.Linear(features, num_classes)

    # Use

    def manifolds(self) -> dict[str, Manifold]:
        """The curved manifolds of the model by name: `encoder`, `decoder`, `encoder.stage1`, ..."""
        return self._manifolds.used()

    def embed(self, images: Tensor) -> Tensor:
        """Return what the head reads, (B, embedding_size).

        Points of the decoder manifold, or features of a linear head.
        """
        with self._held_curvatures():
            x = self.stages(self.stem(channels_last(images)))
            out: Tensor = self.dropout(self.to_decoder(self.pool(x)))
        return out

    @contextmanager
    def _held_curvatures(self) -> Iterator[None]:
        """Let a forward pass compute each curvature once where launches count; elsewhere sums keep their order."""
        with ExitStack() as stack:
            if regions.is_on():
                for manifold in self.manifolds().values():
                    if isinstance(manifold, CurvedManifold):
                        stack.enter_context(manifold.curvature.held())
            yield

    def stage_points(self, images: Tensor) -> dict[str, tuple[Tensor, Manifold | None]]:
        """Pooled outputs (B, n) of `stem` and `stage1` to `stage4`, and the manifold they lie on, None for Euclidean.

        Each in the part's own space, before the way to the next one.
        """
        found: dict[str, tuple[Tensor, Manifold | None]] = {}
        x = channels_last(images)
        names = ("stem", *(f"stage{number}" for number in range(1, 5)))
        for name, part, geometry in zip(names, (self.stem, *self.stages), self._geometries, strict=True):
            with _without_exit(part) as leave:
                x = part(x)
            pooled, manifold = geometry.pool()(x), geometry.manifold
            found[name] = (manifold.expmap0(pooled) if isinstance(manifold, PoincareBall) else pooled, manifold)
            x = leave(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes)."""
        with self._held_curvatures():
            logits: Tensor = self.head(self.embed(images))
        return logits


def _positions(image_size: int) -> int:
    """Positions of the last feature map: strides of 2 in the last three stages, and in the stem of large images."""
    side = image_size
    for _ in range(3 if image_size <= SMALL_IMAGE else 4):
        side = (side + 1) // 2
    return side * side


@contextmanager
def _without_exit(part: nn.Module) -> Iterator[nn.Module]:
    """Keep the output of the stem or of a stage in its own space; gives the way to the next."""
    unit: nn.Module = part[-1].last if isinstance(part, nn.Sequential) else part  # type: ignore[assignment]
    way = getattr(unit, "exit", None)
    if way is None:
        yield nn.Identity()
        return
    unit.exit = None  # type: ignore[assignment]
    try:
        yield way
    finally:
        unit.exit = way


class _Named:
    """The manifolds a model asked for, by name; no module, since the layers hold them."""

    def __init__(self, family: Manifolds | None) -> None:
        self.family = family
        self.what = "manifold=euclidean" if family is None else f"manifold={family.kind}"

    def get(self, stage: int | None) -> Manifold | None:
        """The encoder's manifold at a stage, the decoder's for None."""
        if self.family is None:
            return None
        return self.family.decoder() if stage is None else self.family.encoder(stage)

    def used(self) -> dict[str, Manifold]:
        return {} if self.family is None else dict(self.family.manifolds())
