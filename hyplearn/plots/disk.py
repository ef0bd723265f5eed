"""Embeddings in the Poincare disk: exact in two dimensions, an approximation that says so in more."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.stats import spearmanr
from torch import Tensor

from hyplearn.evaluation.metric import Metric
from hyplearn.geometry import lorentz, poincare
from hyplearn.geometry.isometry import lorentz_to_poincare, poincare_to_lorentz
from hyplearn.plots.classes import Group
from hyplearn.plots.style import GREY, TEXT, TITLE, WIDTH, new_figure, save

COMPARED = 400  # points whose distances tell how good an approximation is
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # between radius rings
RINGS = 8  # at most
ZOOM = 0.6  # half the width of the cloud below which the picture shows no more than that of the disk
EDGE = 0.999  # rings further out fall on the boundary
SPACING = 0.035  # of rings, as a share of half the width of the picture


Centre = Literal["origin", "centroid"]
CENTRES: tuple[Centre, ...] = get_args(Centre)


class Window(NamedTuple):
    """The square part of the plane that is shown: its middle, and half its width."""

    x: float
    y: float
    half: float

    @property
    def whole(self) -> bool:
        return self.half > 1

    def holds(self, points: Tensor) -> Tensor:
        """(N,), which of points (N, 2) lie well within."""
        return ((points - torch.tensor([self.x, self.y])).abs() < 0.94 * self.half).all(1)


@dataclass(frozen=True, eq=False)
class Disk:
    """Points (N, 2) of the open unit disk, float64; their distances there are sqrt(c) times those of the manifold.

    dim: of the manifold. centre: what lies in the middle of the disk. share: of the squared lengths of the tangent
    vectors there that lies in the plane of the picture. correlation: rank correlation of distances in the picture with
    true ones. Both 1 where the picture is exact.
    """

    points: Tensor
    c: float
    dim: int
    centre: Centre = "origin"
    share: float = 1.0
    correlation: float = 1.0

    @property
    def exact(self) -> bool:
        return self.dim <= 2

    def distances(self, rows: Tensor) -> Tensor:
        """Distances of the manifold, as the picture shows them, between points `rows` (M,): (M, M)."""
        x = self.points[rows]
        return poincare.dist(x[:, None], x, c=1.0) / math.sqrt(self.c)

    def __str__(self) -> str:
        if self.exact:
            return f"exact: the embedding is {self.dim}-dimensional"
        return (
            f"approximation: {self.dim} dimensions to 2 by tangent PCA at the {self.centre}, distances to the "
            f"{self.centre} kept;\n{100 * self.share:.0f} % of the squared length in the plane, rank correlation of "
            f"distances {self.correlation:.2f}"
        )


def place(points: Tensor, metric: Metric, *, centre: Centre | None = None, seed: int = 0) -> Disk:
    """Points (N, n) of a hyperbolic space in the disk.

    n <= 2: the isometry, with the origin in the middle. n > 2: the logarithms at the centre are turned into the plane
    of their two largest principal directions (not centred once more), and there given back their length: distances to
    the centre are exact, directions are not. centre: None for the one that keeps the order of distances better.
    seed: of the points whose distances are compared.
    """
    assert metric.c is not None
    c = metric.c
    x = points.double() if metric.kind == "lorentz" else poincare_to_lorentz(points.double(), c=c)
    dim = x.shape[1]
    if dim <= 2:
        ball = lorentz_to_poincare(x, c=c) if metric.kind == "lorentz" else points.double()
        return Disk(math.sqrt(c) * torch.nn.functional.pad(ball, (0, 2 - dim)), c, dim)
    tried = [_approximated(x, c, one, seed) for one in ((centre,) if centre is not None else CENTRES)]
    return max(tried, key=lambda disk: disk.correlation)  # of equals the first


def _approximated(x: Tensor, c: float, centre: Centre, seed: int) -> Disk:
    """Points (N, n) of the hyperboloid."""
    seen = x if centre == "origin" else lorentz.boost(x, -lorentz.centroid(x, c=c), c=c)
    v = lorentz.logmap0(seen, c=c)
    plane, share = _principal_plane(v)
    flat = v @ plane
    length = flat.norm(dim=1, keepdim=True)
    direction = torch.where(length > 0, flat / length.clamp_min(1e-300), torch.tensor([1.0, 0.0], dtype=flat.dtype))
    points = (math.sqrt(c) * v.norm(dim=1, keepdim=True) / 2).tanh() * direction
    return Disk(points, c, x.shape[1], centre, share, _correlation(Disk(points, c, 2), x, seed))


def _correlation(disk: Disk, x: Tensor, seed: int) -> float:
    """Rank correlation of distances, of some of the points; 1 where all are equal."""
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:COMPARED]
    i, j = torch.triu_indices(len(rows), len(rows), offset=1)
    true, shown = lorentz.dist(x[rows][i], x[rows][j], c=disk.c), disk.distances(rows)[i, j]
    if len(true) < 2 or true.min() == true.max() or shown.min() == shown.max():
        return 1.0
    return float(spearmanr(true.numpy(), shown.numpy()).statistic)


def _principal_plane(v: Tensor) -> tuple[Tensor, float]:
    """Two orthonormal directions (n, 2) and the share of the squared lengths along them; signs are fixed."""
    values, vectors = torch.linalg.eigh(v.mT @ v)
    plane = vectors[:, [-1, -2]]
    largest = plane.gather(0, plane.abs().argmax(0, keepdim=True))
    total = values.clamp_min(0).sum()
    share = 1.0 if total == 0 else (values[-2:].clamp_min(0).sum() / total).item()
    return plane * largest.sign(), share


def geodesic(a: Tensor, b: Tensor, *, steps: int = 60) -> Tensor:
    """Points (steps, 2) of the geodesic from a to b (2,) of the unit disk."""
    x, y = (poincare_to_lorentz(p, c=1.0) for p in (a, b))
    t = torch.linspace(0, 1, steps, dtype=a.dtype).unsqueeze(1)
    return lorentz_to_poincare(lorentz.expmap(x, t * lorentz.logmap(x, y, c=1.0), c=1.0), c=1.0)


def window(points: Tensor) -> Window:
    """The whole disk, or the square around points (N, 2) where they fill a small part of it."""
    low, high = points.amin(0), points.amax(0)
    half = 0.58 * (high - low).max().item()
    if half > ZOOM:
        return Window(0.0, 0.0, 1.04)
    x, y = ((low + high) / 2).tolist()
    return Window(x, y, max(half, 1e-3))


def ring_radii(c: float, nearest: float, farthest: float, spacing: float) -> list[float]:
    """Distances from the middle at which rings stand: round numbers between two radii of the disk, apart by spacing."""
    near, far = (2 * math.atanh(min(radius, EDGE)) / math.sqrt(c) for radius in (nearest, farthest))
    step = next((step for step in STEPS if (far - near) / step <= RINGS), STEPS[-1])
    kept: list[float] = []
    for number in range(math.floor(near / step) + 1, math.floor(far / step) + 1):
        if not kept or disk_radius(number * step, c) - disk_radius(kept[-1], c) >= spacing:
            kept.append(number * step)
    return kept


def disk_radius(distance: float, c: float) -> float:
    """|p| of a point of the unit disk at a distance to the origin."""
    return math.tanh(math.sqrt(c) * distance / 2)


def neighbours(centroids: Tensor) -> Iterator[tuple[int, int]]:
    """Edges of the shortest tree between K points, given by distances (K, K)."""
    tree = minimum_spanning_tree(centroids.numpy()).tocoo()
    yield from sorted((int(i), int(j)) for i, j in zip(tree.row, tree.col, strict=True))


def draw_disk(
    path: Path,
    disk: Disk,
    shown: Tensor,
    classes: Sequence[Group],
    between: Tensor,
    *,
    title: str,
    rows: Sequence[Mapping[str, object]],
) -> list[Path]:
    """Write the picture and its points; returns both paths.

    shown: positions (M,) of the points that are drawn; centroids are of all. between: true distances of the centroids
    of those classes that are no others, (K, K). rows: what is saved of the M points, beside x and y.
    """
    seen = window(disk.points[shown])
    figure = new_figure(WIDTH, 5.55)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.008, 0.01, 4.72 / WIDTH, 4.72 / 5.55))
    _frame(axes, seen)
    _boundary(axes)
    _rings(axes, disk, disk.points[shown], seen)
    named = [group for group in classes if group.marker != "."]
    centroids = torch.stack([_centroid(disk.points[group.rows]) for group in named])
    for i, j in neighbours(between):
        axes.plot(*geodesic(centroids[i], centroids[j]).T.numpy(), color="black", linewidth=1.1, zorder=4)
    for group in reversed(classes):
        chosen = shown[group.rows[shown]]
        _scatter(axes, disk.points[chosen], group, size=16 if group in named else 8)
    for group, point in zip(named, centroids, strict=True):
        _scatter(axes, point.unsqueeze(0), group, size=110, edge="black", zorder=5)
    _legend(axes, classes, disk.centre)
    if not seen.whole:
        _overview(figure.add_axes((0.71, 0.02, 0.24, 0.24 * WIDTH / 5.55)), disk.points[shown], seen)
    figure.text(0.01, 0.985, f"{title}, c = {disk.c:.4g}", fontsize=TITLE, va="top")
    figure.text(0.01, 0.935, str(disk), fontsize=TEXT - 1, va="top")
    found = disk.points[shown].tolist()
    return save(figure, path, [{**row, "x": x, "y": y} for row, (x, y) in zip(rows, found, strict=True)])


def _centroid(points: Tensor) -> Tensor:
    return poincare.centroid(points, c=1.0)


def _frame(axes: Axes, seen: Window) -> None:
    axes.set_aspect("equal")
    axes.set_xlim(seen.x - seen.half, seen.x + seen.half)
    axes.set_ylim(seen.y - seen.half, seen.y + seen.half)
    axes.set_axis_off()


def _boundary(axes: Axes) -> None:
    axes.add_patch(Circle((0, 0), 1.0, facecolor="#FAFAFA", edgecolor="black", linewidth=1.6, zorder=0))


def _rings(axes: Axes, disk: Disk, points: Tensor, seen: Window) -> None:
    """Circles at round distances, each labelled where it is farthest from the points (M, 2)."""
    middle = math.hypot(seen.x, seen.y)
    corner = min(middle + math.sqrt(2) * seen.half, 1.0)
    inner = 0.0 if seen.half > max(abs(seen.x), abs(seen.y)) else max(middle - math.sqrt(2) * seen.half, 0.0)
    for distance in ring_radii(disk.c, inner, corner, SPACING * seen.half):
        radius = disk_radius(distance, disk.c)
        axes.add_patch(
            Circle((0, 0), radius, fill=False, edgecolor=GREY, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
        )
        place = _freest(radius, points, seen)
        if place is not None:
            axes.annotate(
                f"{distance:.4g}",
                place,
                ha="center",
                va="center",
                fontsize=TEXT - 2,
                color="#444444",
                bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"},
                zorder=6,
            )
    axes.plot([0], [0], "+", color="#444444", markersize=8, zorder=2)


def _freest(radius: float, points: Tensor, seen: Window) -> tuple[float, float] | None:
    """Return where on a circle around the origin, within the window, a label is farthest from all points."""
    angles = torch.arange(720, dtype=torch.float64) * (math.pi / 360)
    circle = radius * torch.stack([angles.cos(), angles.sin()], dim=1)
    circle = circle[seen.holds(circle)]
    if not len(circle):
        return None
    x, y = circle[int(torch.cdist(circle, points).amin(1).argmax())].tolist()
    return x, y


def _scatter(axes: Axes, points: Tensor, group: Group, *, size: float, edge: str = "white", zorder: float = 3) -> None:
    axes.scatter(
        points[:, 0].numpy(),
        points[:, 1].numpy(),
        s=size,
        color=group.colour,
        marker=group.marker,
        edgecolors=edge,
        linewidths=1.1 if edge == "black" else 0.25,
        zorder=zorder,
    )


def _legend(axes: Axes, classes: Sequence[Group], centre: Centre) -> None:
    handles = [
        Line2D([], [], linestyle="", color=g.colour, marker=g.marker, label=f"{g.name} ({int(g.rows.sum())})")
        for g in classes
    ]
    handles += [
        Line2D(
            [],
            [],
            linestyle="",
            color="white",
            marker="o",
            markeredgecolor="black",
            markersize=9,
            label="centroid of a class",
        ),
        Line2D([], [], color="black", linewidth=1.1, label="geodesics, shortest tree"),
        Line2D([], [], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), label=f"distance to the {centre}"),
    ]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=TEXT - 1)


def _overview(axes: Axes, points: Tensor, seen: Window) -> None:
    """The whole disk, with the part that the picture shows."""
    _frame(axes, Window(0.0, 0.0, 1.04))
    _boundary(axes)
    axes.plot(*points.T.numpy(), ".", color="#666666", markersize=1.5)
    side = max(2 * seen.half, 0.05)
    corner = (seen.x - side / 2, seen.y - side / 2)
    axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="black", linewidth=0.9))
    axes.set_title("part of the disk that is shown", fontsize=TEXT - 1)
