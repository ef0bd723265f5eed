"""Batches of pictures that worker processes decode, crop and stack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hyplearn.data.errors import BadImageError
from hyplearn.data.randomness import derived_seed
from hyplearn.data.reading.pictures import Picture, Pictures

ToPixels = Callable[[Picture, Path], Tensor]
_Key: TypeAlias = tuple[int, int]  # epoch and sample
_Loader: TypeAlias = "DataLoader[Tensor | BadImageError]"


class ImageStream:
    """Images decoded for every batch by worker processes. The pixels depend on (seed, epoch, sample) alone.

    to_pixels: what makes pixels of a picture for training, and for evaluation. prefetch_factor: batches that each
    worker has ready or in work.
    """

    def __init__(
        self,
        pictures: Pictures,
        labels: Tensor,
        to_pixels: tuple[ToPixels, ToPixels],
        *,
        seed: int,
        workers: int,
        prefetch_factor: int = 2,
    ) -> None:
        self.pictures, self.labels, self.to_pixels, self.seed = pictures, labels, to_pixels, seed
        self.workers, self.prefetch_factor = workers, prefetch_factor
        self._samples = _Samples(pictures, to_pixels[0], seed)
        self._order = _Order()
        self._kept: _Loader | None = None

    def check_transforms(self) -> None:
        """Raises ValueError now, not in the first epoch, if a transform makes images of another size."""
        for stream in (self, self.for_evaluation()):
            _ = stream._samples[0, 0]

    def batches(self, order: Sequence[Tensor], *, epoch: int) -> Iterator[Tensor]:
        # Workers live as long as this pass: those kept by a loader end only when it is collected, seconds late.
        loader = self._loader(_Order(epoch, order), workers=min(self.workers, len(order)))
        yield from _good(loader)

    def batches_of_pass(self, order: Sequence[Tensor], *, epoch: int, pin_memory: bool = False) -> Iterator[Tensor]:
        """Yield the batches as `batches` does, by workers that stay for the next pass, until `close`.

        One pass at a time: a pass that was left early ends with the next. pin_memory: by a thread beside the workers.
        """
        self._order.epoch, self._order.batches = epoch, order
        if self._kept is None:
            self._kept = self._loader(self._order, workers=self.workers, keep=True, pin_memory=pin_memory)
        yield from _good(self._kept)

    def close(self) -> None:
        """End the workers that were kept. Another pass starts others."""
        kept, self._kept = self._kept, None
        running = None if kept is None else kept._iterator
        if running is not None:  # a pass that was left early still holds the loader, so that dropping it is not enough
            running._shutdown_workers()  # type: ignore[attr-defined]

    def _loader(self, order: _Order, *, workers: int, keep: bool = False, pin_memory: bool = False) -> _Loader:
        return DataLoader(
            self._samples,
            batch_sampler=order,
            num_workers=workers,
            prefetch_factor=self.prefetch_factor if workers else None,
            persistent_workers=keep and workers > 0,
            pin_memory=pin_memory,
            collate_fn=_collate,
            # A generator of its own: the loader would take a number from torch's global stream for every pass.
            generator=torch.Generator(),
        )

    def for_evaluation(self) -> ImageStream:
        return ImageStream(
            self.pictures,
            self.labels,
            (self.to_pixels[1], self.to_pixels[1]),
            seed=self.seed,
            workers=self.workers,
            prefetch_factor=self.prefetch_factor,
        )


def _good(loader: _Loader) -> Iterator[Tensor]:
    for pixels in loader:
        if isinstance(pixels, BadImageError):
            raise pixels
        yield pixels


class _Order:
    """The batches of a pass, told to the loader anew for each: it reads them where a pass begins."""

    def __init__(self, epoch: int = 0, batches: Sequence[Tensor] = ()) -> None:
        self.epoch, self.batches = epoch, batches

    def __iter__(self) -> Iterator[list[_Key]]:
        epoch = self.epoch
        for ids in self.batches:
            yield [(epoch, sample) for sample in ids.tolist()]

    def __len__(self) -> int:
        return len(self.batches)


class _Samples(Dataset["Tensor | BadImageError"]):
    """Sample (epoch, index) of the pictures, decoded in a worker process.

    A bad file is returned, not raised: across processes only the text of an exception would survive.
    """

    def __init__(self, pictures: Pictures, to_pixels: ToPixels, seed: int) -> None:
        self.pictures, self.to_pixels, self.seed = pictures, to_pixels, seed

    def __getitem__(self, key: _Key) -> Tensor | BadImageError:
        epoch, sample = key
        state = torch.get_rng_state()  # without workers this is the stream of the model's dropout
        torch.default_generator.manual_seed(derived_seed(self.seed, "transform", epoch, sample))
        try:
            return self.to_pixels(self.pictures.picture(sample), self.pictures.path(sample))
        except BadImageError as error:
            return error
        finally:
            torch.set_rng_state(state)


def _collate(samples: list[Tensor | BadImageError]) -> Tensor | BadImageError:
    pixels = []
    for sample in samples:
        if isinstance(sample, BadImageError):
            return sample
        pixels.append(sample)
    return torch.stack(pixels).permute(0, 3, 1, 2)
