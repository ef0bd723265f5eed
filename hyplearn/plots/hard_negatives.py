"""The nearest images of other classes under two models, side by side (Yue Fig. 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from torch import Tensor

from hyplearn.data.randomness import generator
from hyplearn.evaluation.neighbours import neighbours
from hyplearn.plots.style import COLOURS, TEXT, TITLE, WIDTH, new_figure, save

if TYPE_CHECKING:
    from hyplearn.evaluation.store import Stored

DRAWN = 128  # anchors whose lists are compared to choose those that are shown
FRAME = COLOURS[1]
Pictures = Callable[[Tensor], Tensor]  # positions (n,) to (n, H, W, C) uint8


class Negative(NamedTuple):
    """position: in the test set. only: whether the list of the other model lacks it."""

    position: int
    distance: float
    only: bool


@dataclass(frozen=True)
class Compared:
    """An anchor, and the nearest images of other classes under each of the two models, in ascending order."""

    anchor: int
    lists: tuple[tuple[Negative, ...], tuple[Negative, ...]]

    @property
    def shared(self) -> int:
        """Count the images that are in both lists."""
        return sum(not negative.only for negative in self.lists[0])


def compare(first: Stored, second: Stored, *, nearest: int, seed: int) -> list[Compared]:
    """Compare the lists of up to 128 queries drawn at random, those whose lists share fewest images first.

    first, second: of the same images in the same order. nearest: >= 1; ValueError where a query has fewer images of
    other classes in the gallery.
    """
    queries = first.query.nonzero().squeeze(1)
    drawn = queries[torch.randperm(len(queries), generator=generator(seed, "hard negatives"))[:DRAWN]]
    lists = [hard(stored, drawn, nearest) for stored in (first, second)]
    found = [_compared(anchor, [each[anchor] for each in lists]) for anchor in drawn.tolist()]
    return sorted(found, key=lambda one: one.shared)  # stable: equal ones stay in the order they were drawn in


def hard(stored: Stored, anchors: Tensor, nearest: int) -> dict[int, list[tuple[int, float]]]:
    """Positions and distances of the `nearest` gallery images of other classes, by anchor (positions, (A,))."""
    found: dict[int, list[tuple[int, float]]] = {}
    for label in stored.labels[anchors].unique():
        own = anchors[stored.labels[anchors] == label]
        offered = (stored.gallery & (stored.labels != label)).nonzero().squeeze(1)
        if len(offered) < nearest:
            raise ValueError(
                f"{nearest}: the gallery has {len(offered)} images of other classes than that of label {int(label)}"
            )
        embeddings = stored.embeddings
        near = neighbours(embeddings.select(own), embeddings.select(offered), nearest)
        for anchor, index, distance in zip(own.tolist(), near.indices, near.distances.tolist(), strict=True):
            found[anchor] = list(zip(offered[index].tolist(), distance, strict=True))
    return found


def _compared(anchor: int, lists: Sequence[Sequence[tuple[int, float]]]) -> Compared:
    positions = [{position for position, _ in each} for each in lists]
    first, second = (
        tuple(Negative(position, distance, position not in other) for position, distance in each)
        for each, other in zip(lists, reversed(positions), strict=True)
    )
    return Compared(anchor, (first, second))


# The picture, laid out in inches

GAP, CAPTION, NAME, HEAD = 0.06, 0.29, 0.2, 0.74


def draw_hard_negatives(
    path: Path,
    shown: Sequence[Compared],
    names: tuple[str, str],
    metrics: tuple[str, str],
    captions: Sequence[str],
    pictures: Pictures,
    data: Mapping[str, object],
    *,
    title: str,
) -> list[Path]:
    """Write two rows for each anchor as PNG, and `data` as .json. captions: the class of each image by its position."""
    columns = len(shown[0].lists[0])
    size = min(1.0, (WIDTH - 2 * GAP - NAME) / (columns + 1) - GAP)
    width = 2 * GAP + NAME + (columns + 1) * (size + GAP)
    band = 2 * (size + CAPTION) + 0.14
    figure = new_figure(max(width, WIDTH), HEAD + band * len(shown))
    figure.set_layout_engine("none")
    _heading(figure, title, names, metrics)
    for place, one in enumerate(shown):
        top = HEAD + band * place
        middle = top + (2 * (size + CAPTION) - size) / 2 - CAPTION / 2
        axes = _place(figure, GAP, middle, size)
        _picture(axes, pictures(torch.tensor([one.anchor]))[0], f"anchor\n{_short(captions[one.anchor])}")
        for row, (name, negatives) in enumerate(zip(names, one.lists, strict=True)):
            y = top + row * (size + CAPTION)
            _vertical(figure, GAP + size + 0.13, y + size / 2, _short(name, 18))
            images = pictures(torch.tensor([negative.position for negative in negatives]))
            for column, (negative, image) in enumerate(zip(negatives, images, strict=True)):
                axes = _place(figure, GAP + size + NAME + GAP + column * (size + GAP), y, size)
                _picture(axes, image, f"{_short(captions[negative.position])}\n{negative.distance:.4g}")
                if negative.only:
                    _mark(axes)
        if place:
            _line(figure, top - 0.09)
    return save(figure, path, data)


def _heading(figure: Figure, title: str, names: tuple[str, str], metrics: tuple[str, str]) -> None:
    height = figure.get_figheight()
    text = " and ".join(f"{name} ({metric})" for name, metric in zip(names, metrics, strict=True))
    left = GAP / figure.get_figwidth()
    figure.text(left, 1 - 0.07 / height, title, fontsize=TITLE, va="top")
    figure.text(left, 1 - 0.3 / height, f"of {text}, with class and distance", fontsize=TEXT - 1, va="top")
    note = "Framed, with a filled corner: not among those of the other model"
    figure.text(left, 1 - 0.47 / height, note, fontsize=TEXT - 1, va="top")


def _place(figure: Figure, x: float, y: float, size: float) -> Axes:
    """A square, x inches from the left and y from the top."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    return figure.add_axes((x / width, 1 - (y + size) / height, size / width, size / height))


def _picture(axes: Axes, image: Tensor, caption: str) -> None:
    grey = image.shape[-1] == 1
    axes.imshow(image.squeeze(-1).numpy() if grey else image.numpy(), cmap="gray" if grey else None, vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#BBBBBB")
    axes.set_xlabel(caption, fontsize=TEXT - 3, labelpad=2, linespacing=1.05)


def _mark(axes: Axes) -> None:
    """A thick frame, and a corner that is seen in grey as well."""
    axes.spines[:].set_color(FRAME)
    axes.spines[:].set_linewidth(2.4)
    corner = Polygon(
        [(1, 1), (0.76, 1), (1, 0.76)], transform=axes.transAxes, facecolor=FRAME, edgecolor="white", linewidth=0.8
    )
    axes.add_patch(corner)


def _vertical(figure: Figure, x: float, y: float, text: str) -> None:
    place = (x / figure.get_figwidth(), 1 - y / figure.get_figheight())
    figure.text(*place, text, rotation=90, fontsize=TEXT - 2, ha="center", va="center")


def _line(figure: Figure, y: float) -> None:
    height = 1 - y / figure.get_figheight()
    figure.add_artist(Line2D([0.01, 0.99], [height, height], color="#CCCCCC", linewidth=0.8))


def _short(name: str, length: int = 15) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
