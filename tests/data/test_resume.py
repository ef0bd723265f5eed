"""Lightning stops a run anywhere and goes on from the checkpoint: the same batches, the same weights, bit for bit."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torchvision.transforms import v2

from hyplearn.data.batches.transforms import Augmentation
from hyplearn.data.datamodule import ImageDataModule
from hyplearn.data.sources.folder import ImageFolder
from hyplearn.data.sources.synthetic import Synthetic

EPOCHS, BATCHES = 3, 4


class Classifier(pl.LightningModule):
    """Notes the batches it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 8 * 8, 10)
        self.seen: list[tuple[int, list[int], Tensor]] = []
        self.evaluated: list[list[int]] = []

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels, ids = batch
        self.seen.append((self.current_epoch, ids.tolist(), images.sum()))
        return nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        self.evaluated.append(batch[2].tolist())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class StopAfter(Callback):
    """Saves a checkpoint after `step` steps and stops, as a signal would."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


MakeData = Callable[[], ImageDataModule]


def trainer(root: Path, *callbacks: Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        default_root_dir=root,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        num_sanity_val_steps=0,
        **options,
    )


def in_memory() -> ImageDataModule:
    """38 training images: three batches of 12, and one of 2."""
    source = Synthetic(image_size=8, train_size=42, test_size=10)
    augmentation = Augmentation(crop_padding=2, horizontal_flip=0.5)
    return ImageDataModule(
        source, batch_size=12, mean=[0.5], std=[0.25], augmentation=augmentation, seed=4, val_fraction=0.1
    )


def run(
    root: Path, make_data: MakeData, *callbacks: Callback, resume: Path | None = None, **options: Any
) -> Classifier:
    model, weights_only = Classifier(), None if resume is None else True
    with contextlib.suppress(SystemExit):  # how Lightning leaves on a KeyboardInterrupt
        trainer(root, *callbacks, **options).fit(
            model, datamodule=make_data(), ckpt_path=resume, weights_only=weights_only
        )
    return model


def assert_same(model: Classifier, first: list[Any], expected: Classifier) -> None:
    seen = [*first, *model.seen]
    assert [(epoch, ids) for epoch, ids, _ in seen] == [(epoch, ids) for epoch, ids, _ in expected.seen]
    assert all(torch.equal(a[2], b[2]) for a, b in zip(seen, expected.seen, strict=True))
    assert torch.equal(model.layer.weight, expected.layer.weight)


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),  # Lightning on new versions of PyTorch
    pytest.mark.filterwarnings("ignore:.*num_workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*ModelCheckpoint.*:UserWarning"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    model = run(tmp_path_factory.mktemp("whole"), in_memory)
    assert len(model.seen) == EPOCHS * BATCHES
    assert len({tuple(ids) for _, ids, _ in model.seen}) == EPOCHS * BATCHES
    return model


@pytest.mark.parametrize("step", range(1, EPOCHS * BATCHES))
def test_a_run_stopped_after_any_step_goes_on_bit_for_bit(step: int, undisturbed: Classifier, tmp_path: Path) -> None:
    stopped = run(tmp_path, in_memory, StopAfter(step, tmp_path / "last.ckpt"))
    assert len(stopped.seen) == step
    resumed = run(tmp_path, in_memory, resume=tmp_path / "last.ckpt")
    assert_same(resumed, stopped.seen, undisturbed)


@pytest.mark.parametrize("at", ["training epoch end", "validation end", "every 2 steps"])
def test_checkpoints_of_lightning_are_resumed_bit_for_bit(at: str, undisturbed: Classifier, tmp_path: Path) -> None:
    when: dict[str, Any] = (
        {"every_n_train_steps": 2} if at == "every 2 steps" else {"save_on_train_epoch_end": at == "training epoch end"}
    )
    run(tmp_path, in_memory, ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **when))
    checkpoints = {int(path.stem.split("=")[1]): path for path in tmp_path.glob("*.ckpt")}
    assert len(checkpoints) == (6 if at == "every 2 steps" else 3)
    for step, path in checkpoints.items():
        resumed = run(tmp_path, in_memory, resume=path)
        assert_same(resumed, undisturbed.seen[:step], undisturbed)


@pytest.mark.parametrize("options", [{"limit_train_batches": 3}, {"accumulate_grad_batches": 2}])
def test_other_ways_to_count_steps(options: dict[str, Any], tmp_path: Path) -> None:
    whole = run(tmp_path, in_memory, **options)
    steps = EPOCHS * (3 if "limit_train_batches" in options else 2)
    for step in range(1, steps):
        stopped = run(tmp_path, in_memory, StopAfter(step, tmp_path / f"{step}.ckpt"), **options)
        resumed = run(tmp_path, in_memory, resume=tmp_path / f"{step}.ckpt", **options)
        assert_same(resumed, stopped.seen, whole)


def test_validation_sees_every_held_out_image_once_an_epoch(undisturbed: Classifier) -> None:
    assert len(undisturbed.evaluated) == EPOCHS
    for ids in undisturbed.evaluated:
        assert len(ids) == len(set(ids)) == 4
    trained = {i for _, ids, _ in undisturbed.seen for i in ids}
    assert not trained & set(undisturbed.evaluated[0])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(("num_workers", "cache"), [(0, "none"), (1, "none"), (2, "disk")])
def test_images_in_files_are_resumed_too(
    num_workers: int, cache: Literal["none", "disk"], folder_root: Path, tmp_path: Path
) -> None:
    def in_files() -> ImageDataModule:
        return ImageDataModule(
            ImageFolder(),
            batch_size=6,
            mean=[0.5],
            std=[0.25],
            root=folder_root,
            image_size=8,
            num_workers=num_workers,
            cache=cache,
            train_transform=v2.RandomResizedCrop(8),
        )

    whole = run(tmp_path, in_files)
    assert len(whole.seen) == EPOCHS * 3
    stopped = run(tmp_path, in_files, StopAfter(4, tmp_path / "last.ckpt"))
    assert_same(run(tmp_path, in_files, resume=tmp_path / "last.ckpt"), stopped.seen, whole)
    assert not multiprocessing.active_children()


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero:UserWarning")
def test_without_validation_images_lightning_skips_validation(tmp_path: Path) -> None:
    def no_validation() -> ImageDataModule:
        return ImageDataModule(
            Synthetic(image_size=8, train_size=24), batch_size=12, mean=[0.5], std=[0.25], val_fraction=0
        )

    model = run(tmp_path, no_validation)
    assert len(model.seen) == EPOCHS * 2
    assert model.evaluated == []


def test_images_are_doubles_in_double_precision(tmp_path: Path) -> None:
    class Double(Classifier):
        def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
            assert batch[0].dtype == torch.float64
            return super().training_step(batch, batch_idx)

    model = Double()
    trainer(tmp_path, precision="64-true").fit(model, datamodule=in_memory())
    assert len(model.seen) == EPOCHS * BATCHES
