"""One package knows what a run's files are called: no other module spells their names in a path."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hyplearn
from hyplearn.runs import names

PACKAGE = Path(hyplearn.__file__).parent
# Names that mean nothing but a run's file wherever they stand, and words that do where they are part of a path.
FILES = {
    *(names.CONFIG, names.MANIFEST, names.METRICS, names.RESULTS, names.LOG, names.NON_FINITE, names.RERUN),
    *(names.TEST, names.LAST_BATCH, names.LOCK, names.HOLDER, names.CLAIM),
}
FOLDERS = {
    *(names.CHECKPOINTS, names.EMBEDDINGS, names.FIGURES, names.RETRIEVAL),
    *(names.EVALUATIONS, names.EXPORT, names.TENSORBOARD, names.WANDB),
}


def spelled(source: str) -> list[str]:
    """The names of a run's files in the code of a module; texts for people, with spaces in them, may mention them."""
    tree = ast.parse(source)
    in_paths = {id(node) for node in _parts_of_paths(tree)}
    return [
        f"line {node.lineno}: {node.value!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _names(node.value, id(node) in in_paths)
    ]


def _names(text: str, in_path: bool) -> bool:
    if any(character.isspace() for character in text):
        return False
    parts = text.split("/")
    is_path = in_path or len(parts) > 1
    return (
        any(part in FILES for part in parts)
        or any(part.endswith(names.CHECKPOINT_SUFFIX) for part in parts)
        or (is_path and any(part in FOLDERS for part in parts))
    )


def _parts_of_paths(tree: ast.AST) -> Iterator[ast.AST]:
    """What stands beside a slash, or is given to Path(...) and to the methods that make a path."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield from (node.left, node.right)
        elif isinstance(node, ast.Call) and _makes_path(node.func):
            yield from node.args


def _makes_path(function: ast.expr) -> bool:
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return called in {"Path", "joinpath", "with_name", "glob", "rglob"}


def test_only_the_room_of_runs_spells_the_names_of_their_files() -> None:
    modules = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "runs"]
    assert len(modules) > 200
    found = {str(path.relative_to(PACKAGE)): spelled(path.read_text(encoding="utf-8")) for path in modules}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        'path = folder / "results.json"',
        'NAME = "manifest.json"',
        'path = folder / "figures" / "loss.png"',
        'kept = Path("embeddings")',
        'found = folder.glob("wandb/*")',
        'noted = f"checkpoints/{name}"',
        'last = f"{name}.ckpt"',
        'folder.glob("*.ckpt")',
    ],
)
def test_a_name_in_a_path_is_found(source: str) -> None:
    assert len(spelled(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        'print(f"{folder} has no manifest.json: start it anew")',
        'key = "embeddings"',
        'version("wandb")',
        'path = folder / "summary.json"',
    ],
)
def test_texts_and_other_words_are_left_alone(source: str) -> None:
    assert spelled(source) == []
