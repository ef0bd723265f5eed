"""Write configs/experiment/<cell>.yaml for every cell of the papers' tables that has an experiment.

Recipes stand in configs/recipe; what a cell adds is its model, its loss and its published value.

    python scripts/make_experiments.py          # write what differs
    python scripts/make_experiments.py --check  # only say what differs; exit status 1 if something does
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hyplearn.papers.cells import BASELINES, CLASSIFIERS, DATASETS, Cell, cells, geometry

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "experiment"
DATASET_NAMES = {"CUB": "CUB-200-2011", "Cars": "Cars-196", "SOP": "Stanford Online Products", "In-Shop": "In-Shop"}
MODELS = {"ResNet-50": "r50", "DeiT-S": "deit_s", "DINO": "dino_vit_s", "ViT-S": "vit_s"}
RATES = {"DeiT-S": "3.0e-5", "DINO": "1.0e-5", "ViT-S": "3.0e-5"}  # Yue Section 4.2 and Hyp-ViT's commands
HIER_RATES = {"DeiT-S": "1.0e-5", "DINO": "5.0e-6", "ViT-S": "1.0e-5"}
ABLATIONS = {
    "HECNN+ - fixed curve": "curvature fixed",
    "HECNN+ - no scaling": "no rescaling",
    "HECNN+ - no optim scheme": "no optimizer scheme",
}
PAIRS = ("multi_similarity", "margin", "fast_ap", "xbm")  # compare images with images, not with proxies


@dataclass
class Experiment:
    """The parts of one file. choices: of groups. settings: lines below them. notes: further lines of comment."""

    choices: dict[str, str]
    settings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remark: str = ""


def classifier(cell: Cell) -> Experiment:
    """bdeir Tables 2, 3 and 5."""
    entry = cell.entry
    depth = "r18" if entry.backbone == "ResNet-18" else "r50"
    name = CLASSIFIERS.get(entry.method, "hecnn")
    plus = "+" in entry.method
    optim = {"euclidean": "sgd", "poincare_resnet": "radam"}.get(name, "rsgd")
    found = Experiment(
        {
            "recipe": f"bdeir_{'plus' if plus else 'classification'}_${{protocol}}",
            "model": f"{name}_{depth}",
            "optim": optim,
            "loss": "cross_entropy",
            "dataset": DATASETS[entry.dataset],
        }
    )
    if name == "poincare_resnet":
        found.notes = [
            "How this row was trained is not published: optimizer, rate and decay are those of its own authors."
        ]
    if entry.method == "HECNN+ - fixed curve":
        found.choices["manifold"] = "lorentz_fixed"
    if entry.method == "HECNN+ - no scaling":
        found.settings = [
            "model:",
            "  rescale: {entry: false, conv: none, norm: false, residual: false, transfer: false}",
        ]
    if entry.method == "HECNN+ - no optim scheme":
        found.settings = [
            "model:",
            "  norm: {coordinates: ambient} # points that can leave the manifold: in space coordinates none can",
            "optim:",
            "  optimizer: {curvature_scheme: false}",
        ]
    return found


def retrieval(cell: Cell) -> Experiment:
    """bdeir Table 1, yue Tables 1 and 2."""
    entry = cell.entry
    if entry.method in MODELS:
        return pretrained(cell)
    if entry.method in BASELINES:
        return baseline(cell)
    if geometry(entry) in ("hier", "lhier"):
        return hier(cell)
    if entry.backbone == "ResNet-50":
        return hyp_resnet(cell)
    return pairwise(cell)


def pairwise(cell: Cell) -> Experiment:
    """Sph, Hyp and Mix on a ViT."""
    entry, kind, dataset = cell.entry, geometry(cell.entry), DATASETS[cell.entry.dataset]
    backbone = entry.backbone or ""
    recipe = f"yue_{dataset}_${{protocol}}" if entry.paper == "yue" else f"hyp_vit_{dataset}"
    found = Experiment({"recipe": recipe, "model": f"{kind}_{MODELS[backbone]}", "dataset": dataset})
    if kind == "mix":
        weight = {"cub": 3.0, "cars": 8.0, "sop": 8.0}[dataset]
        found.settings = ["model:", "  head:", "    branches:", f"      poincare: {{weight: {weight}}}"]
        found.settings += ["loss: {tau: [0.1, 0.2]}"]
        found.remark = "" if entry.table == 2 else " # ranked by the cosine of the unit vector"
    elif kind == "sph":
        found.settings = ["loss: {tau: 0.1} # of D_cos: the 0.05 of the text divides cos"]
    else:
        found.settings = ["loss: {tau: 0.2}"]
    found.settings += [f"optim: {{lr: {RATES[backbone]}}}"]
    return found


def hyp_resnet(cell: Cell) -> Experiment:
    """Hyp on a ResNet-50, which the authors of HIER ran."""
    dataset = DATASETS[cell.entry.dataset]
    return Experiment(
        {"recipe": f"hyp_r50_{dataset}", "model": "hyp_r50", "optim": "radamw_hier", "dataset": dataset},
        ["loss: {tau: 0.2, reduction: m2}"],
    )


def hier(cell: Cell) -> Experiment:
    """HIER, and LHIER, which follows it."""
    entry, dataset = cell.entry, DATASETS[cell.entry.dataset]
    backbone = entry.backbone or ""
    family = "r50" if backbone == "ResNet-50" else "vit"
    found = Experiment(
        {
            "recipe": f"hier_{dataset}_{family}_${{protocol}}",
            "model": f"{geometry(entry)}_{MODELS[backbone]}",
            "dataset": dataset,
        },
        [f"model: {{head: {{size: {entry.embed_dim}}}}}"],
    )
    if family == "vit":
        found.settings += [f"optim: {{lr: {HIER_RATES[backbone]}}}"]
    return found


def baseline(cell: Cell) -> Experiment:
    """Other losses on a ResNet-50, or on what stands in for BN-Inception."""
    entry, dataset, loss = cell.entry, DATASETS[cell.entry.dataset], BASELINES[cell.entry.method]
    found = Experiment({"recipe": f"baseline_{dataset}", "model": "sph_r50", "loss": loss, "dataset": dataset})
    found.settings = [f"model: {{head: {{size: {entry.embed_dim}}}}}"]
    if cell.backbone == "BN-Inception":
        found.choices["backbone"] = "inception_v3"
        found.notes += ["Inception-v3 stands in for BN-Inception: expect other numbers."]
    if loss in PAIRS:
        found.settings += [
            f"dataset: {{sampler: class_balanced, images_per_class: {4 if dataset in SMALL else 2}, drop_last: false}}"
        ]
    if entry.method == "ProxyNCA++" and entry.backbone == "BN-Inception":
        found.notes += ["The paper prints BN-Inception, a slip: the table it quotes has ResNet-50, and larger images."]
    elif "†" in entry.marks:
        found.notes += ["The published value comes from larger images."]
    return found


SMALL = ("cub", "cars")  # data sets with many images of each class


def pretrained(cell: Cell) -> Experiment:
    """Encoders as they come, without training."""
    dataset = DATASETS[cell.entry.dataset]
    return Experiment(
        {"recipe": f"pretrained_{dataset}", "model": f"sph_{MODELS[cell.entry.method]}", "dataset": dataset}
    )


def title(cell: Cell) -> str:
    """The first line of a file: the cell and its published value."""
    entry = cell.entry
    paper = "Bdeir" if entry.paper == "bdeir" else "Yue"
    method = entry.method.replace("é", "e")
    data = DATASET_NAMES.get(entry.dataset, entry.dataset)
    return f"{paper} Table {entry.table}, {data}, {_described(cell, method)}: {_value(cell)}."


def _described(cell: Cell, method: str) -> str:
    entry = cell.entry
    if "accuracy" in entry.metrics:
        if method == "Poincare ResNet":
            return f"{method}, 18 layers"
        change = ABLATIONS.get(entry.method)
        return f"{method.partition(' - ')[0]} {entry.backbone}" + (f", {change}" if change else "")
    if entry.method in MODELS:
        return f"{method}, pretrained encoder without training"
    backbone = "" if "-" in method and entry.paper == "yue" and geometry(entry) else f", {cell.backbone}"
    if next(iter(cell.measures.values())).startswith("test/backbone/"):
        return f"{method}{backbone}, encoder of {entry.embed_dim} numbers"
    return f"{method}{backbone}, head of {entry.embed_dim} numbers"


def _value(cell: Cell) -> str:
    entry = cell.entry
    name, value = next(iter(entry.metrics.items()))
    if value is None:
        return "diverged (printed as NaaN)"
    if name != "accuracy":
        return f"{name.replace('R@', 'Recall@')} {value:g} %"
    spread = entry.std.get(name)
    if spread is None:
        return f"{_plain(value)} % top-1 (no spread given)"
    return f"{_plain(value)} % top-1, standard deviation {spread:.2f} over 5 runs"


def _plain(value: float | None) -> str:
    return "null" if value is None else f"{value:.2f}"


def paper(cell: Cell, remark: str) -> str:
    """The node that says which published value a run is compared with."""
    name, value = next(iter(cell.entry.metrics.items()))
    number = _plain(value) if name == "accuracy" or value is None else f"{value:g}"
    spread = cell.entry.std.get(name)
    std = f", std: {spread:.2f}" if spread is not None else ""
    return f"paper: {{key: {cell.table}, metric: {cell.measures[name]}, value: {number}{std}}}{remark}"


def text(cell: Cell) -> str:
    """The whole file."""
    found = classifier(cell) if "accuracy" in cell.entry.metrics else retrieval(cell)
    head = ["# @package _global_", f"# {title(cell)}", *(f"# {note}" for note in found.notes)]
    defaults = ["defaults:", *(f"  - override /{group}: {name}" for group, name in _ordered(found.choices))]
    return "\n".join([*head, *defaults, "", *found.settings, paper(cell, found.remark)]) + "\n"


ORDER = ("recipe", "model", "backbone", "manifold", "optim", "loss", "dataset")


def _ordered(choices: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(choices.items(), key=lambda item: ORDER.index(item[0]))


def files() -> dict[Path, str]:
    """Every file and what it should say."""
    return {FOLDER / f"{cell.experiment}.yaml": text(cell) for cell in cells() if cell.experiment}


def differing() -> dict[Path, str]:
    """The files that say something else, or are missing."""
    return {
        path: content
        for path, content in files().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != content
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say which files differ")
    check = parser.parse_args().check
    changed = differing()
    for path, content in changed.items():
        print(f"{'differs' if check else 'written'}: {path.relative_to(FOLDER.parent.parent)}")
        if not check:
            path.write_text(content, encoding="utf-8")
    print(f"{len(changed)} of {len(files())} {'differ' if check else 'written'}")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
