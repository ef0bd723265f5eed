"""Data of one's own: loaders with the numbers that a model needs, and sources with defaults."""

from __future__ import annotations

import torch

from hyplearn.data.datamodule import ImageDataModule
from tests.support.own_parts import OwnData, OwnSource


def test_images_without_ids_get_numbers_within_their_batch() -> None:
    images, labels = torch.zeros(4, 1, 8, 8), torch.tensor([3, 1, 2, 0])
    assert OwnData().on_after_batch_transfer((images, labels), 0)[2].tolist() == [0, 1, 2, 3]
    assert OwnData().on_after_batch_transfer((images, labels, labels + 5), 0)[2].tolist() == [8, 6, 7, 5]


def test_the_fingerprint_says_what_is_known() -> None:
    found = OwnData().fingerprint
    assert found == {
        "name": "OwnData", "in_channels": 1, "num_classes": 10, "image_size": 8, "batch_size": 16, "counts": {}
    }  # fmt: skip


def test_a_source_of_ones_own_goes_into_the_data_module() -> None:
    data = ImageDataModule(OwnSource(), batch_size=16, mean=[0.5], std=[0.5], val_fraction=0.25)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert data.fingerprint["name"] == "OwnSource"
    assert data.fingerprint["counts"] == {"train": 60, "val": 20, "test": 20}
