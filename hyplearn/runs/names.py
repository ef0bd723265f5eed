"""What the files and folders of a run directory are called. No other module spells these names."""

from __future__ import annotations

CONFIG, MANIFEST, METRICS, RESULTS = "config.yaml", "manifest.json", "metrics.csv", "results.json"
LOG, NON_FINITE, RERUN = "train.log", "nonfinite.json", "rerun.json"
CHECKPOINTS, EMBEDDINGS, FIGURES, RETRIEVAL = "checkpoints", "embeddings", "figures", "retrieval"
EVALUATIONS, EXPORT, TENSORBOARD, WANDB = "evaluations", "export", "tensorboard", "wandb"
BEST, LAST = "best", "last"  # the checkpoints
CHECKPOINT_SUFFIX = ".ckpt"
TEST, LAST_BATCH = "test.npz", "last_batch.npz"  # the embeddings
LOCK, HOLDER = ".lock", ".lock.json"
CLAIM = ".claim"  # held by the process that will train or is having trained in a directory
GALLERY = "gallery.npz"  # of an export
