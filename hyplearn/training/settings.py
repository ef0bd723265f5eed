"""What a user sets about training, logging and callbacks. Plain data without torch: the command line checks it first.

An object of these classes has values in range: making one raises a ValueError that names key, value and way out. What a
`Literal` allows is checked with the other types, by `hyplearn.config.typecheck`.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from hyplearn.errors import require

ClassifierMonitor: TypeAlias = Literal["val/top1", "val/top5", "val/loss"]
RetrievalMonitor: TypeAlias = Literal["val/recall@1", "val/map@r", "val/r_precision"]
Progress: TypeAlias = Literal["auto", "rich", "plain", "none"]
MONITORS: tuple[str, ...] = get_args(ClassifierMonitor)
RETRIEVAL_MONITORS: tuple[str, ...] = get_args(RetrievalMonitor)


def _count(key: str, value: int | None) -> None:
    require(value is None or value >= 1, key, value, "at least 1, or null")


@dataclass
class TrainerSettings:
    """How long, on what, and in which precision.

    max_epochs: passes over the training data; 0 tests the weights as they come. max_steps: optimizer steps after which
    training ends even earlier.
    accelerator: auto (a CUDA GPU where there is one), cpu, gpu. devices: auto or how many, on each node. num_nodes: the
    machines that train together. Under torchrun both are what it started, unless set. strategy: auto or ddp.
    precision: 32, 64, bf16, fp16 (the 16-bit ones are mixed; geometry stays in float32).
    tf32: let a GPU round the factors of float32 products in convolutions and linear layers to 10 bits, which is faster;
    losses, distances, norm matching and retrieval stay in float32. Off, so that 32 means 32.
    compile: regions, the stretches of small operations inside hyperbolic layers, as a few kernels (`hyplearn.regions`);
    true, the whole network by torch.compile; false, nothing; auto, regions on a GPU and nothing on a CPU, where the
    layers are fastest as they are written.
    gradient_clip: largest global norm of the Euclidean gradients. gradient_clip_of: unscaled gradients, or scaled ones,
    times the loss scale, as the code of Mix limits them. loss_scale: what the gradient scaler of fp16 begins with, to
    halve it at every overflow and to double it after 2,000 steps without; where scaled gradients are limited in another
    precision, the scale of these. gradient_clamp: largest absolute value of each number of a gradient, before the norm.
    accumulate_grad_batches: batches per optimizer step.
    deterministic: refuse operations that may differ between two runs on a GPU.
    progress: auto (rich on a terminal, plain elsewhere), rich, plain, none.
    limit_*_batches: only so many batches of an epoch, for debugging; null for all, 0 leaves validation or test out.
    num_threads: CPU threads of torch, null for torch's choice. sync_batchnorm: batch statistics over all processes.
    stop_within: seconds from a signal to stop to the end by force of a process that hangs; 0 for never.
    val_every_epochs: epochs between two validations. val_first_epoch: the epoch of the first one, counted from 0; null
    for val_every_epochs - 1.
    """

    max_epochs: int = 20
    max_steps: int | None = None
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int | Literal["auto"] = "auto"
    num_nodes: int = 1
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Literal["32", "64", "bf16", "fp16"] = "32"
    tf32: bool = False
    compile: Literal["auto", "regions"] | bool = "auto"
    gradient_clip: float | None = None
    gradient_clip_of: Literal["unscaled", "scaled"] = "unscaled"
    gradient_clamp: float | None = None
    loss_scale: float = 65536.0
    accumulate_grad_batches: int = 1
    deterministic: bool = False
    progress: Progress = "auto"
    limit_train_batches: int | None = None
    limit_val_batches: int | None = None
    limit_test_batches: int | None = None
    num_threads: int | None = None
    sync_batchnorm: bool = False
    stop_within: float = 60.0
    val_every_epochs: int = 1
    val_first_epoch: int | None = None

    def __post_init__(self) -> None:
        counts = ("num_nodes", "max_steps", "accumulate_grad_batches", "limit_train_batches", "num_threads")
        for key in (*counts, "val_every_epochs"):
            _count(f"trainer.{key}", getattr(self, key))
        for key in ("limit_val_batches", "limit_test_batches"):
            value = getattr(self, key)
            require(value is None or value >= 0, f"trainer.{key}", value, "at least 0, or null")
        require(self.max_epochs >= 0, "trainer.max_epochs", self.max_epochs, "at least 0, and 0 only tests")
        fine = self.val_every_epochs <= max(self.max_epochs, 1)
        require(fine, "trainer.val_every_epochs", self.val_every_epochs, f"at most max_epochs={self.max_epochs}")
        if isinstance(self.devices, int):
            require(self.devices >= 1, "trainer.devices", self.devices, "at least 1, or auto")
        clip = self.gradient_clip
        fine = clip is None or 0 < clip < math.inf
        require(fine, "trainer.gradient_clip", clip, "greater than 0 and finite, or null for no clipping")
        self._check_rules()

    def _check_rules(self) -> None:
        """Raise ValueError for what is done to gradients, a first validation, and the time to stop, out of range."""
        fine = 0 <= self.stop_within < math.inf
        require(fine, "trainer.stop_within", self.stop_within, "at least 0 and finite, and 0 is for never")
        clamp, first = self.gradient_clamp, self.val_first_epoch
        fine = clamp is None or 0 < clamp < math.inf
        require(fine, "trainer.gradient_clamp", clamp, "greater than 0 and finite, or null for no limit")
        require(0 < self.loss_scale < math.inf, "trainer.loss_scale", self.loss_scale, "greater than 0 and finite")
        fine = self.gradient_clip_of == "unscaled" or self.gradient_clip is not None
        require(fine, "trainer.gradient_clip_of", self.gradient_clip_of, "unscaled where trainer.gradient_clip is null")
        fine = first is None or 0 <= first < max(self.max_epochs, 1)
        require(fine, "trainer.val_first_epoch", first, f"in [0, {self.max_epochs}), or null")


@dataclass
class LoggerSettings:
    """Where numbers go beside metrics.csv, which is always written.

    project, entity, group, tags: of Weights & Biases; the runs of a sweep share a group.
    mode: online, offline, or auto: online where a key is found, else offline; never a prompt.
    """

    tensorboard: bool = False
    wandb: bool = False
    project: str = "hyplearn"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: Literal["auto", "online", "offline"] = "auto"

    def __post_init__(self) -> None:
        require(bool(self.project), "logger.project", self.project, "a name")
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise ValueError("logger.tensorboard=True needs TensorBoard: pip install 'hyplearn[tensorboard]'")


@dataclass
class CallbackSettings:
    """What accompanies training.

    geometry: log radii and the share of rescaled points once per epoch. figures: draw the curves at the end.
    monitor: the validation metric that chooses best.ckpt, auto for val/top1 of a classifier and val/recall@1 of
    retrieval; without validation data the last epoch is chosen.
    save_every_epochs: how often last.ckpt is written; it is written at the end and on a signal in any case.
    patience: stop after this many epochs without a better monitor, null to train to the end.
    nonfinite_every: look for a non-finite loss or gradient every so many batches, 0 for never. A GPU is not stopped for
    it; its gradients are looked at one step late, and the report names the step they belong to.
    own: further Lightning callbacks, a `_target_` each, by a name that only the configuration uses; null for none of
    that name. What one adds to `pl_module.row` in `on_train_epoch_end` stands in metrics.csv; its state is plain.
    """

    geometry: bool = True
    figures: bool = True
    monitor: Literal["auto"] | ClassifierMonitor | RetrievalMonitor = "auto"
    save_every_epochs: int = 1
    patience: int | None = None
    nonfinite_every: int = 1
    own: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.save_every_epochs >= 1, "callbacks.save_every_epochs", self.save_every_epochs, "at least 1")
        _count("callbacks.patience", self.patience)
        require(self.nonfinite_every >= 0, "callbacks.nonfinite_every", self.nonfinite_every, "at least 0")

    def monitored(self, *, retrieval: bool) -> str:
        """The metric that decides. Raises ValueError for one that the task does not have."""
        known = RETRIEVAL_MONITORS if retrieval else MONITORS
        if self.monitor == "auto":
            return known[0]
        task = "a retrieval model" if retrieval else "a classifier"
        require(self.monitor in known, "callbacks.monitor", self.monitor, f"one of {', '.join(known)} for {task}")
        return self.monitor


@dataclass
class BatchSettings:
    """How a training batch is computed.

    chunk: images that pass through the network at once, null for the whole batch of the process. The gradient is that
    of the whole batch, for one more forward pass, in the memory of a chunk (gradient caching). Retrieval only.
    """

    chunk: int | None = None

    def __post_init__(self) -> None:
        _count("batch.chunk", self.chunk)


SideMetric: TypeAlias = Literal["cosine", "euclidean", "pixels"]


@dataclass
class EvaluationSettings:
    """How retrieval is evaluated, during validation and after training.

    k: of Recall@k, increasing. index: faiss, torch (equal results), or auto: torch on a GPU, else faiss.
    metrics: what the test images are ranked by once more after training: cosine and Euclidean distance of the head's
    embeddings, and (pixels) Euclidean distance of the images themselves, up to 64 pixels wide. backbone: cosine of the
    backbone's features as well.
    r_measures: MAP@R and R-precision, which search as deep as the largest class: slow with thousands of images of each.
    nmi: cluster the test embeddings and compare with the classes (slow). per_class: write recall of every class.
    save: write the test embeddings, to be evaluated again by `hyplearn recall`.
    gallery: queries shown with their neighbours in figures/gallery.png, 0 for no picture.
    hard_negatives: weights of the negatives (Yue Section 3.2) in the last batch of every epoch; that of the last epoch
    is kept as embeddings/last_batch.npz, for `hyplearn plot weights`.
    """

    k: list[int] = field(default_factory=lambda: [1, 2, 4, 8])
    index: Literal["auto", "faiss", "torch"] = "auto"
    metrics: list[SideMetric] = field(default_factory=lambda: ["cosine", "euclidean"])
    backbone: bool = True
    r_measures: bool = True
    nmi: bool = False
    per_class: bool = True
    save: bool = True
    gallery: int = 8
    hard_negatives: bool = False

    def __post_init__(self) -> None:
        fine = bool(self.k) and self.k[0] >= 1 and all(a < b for a, b in zip(self.k, self.k[1:], strict=False))
        require(fine, "evaluation.k", self.k, "increasing numbers from 1 on, such as [1, 2, 4, 8]")
        require(self.gallery >= 0, "evaluation.gallery", self.gallery, "at least 0")
