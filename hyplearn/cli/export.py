"""`hyplearn export`: a trained model as a folder that explains itself and needs no run directory."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.cli.parser import Parser
from hyplearn.errors import FAILED, OK, ConfigError
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    from torch import Tensor

    from hyplearn.evaluation.store import Stored
    from hyplearn.inference.open import Opened

DESCRIPTION = """
Write a folder that `hyplearn predict`, `hyplearn embed` and other programs can use without the run:
  model.safetensors    weights; its header tells every manifold, its curvature, and the geometry of
                       the embedding
  config.yaml          the resolved configuration, from which the model is rebuilt
  preprocessing.json   what makes the model's input of an image
  README.md            a model card written from the run's own record"""
ONNX = ("onnx", "onnxscript", "onnxruntime")
CHECKED_IMAGES = 512
# Files that not every export has.
EXTRA = (
    *("encoder.onnx", "search.py", "thumbnails.npz"),
    *("gallery.faiss", "gallery.json", "gallery.npz", "gallery.safetensors"),
)


def export(argv: Sequence[str]) -> int:
    """Write the folder. Raises ConfigError; returns 1 if the ONNX graph or the index is not what it should be."""
    options = export_parser().parse_args(list(argv))
    folder = _check(options)
    with writing(folder):
        return _write(options, folder)


def _write(options: argparse.Namespace, folder: Path) -> int:
    """Write the files of the folder and say what they are."""
    from hyplearn.inference.open import WEIGHTS, open_trained

    opened = open_trained(options.run, checkpoint=_checkpoint(options), device="cpu", trust=options.trust)
    gallery = _gallery(options, opened) if options.index else None
    from hyplearn.inference.export import preprocessing, write_weights
    from hyplearn.runs.atomic import write_json

    channels, size = opened.facts["in_channels"], opened.facts["image_size"]
    smoke = opened.config["scale"] == "smoke"
    for name in EXTRA:  # of an earlier export, of other weights
        (folder / name).unlink(missing_ok=True)
    write_weights(
        folder / WEIGHTS,
        opened.model,
        sizes=_sizes(opened),
        data=opened.facts,
        selection=opened.selection,
        smoke=smoke,
    )
    _store_config(folder, opened.config)
    write_json(folder / "preprocessing.json", preprocessing(opened.data, channels=channels, size=size))
    parts = [f"- `{WEIGHTS}`, `config.yaml`: the model", "- `preprocessing.json`: from an image to the model's input"]
    failures: list[str] = []
    for wanted, write in (
        (options.onnx, lambda: _onnx(folder, opened)),
        (gallery, lambda: _index(folder, gallery, opened)),
        (options.onnx and gallery, lambda: _standalone(folder)),
    ):
        if wanted:
            _attempt(write, parts, failures)
    _write_card(folder, opened, parts)
    print("\n".join(["SMOKE RUN: no number of this model means anything"] if smoke else []), end="\n" if smoke else "")
    print(f"{opened.selection}; written to {folder}:")
    print("\n".join(f"  {path.name}" for path in sorted(folder.iterdir())))
    for line in parts[2:]:
        print(line.removeprefix("- "))
    for failure in failures:
        print(f"failed: {failure}")
    return FAILED if failures else OK


def export_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "export",
        DESCRIPTION,
        needs="a run directory",
        examples="""
hyplearn export outputs/hyp_vit_s_cub/2025-01-31_12-00-00_seed1_ab12 --index
hyplearn export outputs/hecnn_r18_cifar10/... --output models/hecnn --onnx""",
        more='In Python: hyplearn.inference.open.load_exported(Path("models/hecnn")).',
    )
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument(
        "--output", type=Path, help="the folder; <run directory>/export. An earlier export there is replaced"
    )
    parser.add_argument(
        "--checkpoint",
        help="best, last or a file; by default the tested one. Results of the card are of the tested one alone",
    )
    parser.add_argument(
        "--onnx",
        action="store_true",
        help="encoder.onnx as well, compared with the network on random and on test images; needs pip install "
        "'hyplearn[onnx]'",
    )
    parser.add_argument(
        "--index",
        action="store_true",
        help="the run's test gallery as a FAISS index (gallery.faiss), its coordinates (gallery.npz), and how to ask "
        "(gallery.json), for hyplearn search, predict and serve; with --onnx also search.py, which needs no hyplearn",
    )
    parser.add_trust()
    parser.add_argument(
        "--gallery",
        type=Path,
        help="with --index: a folder of pictures, or embeddings of `hyplearn embed`, instead of the run's test",
    )
    return parser


def _check(options: argparse.Namespace) -> Path:
    """What can be told before anything is read; returns the folder to write."""
    from hyplearn.config.stored import check
    from hyplearn.runs.directory import RunDirectory

    if options.run.is_file():
        raise ConfigError(
            f"{options.run} is a checkpoint: name its run directory, and --checkpoint {options.run} beside it."
        )
    run = RunDirectory.locate(options.run)
    check(run.config, run.config_file, trust=options.trust)  # before torch is imported
    if (options.run / "model.safetensors").is_file():
        raise ConfigError(f"{options.run} is an export already: name the run directory it was made of.")
    if options.gallery is not None and not options.index:
        raise ConfigError(f"--gallery {options.gallery} would be ignored: it goes with --index.")
    missing = [name for name in ONNX if options.onnx and importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--onnx needs {', '.join(missing)}: pip install 'hyplearn[onnx]'.")
    folder: Path = options.output or run.export
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file: name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "model.safetensors").is_file():
        raise ConfigError(f"--output {folder} holds other files: name a new folder, or an earlier export.")
    return folder


def _checkpoint(options: argparse.Namespace) -> Path | None:
    """The checkpoint that was asked for, None for the tested one. Raises ConfigError if it is not there."""
    if options.checkpoint is None:
        return None
    from hyplearn.runs.directory import RunDirectory
    from hyplearn.runs.names import BEST, LAST

    run, named = RunDirectory(options.run), options.checkpoint in (BEST, LAST)
    path = run.checkpoint(options.checkpoint) if named else Path(options.checkpoint)
    if not path.is_file():
        there = ", ".join(run.checkpoint_names()) or "none"
        raise ConfigError(f"--checkpoint {options.checkpoint}: {path} does not exist ({options.run} has: {there}).")
    return path


def _gallery(options: argparse.Namespace, opened: Opened) -> tuple[Stored, Sequence[Path]]:
    """The embeddings of the index, and its pictures where they are known. Raises ConfigError."""
    from hyplearn.inference.open import load_gallery

    if options.gallery is None or not options.gallery.is_dir():
        return load_gallery(opened, options.gallery), ()
    from hyplearn.console.counting import counting
    from hyplearn.data.errors import DatasetError
    from hyplearn.data.outside_images import find_images
    from hyplearn.inference.embedding_cache import embed_files
    from hyplearn.inference.searching import stored_of_files
    from hyplearn.models.digest import weights_digest

    try:
        found = find_images([options.gallery])
    except DatasetError as error:
        raise ConfigError(f"--gallery: {error}.") from error
    with counting("gallery") as progress:
        embedded = embed_files(
            opened,
            found.paths,
            batch_size=opened.data.eval_batch_size,
            skip_unreadable=False,
            progress=progress,
        )
    weights = weights_digest(opened.model.model)
    return stored_of_files(found, embedded, selection=opened.selection, weights=weights), found.paths


def _sizes(opened: Opened) -> list[int]:
    """n of each space of the embedding."""
    network: Any = opened.model.model
    return list(network.sizes) if opened.model.retrieval else [network.embedding_size]


def _store_config(folder: Path, config: dict[str, Any]) -> None:
    from hyplearn.runs.directory import RunDirectory

    RunDirectory(folder).write_config({**config, "output_dir": None, "resume": None})


def _attempt(write: Any, parts: list[str], failures: list[str]) -> None:
    """A part that may turn out to be impossible must not cost the others."""
    try:
        parts.append(write())
    except ValueError as error:
        failures.append(str(error))


def _onnx(folder: Path, opened: Opened) -> str:
    """Write and compare the graph; returns its line of the card."""
    from hyplearn.inference.onnx import compare, output_names, write_onnx

    channels, size = opened.facts["in_channels"], opened.facts["image_size"]
    path = folder / "encoder.onnx"
    print("writing the ONNX graph, which takes a minute for a deep network ...", flush=True)
    write_onnx(path, opened.model, channels=channels, size=size)
    images, why_none = _test_images(opened)
    found = compare(path, opened.model, channels=channels, size=size, images=images)
    worst = ", ".join(f"{name} {a:.2g} of {b:.3g}" for name, (a, b) in found.differences.items())
    compared = f"{found.random} random images" + (f" and {found.images} test images" if found.images else "")
    lines = f"- `encoder.onnx`: normalised `images` to {', '.join(output_names(opened.model))}; "
    lines += f"largest difference from the network on {compared}: {worst}"
    if found.same_neighbours is not None:
        lines += f"; the {found.k} nearest of the test images are the same for {found.same_neighbours:.1%}"
        if found.same_neighbours < 1:
            lines += f" ({found.tied_neighbours:.1%} with those that are as far to five digits)"
    if found.same_class is not None:
        lines += f", the class for {found.same_class:.1%}"
    return lines if why_none is None else f"{lines}; not compared on test images ({why_none})"


def _test_images(opened: Opened) -> tuple[Tensor | None, str | None]:
    """Up to CHECKED_IMAGES normalised test images, or why there are none."""
    import torch

    from hyplearn.data.errors import DatasetError

    data = opened.data
    try:
        if data.source.in_files and (data.root is None or not data.root.is_dir()):
            return None, f"{data.source.name} is not below {data.root}"
        data.prepare_data()
        data.setup("test")
    except DatasetError as error:
        return None, str(error).splitlines()[0]
    parts: list[Tensor] = []
    for images, _, _ in data.batches("test"):
        parts.append(images)
        if sum(map(len, parts)) >= CHECKED_IMAGES:
            break
    return torch.cat(parts)[:CHECKED_IMAGES], None


def _index(folder: Path, gallery: tuple[Stored, Sequence[Path]] | None, opened: Opened) -> str:
    """Write and check the index; returns its line of the card."""
    from hyplearn.inference.export import write_index
    from hyplearn.inference.thumbnails import write_thumbnails

    assert gallery is not None
    stored, pictures = gallery
    found = write_index(folder, stored, opened.model)
    if pictures:
        write_thumbnails(folder, pictures)
    images = f"{int(stored.gallery.sum()):,} gallery images under {stored.embeddings}"
    if found is None:
        return f"- `gallery.npz`, `gallery.json`: {images}; a sum is no inner product, so that there is no FAISS index"
    return (
        f"- `gallery.faiss`, `gallery.npz`, `gallery.json`: {images}, "
        f"with ids and the recipe for a query; of {found.queries} queries the {found.k} nearest are the exact ones for "
        f"{found.reranked:.1%} when re-ranked as the recipe says, for {found.plain:.1%} straight from the index"
    )


def _standalone(folder: Path) -> str:
    """Write the script; returns its line of the card."""
    from hyplearn.inference.export import write_standalone_search

    if not all((folder / name).is_file() for name in ("encoder.onnx", "gallery.npz")):
        raise ValueError("search.py is left out: it needs the graph and the gallery")
    write_standalone_search(folder)
    return "- `search.py`: searches the gallery with onnxruntime, FAISS, Pillow and NumPy alone"


def _write_card(folder: Path, opened: Opened, parts: Sequence[str]) -> None:
    from hyplearn.config.build import reads_pretrained
    from hyplearn.inference.export import manifolds
    from hyplearn.inference.model_card import Facts, model_card
    from hyplearn.runs.atomic import write_text
    from hyplearn.runs.directory import RunDirectory

    run, config = RunDirectory(opened.folder), opened.config
    pretrained = reads_pretrained(config["model"], image_size=opened.facts["image_size"])
    facts = Facts(
        config=config,
        manifest=run.manifest,
        results=run.results,
        manifolds=manifolds(opened.model.model),  # type: ignore[arg-type]
        sizes=_sizes(opened),
        selection=opened.selection,
        tested=opened.tested,
        pretrained=str(config["model"].get("weights") or config["model"]["backbone"]) if pretrained else None,
        parts=parts,
    )
    write_text(folder / "README.md", model_card(opened.model, facts))
