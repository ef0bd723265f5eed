"""Models on the Hugging Face Hub, or in a folder of the same form: how they are built, and their weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor, nn

from hyplearn.errors import ConfigError
from hyplearn.inference.open import open_trained
from hyplearn.inference.prediction import Trained
from hyplearn.library import create_model

HUB_FILE = "config.json"
ALLOWED = ("model.", "manifold.", "manifold=", "backbone=")


class HubModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="hyplearn",
    tags=["hyperbolic", "image-classification", "metric-learning"],
):
    """A model of `create_model` with `save_pretrained`, `push_to_hub` and `from_pretrained`.

    The arguments, those of `create_model` without `pretrained` and settings, are written to config.json beside the
    weights. What a stranger wrote there may choose among the models and their numbers alone: `overrides` change keys of
    model and manifold and name no class and no interpolation.
    """

    def __init__(
        self,
        name: str,
        *,
        num_classes: int | None = None,
        in_channels: int = 3,
        image_size: int | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for text in overrides:
            _check(text)
        self.network = create_model(
            name, num_classes=num_classes, in_channels=in_channels, image_size=image_size, overrides=overrides
        )

    def forward(self, images: Tensor) -> Any:
        """Logits, or the points of each space, as the network gives them."""
        return self.network(images)

    @property
    def spaces(self) -> nn.ModuleList:
        """The spaces of an embedding model."""
        return cast(nn.ModuleList, self.network.spaces)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of a point in each space of an embedding model."""
        return cast("tuple[int, ...]", self.network.sizes)

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        raise ConfigError(f"{model_file} is a pickle, which hyplearn does not read: store model.safetensors.")

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        """Load every weight: a missing or left over one raises, whatever `strict` says."""
        return super()._load_as_safetensor(model, model_file, map_location, True)


def _check(override: str) -> None:
    """Raise ConfigError for an override that does more than choose a number or a choice of the model."""
    named = isinstance(override, str) and override.startswith(ALLOWED)
    if not named or any(sign in override for sign in ("${", "_target_", "_args_", "_partial_")):
        raise ConfigError(
            f"overrides: {override!r} must change a key of model or manifold, or choose a manifold or a backbone, and "
            "name no class and no interpolation."
        )


def load(source: str | Path, *, device: str = "auto", trust: Sequence[str] = ()) -> Trained | HubModel:
    """Return the trained model of a run, a checkpoint, an export, or a folder or repository of the Hugging Face Hub.

    A repository, "owner/name", is fetched where no such path exists. A run, a checkpoint and an export give a
    `Trained`, with its preprocessing; what `HubModel.push_to_hub` or `save_pretrained` wrote gives a `HubModel`. trust:
    packages whose parts a stored configuration may name. Raises ConfigError.
    """
    path = Path(source)
    if not path.exists():
        path = _fetched(str(source))
    if path.is_dir() and _of_hub(path):
        model: HubModel = HubModel.from_pretrained(path)
        return model
    return open_trained(path, device=device, trust=trust).model


def _of_hub(folder: Path) -> bool:
    """Tell whether a folder holds what `HubModel.save_pretrained` wrote."""
    file = folder / HUB_FILE
    if not file.is_file():
        return False
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON ({error}): bring it back from a copy.") from error
    return isinstance(noted, dict) and "name" in noted


def _fetched(source: str) -> Path:
    """Return the local copy of a repository of the hub. Raises ConfigError for what is neither path nor repository."""
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ConfigError(f"{source} does not exist: name a run, a checkpoint, an export, or owner/name of a hub.")
    try:
        return Path(snapshot_download(source))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"{source} is no path, and no repository that could be fetched ({str(error).splitlines()[0]})."
        ) from error
