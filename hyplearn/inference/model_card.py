"""README.md of an exported model, written from what its run recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hyplearn.inference.prediction import Trained
from hyplearn.papers.render import markdown_text

MEASURES = ("top1", "top5", "recall@", "map@r", "r_precision", "nmi", "ami", "loss", "queries", "lone_queries")
PACKAGES = ("hyplearn", "python", "torch", "torchvision", "timm", "geoopt", "numpy", "pillow")

SMOKE = (
    "> **SMOKE RUN.** Small data stood in for the real ones to see that the configuration runs from end to end. "
    "Nothing that this model answers and no number below means anything."
)
ON_TEST = "> **SELECTED ON TEST.** The checkpoint was chosen by the test classes: its numbers are no estimate."


class Facts(NamedTuple):
    """Of a run. tested: whether the exported weights are those that the results are of. pretrained: the published
    weights that training started from. parts: what lies beside the card, a line of Markdown each."""

    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    results: Mapping[str, Any]
    manifolds: Mapping[str, Mapping[str, Any]]
    sizes: Sequence[int]
    selection: str
    tested: bool
    pretrained: str | None
    parts: Sequence[str]


def model_card(model: Trained, facts: Facts) -> str:
    """Markdown with the front matter of the Hugging Face hub."""
    name = markdown_text(f"{facts.config['choices']['model']} on {facts.manifest['dataset']['name']}")
    warnings = [SMOKE] if facts.config.get("scale") == "smoke" else []
    warnings += [ON_TEST] if facts.manifest["dataset"].get("selection") == "test" else []
    sections = {
        "Use": _use(model),
        "Geometry": _geometry(model, facts),
        "Data": _data(facts),
        "Results": _results(facts),
        "How it was made": _made(facts),
        "Files": "\n".join(facts.parts),
        "Terms": _terms(facts),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return "\n\n".join([_front_matter(model), f"# {name}", *warnings, _summary(model, facts), body]) + "\n"


def _front_matter(model: Trained) -> str:
    task = "image-feature-extraction" if model.retrieval else "image-classification"
    lines = ["library_name: hyplearn", f"pipeline_tag: {task}", "tags: [hyperbolic, computer-vision]"]
    return "\n".join(["---", *lines, "---"])


def _summary(model: Trained, facts: Facts) -> str:
    kind = "A retrieval model: images become embeddings" if model.retrieval else "A classifier of images"
    data = facts.manifest["dataset"]
    classes = "" if model.retrieval else f" in {data['num_classes']} classes"
    channels = "grey" if data["in_channels"] == 1 else "colour"
    count = sum(p.numel() for p in model.model.parameters())
    return (
        f"{kind}{classes}, of {data['image_size']} x {data['image_size']} {channels} pixels. {count:,} parameters, "
        f"{facts.selection}."
    )


def _use(model: Trained) -> str:
    what = "outputs.points" if model.retrieval else "outputs.logits.softmax(-1), outputs.points"
    return f"""\
```
hyplearn predict <this folder> photos
hyplearn embed <this folder> photos --output photos.npz
```

```python
from pathlib import Path
from hyplearn.inference.open import load_exported

model = load_exported(Path("<this folder>"))
outputs = model(model.read([Path("photo.jpg")]))
{what}  # one tensor of points (images, n) for each space
```"""


def _geometry(model: Trained, facts: Facts) -> str:
    lines = []
    for size, metric in zip(facts.sizes, model.metrics, strict=True):
        where = "not compared by the loss" if metric is None else f"compared by {COMPARED[metric.kind]}"
        named = "" if metric is None else f"`{metric}`, "
        lines.append(f"- embedding of {size} numbers, {named}{where}")
    lines += [
        f"- curvature of {name}: {facts_of['kind']}, c = {facts_of['c']:.6g} (sectional curvature -c), "
        + ("learned" if facts_of["learned"] else "fixed")
        for name, facts_of in facts.manifolds.items()
    ]
    return "\n".join(lines)


COMPARED = {
    "lorentz": "geodesic distance, space coordinates of the hyperboloid",
    "poincare": "geodesic distance, coordinates of the ball",
    "sphere": "cosine",
    "euclidean": "Euclidean distance",
}


def _data(facts: Facts) -> str:
    data = facts.results.get("dataset") or facts.manifest["dataset"]
    counts = ", ".join(f"{count:,} {part}" for part, count in data["counts"].items())
    lines = [f"- {markdown_text(str(data['name']))}: {counts} images"]
    lines += [f"- SHA-256 of the {part} data: `{digest}`" for part, digest in data["sha256"].items()]
    lines += [f"- validation: {100 * data['val_fraction']:g} % of the training {_held_out(data)}"]
    if data.get("limit_train"):
        lines.append(f"- trained on {data['limit_train']:,} images only")
    left_out = sum(map(len, data.get("skipped", {}).values()))
    return "\n".join([*lines, f"- {left_out} unreadable images left out"] if left_out else lines)


def _held_out(data: Mapping[str, Any]) -> str:
    return "classes" if "selection" in data else "images"


def _results(facts: Facts) -> str:
    if not facts.tested:
        return f"None: these are the {facts.selection}; a run tests its chosen checkpoint alone."
    chosen = facts.results["selection"]
    rows = [
        f"| {markdown_text(name)} | {value:{'.0f' if name.endswith('queries') else '.4g'}} |"
        for name, value in facts.results["metrics"].items()
        if name.startswith("test/") and name.rpartition("/")[2].startswith(MEASURES)
    ]
    rule = f"Weights of epoch {chosen['epoch']} of {facts.results['epochs']}, chosen by: {chosen['rule']}."
    return "\n".join([f"{rule} In percent, except losses and counts.", "", "| measure | value |", "|---|---|", *rows])


def _made(facts: Facts) -> str:
    session = facts.manifest["sessions"][-1]
    source, hardware = session["source"], session["hardware"]
    commit = "an installed package"
    if source:
        commit = f"`{source['commit']}`" + (" with changes" if source["dirty"] else "")
    versions = ", ".join(f"{name} {session['versions'][name]}" for name in PACKAGES if name in session["versions"])
    machine = ", ".join([hardware["processor"], *hardware.get("gpus", [])])
    lines = {
        "run": f"`{facts.manifest['run_id']}`, seed {facts.manifest['seed']}, started {session['started']}",
        "choices": f"`{_choices(facts.config)}`",
        "published cell": _paper(facts.config),
        "protocol": facts.config.get("protocol"),
        "commit": commit,
        "versions": versions,
        "machine": f"{machine}; precision {session['precision']}, {session['processes']} process(es)",
        "training": _duration(facts.results),
    }
    return "\n".join(f"- {name}: {value}" for name, value in lines.items() if value)


def _choices(config: Mapping[str, Any]) -> str:
    return " ".join(f"{group}={choice}" for group, choice in config["choices"].items() if choice is not None)


def _paper(config: Mapping[str, Any]) -> str | None:
    paper = config.get("paper")
    return f"`{json.dumps(paper)}`" if paper else None


def _duration(results: Mapping[str, Any]) -> str | None:
    return f"{results['epochs']} epochs in {results['seconds']:.0f} s" if "seconds" in results else None


def _terms(facts: Facts) -> str:
    text = (
        "The code of hyplearn is under the Apache License 2.0. Whether these weights may be used and passed on depends "
        f"on the terms of the data they were trained on, {facts.manifest['dataset']['name']}"
    )
    if facts.pretrained is not None:
        return f"{text}, and on those of the weights they started from, {facts.pretrained}."
    return f"{text}."
