"""`hyplearn plot <kind>`: figures of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from hyplearn.errors import OK, ConfigError, nearest

# Of each kind the module and function that read its arguments, imported when it is called, and what it shows.
KINDS = {
    "hard-negatives": (
        "hard_negatives:hard_negatives",
        "the nearest images of other classes under two models, side by side (Yue Fig. 1)",
    ),
    "grid": ("grid:grid", "a metric over two settings, and models at equal tuning budget (Yue Figs. 2 and 4)"),
    "weights": ("weights:weights", "weights of the negatives of an anchor, sorted by distance (Yue Fig. 3)"),
    "embeddings": (
        "embeddings:embeddings",
        "embeddings in the Poincare disk or by UMAP, and their radii by class",
    ),
    "curvature": ("history:curvature", "curvatures over the epochs of one or more runs"),
    "convergence": ("history:convergence", "accuracy over epochs by group of runs, and epochs to an accuracy"),
}

HELP = """\
hyplearn plot <kind> <run ...> [options]

{kinds}

Every figure is written as PNG together with the numbers it shows. `hyplearn plot <kind> --help` lists the options."""


def plot(argv: Sequence[str]) -> int:
    """Run `hyplearn plot <argv>`."""
    kind, *rest = argv or ["--help"]
    if kind in ("-h", "--help"):
        width = max(map(len, KINDS))
        print(HELP.format(kinds="\n".join(f"  {name:<{width}}  {what}" for name, (_, what) in KINDS.items())))
        return OK
    if kind not in KINDS:
        raise ConfigError(f"hyplearn plot knows no {kind!r}.{nearest(kind, KINDS)} (kinds: {', '.join(KINDS)})")
    module, _, function = KINDS[kind][0].partition(":")
    status: int = getattr(import_module(f"hyplearn.cli.plot.{module}"), function)(rest)
    return status
