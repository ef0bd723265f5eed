"""Pictures as files: the digits that no retrieval run has seen."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from hyplearn.data.sources.retrieval_arrays import DigitsRetrieval


def write_unseen_digits(folder: Path, *, each: int) -> Path:
    """Write `each` pictures of every unseen digit below folders of their classes."""
    test = DigitsRetrieval().part(None, "test")
    assert test is not None
    for label in test.labels.unique().tolist():
        name = test.class_names[label]
        rows = (test.labels == label).nonzero().squeeze(1)[:each]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for row in rows.tolist():
            Image.fromarray(test.images.pixels[row, ..., 0].numpy()).save(folder / name / f"{row:04d}.png")
    return folder
