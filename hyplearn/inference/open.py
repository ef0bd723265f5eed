"""From a run directory, one of its checkpoints, or an exported model to a model that is ready for use."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.config.compose import change
from hyplearn.errors import ConfigError
from hyplearn.runs.directory import RunDirectory

if TYPE_CHECKING:
    import torch

    from hyplearn.data.datamodule import ImageDataModule
    from hyplearn.evaluation.store import Stored
    from hyplearn.inference.prediction import Trained
    from hyplearn.training.fit import TrainSpec

WEIGHTS = "model.safetensors"
GALLERY = "gallery.npz"  # of an export with an index: the coordinates themselves
KNOWN = {"in_channels": 1000, "num_classes": 1_000_000, "image_size": 16_384}  # and the largest that is taken for true


@dataclass(frozen=True, eq=False)
class Opened:
    """A model ready for use, and where it comes from.

    folder: the run directory, or that of the exported model. checkpoint: None of an exported one. facts: in_channels,
    num_classes and image_size of the data. selection: how the weights were chosen. tested: whether the results of the
    run are of these weights. config: the resolved configuration.
    """

    model: Trained
    folder: Path
    checkpoint: Path | None
    config: dict[str, Any]
    data: ImageDataModule
    facts: dict[str, int]
    selection: str
    tested: bool


def open_trained(
    path: Path, *, device: str = "auto", checkpoint: Path | None = None, trust: Sequence[str] = ()
) -> Opened:
    """The model of a run directory (the best checkpoint by validation, or the last), a checkpoint or an export.

    checkpoint: of the run directory, in place of the one that was tested. trust: packages beside hyplearn whose parts
    the stored configuration may name. Raises ConfigError.
    """
    if path.is_dir() and (path / WEIGHTS).exists():
        if checkpoint is not None:
            raise ConfigError(f"{path} is an exported model, which has no checkpoints to choose from.")
        return _open_exported(path, device, trust)
    record = RunDirectory.locate(path)
    if path.is_file() and checkpoint is not None:
        raise ConfigError(f"{path} is a checkpoint, and --checkpoint {checkpoint} another: name one of them.")
    config = stored_config(record, trust)
    return _open_run(record, checkpoint or path, config, _known(record), device)


def load_exported(folder: Path, *, device: str = "auto", trust: Sequence[str] = ()) -> Trained:
    """The model that `hyplearn export` wrote. Its outputs are those of the run's own weights.

    trust: packages beside hyplearn whose parts the configuration of the export may name.
    """
    return _open_exported(folder, device, trust).model


def stored_config(record: RunDirectory, trust: Sequence[str]) -> dict[str, Any]:
    """Return the configuration of a run or an export, found to name nothing but registered and trusted parts."""
    return change(record.config, [], allowed=lambda key: False, file=record.config_file, trust=trust).config


def _open_run(record: RunDirectory, named: Path, config: dict[str, Any], facts: dict[str, int], device: str) -> Opened:
    from hyplearn.config.build import with_images
    from hyplearn.inference.bounded import BoundedTensors
    from hyplearn.inference.prediction import trained
    from hyplearn.training.checkpoint import checkpoint_to_evaluate, load_weights

    spec = _specification(config, facts)
    data, chosen = with_images(spec.datamodule), _device(device)
    try:
        checkpoint = checkpoint_to_evaluate(named)
        with _silent_models(), BoundedTensors(checkpoint.stat().st_size):
            module = spec.build_module()
        load_weights(module, checkpoint, to_evaluate=True)
        model = trained(
            module,
            data,
            channels=facts["in_channels"],
            size=facts["image_size"],
            class_names=None if spec.retrieval else _class_names(record, data),
            precision=config["trainer"]["precision"],
            device=chosen,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    chosen_by, tested = selection(record, checkpoint)
    if config["scale"] == "smoke":
        chosen_by = f"SMOKE RUN, {chosen_by}"
    return Opened(model, record.path, checkpoint, config, data, facts, chosen_by, tested)


def _open_exported(folder: Path, device: str, trust: Sequence[str]) -> Opened:
    from hyplearn.config.build import with_images
    from hyplearn.inference.bounded import BoundedTensors
    from hyplearn.inference.export import read_header, read_weights
    from hyplearn.inference.prediction import in_use, metrics_from_json

    try:
        header = read_header(folder / WEIGHTS)
        config = stored_config(RunDirectory(folder), trust)
        facts = _facts(header["data"], folder / WEIGHTS)
        spec = _specification(config, facts)
        data = with_images(spec.datamodule)
        with _silent_models(), BoundedTensors((folder / WEIGHTS).stat().st_size):
            network = spec.build_module().model
        network.load_state_dict(read_weights(folder / WEIGHTS))
        model = in_use(
            network,
            data,
            retrieval=spec.retrieval,
            metrics=metrics_from_json(header["metrics"]),
            channels=facts["in_channels"],
            size=facts["image_size"],
            class_names=header["class_names"],
            precision=config["trainer"]["precision"],
            device=_device(device),
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{folder}: {error}") from error
    return Opened(model, folder, None, config, data, facts, header["selection"], True)


@contextmanager
def _silent_models() -> Iterator[None]:
    """What a model says of itself when it is built was said when it was trained."""
    logger = logging.getLogger("hyplearn.models")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _specification(config: dict[str, Any], facts: Mapping[str, int]) -> TrainSpec:
    """The parts of a run for data that need not be there: `facts` say what the model has to know of them."""
    from hyplearn.config.build import NOT_FETCHED, loss, model, specification

    spec = specification(config, restores=True)
    fetched = {key: value for key, value in NOT_FETCHED.items() if key in config["model"]}
    built = {**config, "model": {**config["model"], **fetched}}
    return replace(
        spec,
        trainer=replace(spec.trainer, compile=False, sync_batchnorm=False),
        build_model=lambda: model(built, facts),
        build_loss=lambda network: loss(config, network, facts),
    )


def _known(record: RunDirectory) -> dict[str, int]:
    """What the manifest says of the data. Raises ConfigError before training began."""
    if not record.manifest:
        raise ConfigError(
            f"{record.path} has no {record.manifest_file.name}: the run stopped before its training began. Start it "
            "anew."
        )
    return _facts(record.manifest.get("dataset"), record.manifest_file)


def _facts(data: Any, file: Path) -> dict[str, int]:
    """What the model has to know of the data. Raises ConfigError for numbers that no data have: they size the model."""
    facts: dict[str, int] = {}
    for name, largest in KNOWN.items():
        value = data.get(name) if isinstance(data, Mapping) else None
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
            raise ConfigError(
                f"{file} is damaged: {name} of its data is {str(value)[:40]}, and has to be from 1 to {largest:,}. "
                "Bring it back from a copy."
            )
        facts[name] = value
    return facts


def _class_names(record: RunDirectory, data: ImageDataModule) -> tuple[str, ...] | None:
    """From the manifest, or from the data set where it can be read; None where neither knows them."""
    noted = record.manifest["sessions"][-1].get("class_names")
    if noted is not None:
        return tuple(noted)
    try:
        return data.class_names
    except ValueError:  # its files are not here
        return None


def selection(record: RunDirectory, checkpoint: Path) -> tuple[str, bool]:
    """How the weights of a checkpoint were chosen, and whether they were tested; else the checkpoint's name."""
    tested = record.tested_checkpoint
    if tested is not None and tested.resolve() == checkpoint.resolve():
        noted = record.results["selection"]
        return f"weights of epoch {noted['epoch']} ({noted['rule']})", True
    return f"weights of {checkpoint.name}, which was not tested", False


def load_gallery(opened: Opened, path: Path | None) -> Stored:
    """Embeddings to search in, of the geometry of the model: those of `path`, of the export, or of the run's own test.

    Raises ConfigError where they are of other weights, as far as the file tells.
    """
    from hyplearn.evaluation import store

    own = path is None
    if own and opened.checkpoint is None and (opened.folder / GALLERY).is_file():
        own, path = False, opened.folder / GALLERY  # of an export
    path = path or RunDirectory(opened.folder).test_embeddings
    if own and not path.is_file():
        raise ConfigError(f"{path} does not exist: name the images to search in with --gallery, see hyplearn embed.")
    if own and not opened.tested:
        raise ConfigError(
            f"{path} was made by the tested checkpoint, not by {opened.checkpoint}: make a gallery with hyplearn "
            "embed and name it with --gallery."
        )
    try:
        stored = store.load(path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    made = tuple(metric for metric in opened.model.metrics if metric is not None)
    if stored.metrics != made:
        held = " + ".join(map(str, stored.metrics or ())) or "an unknown geometry"
        raise ConfigError(
            f"{path} holds embeddings of {held}, the model makes {' + '.join(map(str, made))}: they are of other "
            "weights. Make a gallery with hyplearn embed and name it with --gallery."
        )
    return stored


def _device(name: str) -> torch.device:
    """The device, on which float32 means float32."""
    import torch

    from hyplearn.geometry import tf32

    tf32.allow(False)
    if name == "gpu" and not torch.cuda.is_available():
        raise ConfigError("--device gpu: torch sees no CUDA device; use --device cpu or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
