"""Every printed row as a cell: the experiment that computes it, and which of its metrics stands for which printed one.

bdeir Tables 1 to 5 and yue Tables 1 and 2. A cell that has no experiment says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache

from hyplearn.papers.published import Entry, entries

DATASETS = {
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
    "Tiny-ImageNet": "tiny_imagenet",
    "CUB": "cub",
    "Cars": "cars",
    "SOP": "sop",
    "In-Shop": "inshop",
}
BACKBONES = {
    "ResNet-50": "r50",
    "BN-Inception": "bn_inception",
    "DeiT-S": "deit_s",
    "DINO": "dino_vit_s",
    "ViT-S": "vit_s",
}
SYSTEMS = ("MIC", "HTL", "ABE", "A-BIER", "HORDE", "SM", "IRT_R")
# Printed names of losses, and what they are called in configs/loss.
BASELINES = {
    "NSoftmax": "normalized_softmax",
    "MS": "multi_similarity",
    "SoftTriple": "soft_triple",
    "PA": "proxy_anchor",
    "Proxy-Anchor": "proxy_anchor",
    "ProxyNCA++": "proxy_nca_pp",
    "Margin": "margin",
    "FastAP": "fast_ap",
    "XBM": "xbm",
}
# bdeir Tables 2 and 3: printed names and models, without their depth.
CLASSIFIERS = {
    "Euclidean": "euclidean",
    "Hybrid Poincaré": "hybrid_poincare",
    "Hybrid Lorentz": "hybrid_lorentz",
    "Poincaré ResNet": "poincare_resnet",
    "HECNN Lorentz": "hecnn_original",
    "HECNN": "hecnn_original",
    "HECNN+": "hecnn",
    "HCNN Lorentz": "hcnn_original",
    "HCNN+": "hcnn",
}
ABLATIONS = {
    "HECNN+ - Default": "hecnn_r50",
    "HECNN+ - fixed curve": "hecnn_r50_fixed_curvature",
    "HECNN+ - no scaling": "hecnn_r50_no_rescaling",
    "HECNN+ - no optim scheme": "hecnn_r50_no_scheme",
}
# The backbones of the 512-d baselines that yue Table 2 quotes without one: those of the papers quoted.
QUOTED = {"NSoftmax": "ResNet-50", "ProxyNCA++": "ResNet-50"}
NO_SYSTEM = "a separate system, not implemented"
NO_VALUE = "the paper prints no value"
COSTS = "measured by hyplearn bench table4"


@dataclass(frozen=True)
class Cell:
    """What one row of a table prints for one data set, and how it is computed here.

    table: such as bdeir_table1. experiment: a choice of configs/experiment; None where `absent` says why there is none.
    measures: printed name of a metric to ours, {"R@1": "test/recall@1"}.
    """

    table: str
    entry: Entry
    experiment: str | None
    measures: Mapping[str, str]
    absent: str | None

    @property
    def name(self) -> str:
        """The experiment, or `<table>_<data set>_<method>` where there is none."""
        return self.experiment or f"{self.table}_{DATASETS[self.entry.dataset]}_{_slug(self.entry.method)}"

    @property
    def backbone(self) -> str | None:
        """Backbone of the row as it is computed; where a paper prints none, that of the paper it quotes."""
        return _backbone(self.entry)


def tables() -> tuple[str, ...]:
    """Every table, in the order of the papers."""
    return tuple(dict.fromkeys(cell.table for cell in _cells()))


def cells(table: str | None = None) -> tuple[Cell, ...]:
    """The cells of a table, or all of them. Raises ValueError for a table that is not there."""
    if table is None:
        return _cells()
    if table not in tables():
        raise ValueError(f"no table {table!r}: {', '.join(tables())}")
    return tuple(cell for cell in _cells() if cell.table == table)


def select(pattern: str) -> tuple[Cell, ...]:
    """The cells of a table, of an experiment, or of all experiments that fit a glob such as 'yue_table1_cub_*'.

    Raises ValueError with the nearest names if nothing fits.
    """
    if pattern in tables():
        return cells(pattern)
    found = tuple(cell for cell in _cells() if fnmatchcase(cell.name, pattern))
    if not found:
        raise ValueError(f"no table or experiment {pattern!r}{_nearest(pattern)}")
    return found


def _nearest(pattern: str) -> str:
    names = [*tables(), *dict.fromkeys(cell.name for cell in _cells())]
    near = get_close_matches(pattern, names, n=3)
    return f": did you mean {', '.join(near)}?" if near else f": tables are {', '.join(tables())}"


@cache
def _cells() -> tuple[Cell, ...]:
    found = tuple(_cell(entry) for entry in entries())
    _check_unique(cell.experiment for cell in found if cell.experiment)
    return found


def _check_unique(names: Iterable[str]) -> None:
    names = list(names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two cells have one experiment: {', '.join(twice)}")


def _cell(entry: Entry) -> Cell:
    table, absent = f"{entry.paper}_table{entry.table}", _absent(entry)
    experiment = None if absent else f"{table}_{DATASETS[entry.dataset]}_{_choice(entry)}"
    return Cell(table, entry, experiment, {} if absent else _measures(entry), absent)


def _absent(entry: Entry) -> str | None:
    """Why no experiment computes a row."""
    if (entry.paper, entry.table) == ("bdeir", 4):
        return COSTS
    if entry.method in SYSTEMS:
        return NO_SYSTEM
    if entry.blank and entry.table != 5:  # the ablation that diverged is printed without a value, too
        return NO_VALUE
    return None


def _choice(entry: Entry) -> str:
    """Return what an experiment is called behind its table and data set."""
    if entry.paper == "bdeir" and entry.table in (2, 3):
        return f"{CLASSIFIERS[entry.method]}_{'r18' if entry.table == 2 else 'r50'}"
    if entry.paper == "bdeir" and entry.table == 5:
        return ABLATIONS[entry.method]
    backbone = BACKBONES[_backbone(entry) or ""]
    if entry.method in BACKBONES:
        return f"pretrained_{backbone}"
    if entry.method in BASELINES:
        return f"{BASELINES[entry.method]}_{backbone}_{entry.embed_dim}"
    if entry.paper == "bdeir":
        return f"{entry.method.lower()}_{backbone}_{entry.embed_dim}"
    return f"{geometry(entry)}_{backbone}"


def geometry(entry: Entry) -> str | None:
    """sph, hyp, mix, hier or lhier of a row that trains in a geometry of these papers; None of another."""
    word = entry.method.split("-")[0].lower()
    return word if word in ("sph", "hyp", "mix", "hier", "lhier") else None


def _backbone(entry: Entry) -> str | None:
    if entry.backbone == "BN-Inception" and entry.method == "ProxyNCA++":
        return "ResNet-50"  # a slip of bdeir Table 1: the table of HIER, from which it is, has ResNet-50
    if entry.backbone is None and entry.method in BASELINES:
        return QUOTED.get(entry.method, "BN-Inception")
    return entry.backbone


def _measures(entry: Entry) -> dict[str, str]:
    """Return which of our metrics stands for which printed one.

    yue Table 2, the pretrained encoders and "Hyp" with 384 numbers in bdeir Table 1 read out the encoder. Mix is ranked
    by the cosine of its unit vector in yue Table 1, as its authors' code does.
    """
    if "accuracy" in entry.metrics:
        return {"accuracy": "test/top1"}
    encoder = entry.method in BACKBONES or (geometry(entry) is not None and _of_encoder(entry))
    part = ""
    if encoder:
        part = "backbone/"
    elif geometry(entry) == "mix":
        part = "sphere/"
    return {name: f"test/{part}recall@{name.removeprefix('R@')}" for name in entry.metrics}


def _of_encoder(entry: Entry) -> bool:
    if entry.paper == "yue":
        return entry.table == 2
    return entry.method == "Hyp" and entry.embed_dim == 384


def _slug(method: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", method.lower().replace("+", "p")).strip("_")
