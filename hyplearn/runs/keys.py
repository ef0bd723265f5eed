"""Keys of a configuration that do not say what a run computes, in one table.

Run ids leave all of them out. Commands that continue, repeat, evaluate, search or compare runs take the groups that
they need: nowhere else stands which setting is none of the run itself. A name stands for its key and all keys below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PLACE = ("output_dir", "resume")  # where the run writes, and what it continues
NAMES = ("choices", "paper", "protocol")  # names of settings that stand beside them
SEED = ("seed",)  # stands in the name of a run by itself
SHOWN = ("logger", "callbacks.figures", "trainer.progress")  # where people look at it
WATCHED = tuple(f"callbacks.{key}" for key in ("geometry", "save_every_epochs", "nonfinite_every"))
MACHINE = tuple(
    f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "compile", "num_threads")
)
READ_BY = ("num_workers", "prefetch_factor", "cache", "cache_folder", "memory_limit_gib", "check_images")
READING = tuple(f"dataset.{key}" for key in ("root", *READ_BY))
KEPT = tuple(f"evaluation.{key}" for key in ("save", "per_class", "gallery", "hard_negatives"))  # beside the numbers
MEASURED = tuple(f"evaluation.{key}" for key in ("index", "nmi"))  # by which program, and what else

STOPPING = ("trainer.stop_within",)  # how long a process that hangs may go on; runs of before have no such key

# What run ids leave out.
NOT_THE_RUN = (*PLACE, *NAMES, *SEED, *SHOWN, *WATCHED, *STOPPING, *MACHINE, *READING, *KEPT, *MEASURED)
# What may change when a run continues: where and how long it is computed, and how it is watched.
CONTINUED = ("trainer", "callbacks", *SHOWN, *READING)
# What is no difference between a run and its repetition.
REPEATED = (*PLACE, *SHOWN)
# What nobody would tell runs apart by, in a figure or a table.
UNTOLD = (*PLACE, *NAMES, *SHOWN, "callbacks", "evaluation")

# Keys that configurations have had since, with the value that means what every run did before: while a key has it, ids
# leave it out, so that the same computation keeps its name.
ADDED_LATER: Mapping[str, Any] = {
    "dataset.cache_side": None,
    "dataset.decoder": "pillow",
    "manifold.inverse_c_between": None,
    "model.orientation": "joint",
    "optim.curvature_weight_decay": 0.0,
    "optim.gradient_scales": {},
    "optim.optimizer.penalty": "stored",
    "trainer.gradient_clip_of": "unscaled",
    "trainer.gradient_clamp": None,
    "trainer.loss_scale": 65536.0,
    "trainer.tf32": False,
    "trainer.val_first_epoch": None,
}


def within(key: str, names: Iterable[str]) -> bool:
    """Whether `key` is one of the names or lies below one: `logger.wandb` lies below `logger`."""
    return any(key == name or key.startswith(f"{name}.") for name in names)
