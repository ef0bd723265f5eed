"""One run from its parts to its results: `fit` trains, tests once at the end, writes everything; `evaluate` tests."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from hyplearn import regions
from hyplearn.data.base import TrainingData
from hyplearn.data.retrieval_datamodule import RetrievalDataModule
from hyplearn.errors import ConfigError, Interrupted, NonFiniteLoss, ProcessLost
from hyplearn.optim.settings import OptimSettings
from hyplearn.plots.training_curves import draw_figures
from hyplearn.runs.directory import RunDirectory, noted_checkpoint
from hyplearn.runs.rank import first_process
from hyplearn.training.callbacks.checkpoints import Checkpoints
from hyplearn.training.callbacks.gradients import GradientRules
from hyplearn.training.callbacks.history import Recorder, Row, recorded_rows
from hyplearn.training.callbacks.non_finite import NonFiniteGuard
from hyplearn.training.callbacks.progress import build_progress, log_failure, run_log
from hyplearn.training.callbacks.readings import CurvatureReadings, GeometryProbe, OptimizerReadings, Speed
from hyplearn.training.callbacks.retrieval_outputs import RetrievalRecord
from hyplearn.training.callbacks.stop_signals import StopSignals
from hyplearn.training.callbacks.validation import ValidationEpochs
from hyplearn.training.checkpoint import bring_best, find_checkpoint, load_weights
from hyplearn.training.chunks import check_chunks
from hyplearn.training.classification import ClassificationModule
from hyplearn.training.finite import named, not_finite
from hyplearn.training.loggers import RunLogger, build_loggers
from hyplearn.training.model_readings import curvatures, curved
from hyplearn.training.module import Groups, Optimization, TrainingModule
from hyplearn.training.provenance import Provenance, new_run_id, now, peak_memory_gib
from hyplearn.training.results import listing, summarize, table
from hyplearn.training.retrieval import RetrievalModule
from hyplearn.training.seeding import seed_everything
from hyplearn.training.settings import (
    BatchSettings,
    CallbackSettings,
    EvaluationSettings,
    LoggerSettings,
    TrainerSettings,
)
from hyplearn.training.trainer import build_trainer, compiles_regions, prepare_model, quiet_lightning

log = logging.getLogger("hyplearn")

LARGEST_PIXELS = 64  # side of images that can be compared pixel by pixel without filling the memory
SELECTED_ON_TEST = " of the test classes: SELECTED ON TEST"


@dataclass
class TrainSpec:
    """Everything a run is made of, as plain objects.

    config: the resolved configuration as plain containers, for the record. build_model: called after seeding.
    build_loss: called with the model; a loss(logits, labels) for a classifier, an `EmbeddingLoss` for retrieval, which
    a `RetrievalDataModule` makes of the run. build_optimizer: parameter groups to an optimizer; optim: their rates,
    and the schedule. resume: a checkpoint or a run directory to continue; with that run's directory as `run_dir` its
    record is continued, too. batch, evaluation: of retrieval. module: what `build_module` made when the parts were
    checked, for one call of `fit` or `evaluate`; None to make it then. own_callbacks: those of `callbacks.own`, made.
    """

    run_dir: Path
    config: dict[str, Any]
    seed: int
    datamodule: TrainingData
    build_model: Callable[[], nn.Module]
    build_loss: Callable[[nn.Module], nn.Module]
    build_optimizer: Callable[[Groups], torch.optim.Optimizer]
    optim: OptimSettings
    trainer: TrainerSettings
    logger: LoggerSettings
    callbacks: CallbackSettings
    batch: BatchSettings = field(default_factory=BatchSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    resume: Path | None = None
    module: TrainingModule | None = None
    own_callbacks: Sequence[pl.Callback] = ()

    @property
    def retrieval(self) -> bool:
        """Whether the run trains embeddings."""
        return isinstance(self.datamodule, RetrievalDataModule)

    def validate(self) -> None:
        """Raise a ValueError for settings that do not go together."""
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} must be at least 0")
        monitor = self.callbacks.monitored(retrieval=self.retrieval)
        if monitor == "val/top5" and self.datamodule.num_classes <= 5:
            raise ValueError("callbacks.monitor=val/top5 needs more than 5 classes: use val/top1")
        if monitor in ("val/map@r", "val/r_precision") and not self.evaluation.r_measures:
            raise ValueError(f"callbacks.monitor={monitor} needs evaluation.r_measures=true")
        if "pixels" in self.evaluation.metrics and self.datamodule.image_size > LARGEST_PIXELS:
            raise ValueError(
                f"evaluation.metrics=pixels compares images of up to {LARGEST_PIXELS} pixels, these have "
                f"{self.datamodule.image_size}: leave it out"
            )
        if self.batch.chunk is not None and not self.retrieval:
            raise ValueError(
                f"batch.chunk={self.batch.chunk} is for retrieval: a classifier's loss needs no whole batch"
            )

    def build_module(self) -> TrainingModule:
        """The model, seeded, with its loss and the way its parameters will move."""
        seed_everything(self.seed)
        model = prepare_model(self.build_model(), self.trainer)
        loss = self.build_loss(model)
        optimization = Optimization(self.build_optimizer, self.optim)
        if not self.retrieval:
            return ClassificationModule(model, loss, seed=self.seed, optimization=optimization)
        if self.batch.chunk is not None:
            check_chunks(model, self.batch.chunk)
        return RetrievalModule(
            model,
            loss,
            seed=self.seed,
            optimization=optimization,
            settings=self.evaluation,
            chunk=self.batch.chunk,
        )


def fit(spec: TrainSpec) -> dict[str, Any]:
    """Train, test the chosen weights once, write the run directory; returns what results.json says.

    Raises ValueError before data are read for settings that cannot work, NonFiniteLoss where loss, gradients, weights
    or metrics are not finite, and Interrupted on SIGTERM or Ctrl-C. results.json is written in these cases, too, with
    the status failed, diverged or interrupted.
    """
    spec.validate()
    record = RunDirectory(spec.run_dir)
    if first_process():
        record.write_config(spec.config)
    log_file = record.log_file if first_process() else None
    if spec.trainer.num_threads is not None:
        torch.set_num_threads(spec.trainer.num_threads)
    with (
        run_log(log_file, quiet=spec.trainer.progress == "none"),
        quiet_lightning(spec.trainer),
        regions.compiled(compiles_regions(spec.trainer)),
        StopSignals(within=spec.trainer.stop_within) as signals,
    ):
        return _Run(spec, signals).fit()


def evaluate(spec: TrainSpec, checkpoint: Path) -> dict[str, Any]:
    """Test metrics and curvatures of a checkpoint; writes nothing. See `checkpoint_to_evaluate` for run directories."""
    spec.validate()
    with quiet_lightning(spec.trainer), regions.compiled(compiles_regions(spec.trainer)):
        module = spec.build_module() if spec.module is None else spec.module
        load_weights(module, checkpoint, to_evaluate=True)
        trainer = build_trainer(spec.trainer, folder=spec.run_dir, callbacks=[])
        trainer.test(module, datamodule=spec.datamodule, verbose=False)
    found = not_finite(module.tests)
    if found:
        raise ConfigError(f"{checkpoint}: metrics of these weights are not finite ({named(found)}).")
    return {
        "checkpoint": str(checkpoint),
        "selected_on_test": spec.datamodule.fingerprint.get("selection") == "test",
        "metrics": module.tests,
        "curvature": curvatures(module.network),
        "dataset": spec.datamodule.fingerprint,
    }


def lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of a distributed run is no longer there."""
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    words = (
        "connection reset by peer",
        "connection closed by peer",
        "remote process exited",
        "communicator was aborted",
    )
    return there and isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _status(error: BaseException) -> str:
    """What results.json says of a run that an error ended."""
    if isinstance(error, Interrupted):
        return "interrupted"
    return "diverged" if isinstance(error, NonFiniteLoss) else "failed"


class _Run:
    """The objects of one call of `fit`."""

    def __init__(self, spec: TrainSpec, signals: StopSignals) -> None:
        self.spec, self.checkpoint = spec, None if spec.resume is None else find_checkpoint(spec.resume)
        self.record = RunDirectory(spec.run_dir)
        known = self.record.manifest if self.checkpoint else None
        self.run_id = known["run_id"] if known else new_run_id()
        self.selection: dict[str, Any] | None = None
        self.loggers: list[RunLogger] = []
        self.rows = self._rows_so_far()
        self.module = spec.build_module() if spec.module is None else spec.module
        seed_everything(spec.seed)  # the same state whenever the module was made
        self.recorder = Recorder(spec.run_dir)
        self.retrieval_record = (
            RetrievalRecord(spec.run_dir, figures=spec.callbacks.figures) if spec.retrieval else None
        )
        self.checkpoints = Checkpoints(
            self.record,
            monitor=spec.callbacks.monitored(retrieval=spec.retrieval),
            every=spec.callbacks.save_every_epochs,
            patience=spec.callbacks.patience,
            signals=signals,
        )
        self.trainer = build_trainer(spec.trainer, folder=spec.run_dir, callbacks=self._callbacks())

    def _rows_so_far(self) -> list[Row]:
        rows = recorded_rows(self.checkpoint) if self.checkpoint else []
        done, limit = len(rows), self.spec.trainer.max_epochs
        if done > limit:
            raise ValueError(
                f"trainer.max_epochs={limit} must be at least {done}, the epochs that {self.checkpoint} has behind it"
            )
        return rows

    def _callbacks(self) -> list[pl.Callback]:
        """In the order in which they need each other: readings, their record, its display, the checkpoint."""
        settings, folder = self.spec.callbacks, self.spec.run_dir
        optimizer = OptimizerReadings()
        guard = NonFiniteGuard(
            folder, every=settings.nonfinite_every, optimizer=optimizer, checkpoints=self.checkpoints
        )
        self.provenance = Provenance(folder, run_id=self.run_id)
        readings = [self.provenance, optimizer, guard, Speed(), CurvatureReadings()]
        probe = [GeometryProbe()] if settings.geometry else []
        retrieval = [] if self.retrieval_record is None else [self.retrieval_record]
        return [
            *readings,
            *probe,
            *retrieval,
            *self.spec.own_callbacks,
            *self._rules(),
            self.recorder,
            *build_progress(self.spec.trainer.progress),
            self.checkpoints,
        ]

    def _rules(self) -> list[pl.Callback]:
        """Return what is done to gradients, behind those who read them, and what decides when to validate."""
        settings, clip = self.spec.trainer, self.spec.trainer.gradient_clip
        gradients = GradientRules(
            scales=self.spec.optim.gradient_scales,
            clamp=settings.gradient_clamp,
            scaled_clip=clip if settings.gradient_clip_of == "scaled" else None,
            loss_scale=settings.loss_scale,
        )
        first, every = settings.val_first_epoch, settings.val_every_epochs
        validation = [] if first is None else [ValidationEpochs(first=first, every=every)]
        return [*([] if gradients.idle else [gradients]), *validation]

    def fit(self) -> dict[str, Any]:
        try:
            if first_process():
                self._open_record()
            self._train()
            self._test()
        except BaseException as error:
            told = self._told(error)
            log_failure(told)
            self._finish(_status(told), told)
            if told is error:
                raise
            raise told from error
        return self._finish("finished")

    def _told(self, error: BaseException) -> BaseException:
        """Return the error, or in place of what a lost connection looks like, what it means."""
        if not lost_process(error):
            return error
        reason = " ".join(str(error).split())[:120]
        goes_on = f" The run goes on with resume={self.record.path}." if self.record.last_checkpoint else ""
        return ProcessLost(f"another process of this run has ended ({reason}).{goes_on}")

    def _open_record(self) -> None:
        if self.checkpoint is not None:
            bring_best(self.checkpoint, self.record)
            self.record.write_history(self.rows)  # a killed run may have written a row more than its checkpoint has
        self.loggers = build_loggers(
            self.spec.logger,
            folder=self.spec.run_dir,
            run_id=self.run_id,
            config=self.spec.config,
            rows=self.rows,
        )
        self.recorder.listeners = [logger.log for logger in self.loggers]
        if self.retrieval_record is not None:
            self.retrieval_record.loggers = self.loggers

    def _train(self) -> None:
        try:
            self.trainer.fit(self.module, datamodule=self.spec.datamodule, ckpt_path=self.checkpoint, weights_only=True)
        except SIGTERMException as error:  # before training took the signals over
            raise Interrupted(signal.SIGTERM, self.checkpoint) from error
        if self.spec.trainer.max_epochs == 0:  # no training has begun, so that nothing was written
            self.provenance.on_train_start(self.trainer, self.module)
            self.checkpoints.save_untrained(self.trainer)

    def _test(self) -> None:
        """Choose the weights and read the test data, for the first and only time."""
        rows = self.recorder.rows
        rule, epoch, path, ties = self.checkpoints.choice(int(rows[-1]["epoch"]) if rows else 0)
        if self.spec.datamodule.fingerprint.get("selection") == "test":
            rule += SELECTED_ON_TEST
        if self.retrieval_record is not None:
            self.retrieval_record.selection = rule
        self.selection = {"rule": rule, "epoch": epoch, "checkpoint": noted_checkpoint(path)}
        self.selection |= {} if ties is None else {"ties": ties}
        if self.spec.trainer.limit_test_batches != 0:
            load_weights(self.module, path)
            self.trainer.test(self.module, datamodule=self.spec.datamodule, verbose=False)
            self.checkpoints.require_finite_metrics(self.trainer, self.module.tests)

    def _finish(self, status: str, error: BaseException | None = None) -> dict[str, Any]:
        results = self._results(status, error)
        if self.trainer.is_global_zero:
            self.record.write_results(results)
            self._draw()
            mirrors = [line for logger in self.loggers if (line := logger.finish(results))]
            if status == "finished":
                log.info("%s", table(results))
            log.info("%s", listing(self.record, mirrors))
        return results

    def _results(self, status: str, error: BaseException | None) -> dict[str, Any]:
        rows = self.recorder.rows
        epoch = int(rows[-1]["epoch"]) if rows else 0
        if self.selection:
            epoch = self.selection["epoch"]
        return {
            "status": status,
            "error": f"{type(error).__name__}: {error}" if error else None,
            "run_id": self.run_id,
            "run_dir": str(self.spec.run_dir),
            "seed": self.spec.seed,
            "scale": self.spec.config.get("scale"),
            "protocol": self.spec.config.get("protocol"),
            "finished": now(),
            "selection": self.selection,
            **summarize(rows, epoch, self.module.tests),
            "memory_gib": peak_memory_gib(self.trainer.strategy.root_device.type),
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "dataset": self.spec.datamodule.fingerprint,
        }

    def _draw(self) -> None:
        if self.spec.callbacks.figures and self.recorder.rows:
            draw_figures(
                self.record.figures,
                self.recorder.rows,
                initial=self.recorder.initial,
                bounds={name: manifold.curvature.bounds for name, manifold in curved(self.module.network).items()},
                tests=self.module.tests,
                tested_epoch=self.selection["epoch"] if self.selection else None,
            )
