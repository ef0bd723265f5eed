"""The text of `hyplearn train --help`: groups with every choice, keys most runs touch, examples. No torch."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from hyplearn.config.compose import defaults
from hyplearn.config.folders import config_folders, groups

FLAGS = """\
  -m, --multirun      run every combination of values, a,b,c  range(1,6)  choice(a,b)  glob(hecnn*): all are checked
                      before the first one starts, each runs in its own process and directory, a failed one stops no
                      other, summary.json and summary.csv list them all; the same line continues a sweep that was killed
  --jobs N            with -m: N jobs at a time; on a machine with GPUs each has one of its own (--jobs-per-gpu K: K on
                      one). Further launchers: hydra/launcher=hyplearn_slurm, joblib, submitit_slurm, ...
  hydra/sweeper=hyplearn_optuna  with -m: search choice(a,b), interval(low,high), tag(log,interval(low,high))
  --print-config      check and print the composed configuration, run nothing
  --cfg job           what Hydra composes, unchecked; also --resolve, --package, --info, --hydra-help and all its others
  --config-dir DIR    further choices for the groups: DIR/model/mine.yaml makes model=mine
  -h, --help          this text"""

EXAMPLES = """\
  python train.py
  python train.py model=hecnn_r50 optim=radamw dataset=cifar100 manifold.c=0.5 seed=3
  python train.py -m manifold.c=0.1,1,4 seed=1,2,3
  python train.py experiment=smoke
  python train.py experiment=demo_retrieval
  python train.py -m model=sph_vit_s,hyp_vit_s,mix_vit_s loss.tau=0.05,0.2 manifold.c=0.1,1
  python train.py resume=outputs/hecnn_r18_digits/2025-01-31_12-00-00_seed1_ab12"""

KEYS = {
    "seed": "of initial weights, order, augmentation and split",
    "output_dir": "the run directory; by default outputs/<model>_<dataset>/<time>_seed<seed>_<id>",
    "resume": "a run directory to continue, or auto: the newest unfinished run of the same configuration",
    "manifold.c": "initial curvature is -c",
    "manifold.learned": "learn the curvature",
    "optim.lr": "learning rate of the Euclidean parameters",
    "optim.curvature_lr": "learning rate of the curvature",
    "dataset.batch_size": "images in a batch, shared by all devices",
    "dataset.val_fraction": "share of the training images (retrieval: classes) held out; 0 reports the last epoch",
    "trainer.max_epochs": "length of the run",
    "trainer.accelerator": "auto, cpu or gpu",
    "trainer.precision": "32, bf16, fp16 or 64",
    "trainer.compile": "auto (regions on a GPU), regions, true (the whole network) or false",
    "logger.wandb": "log to Weights & Biases as well",
}

RETRIEVAL = "hyp_vit_s"  # the model whose defaults are shown
RETRIEVAL_KEYS = {
    "manifold.c": "of the embeddings; a grid over c runs a model on the sphere once",
    "loss.tau": "temperature of loss=pairwise; [0.1,0.2] for the two spaces of a mix_* model",
    "model.pretrained": "start from the backbone's published weights (images of 64 pixels and more)",
    "model.weights": "a local file in their place",
    "dataset.sampler": "unique_class, class_balanced, class_balanced_replacement or shuffled",
    "dataset.images_per_class": "of each class in a batch",
    "batch.chunk": "images in the network at once: a large batch on a small GPU, same gradient",
    "evaluation.k": "ranks of Recall@k",
    "optim.scales.class_proxies": "what multiplies optim.lr; also backbone, neck, hierarchical_proxies, scalars",
}


def help_text(extra: Sequence[Path] = ()) -> str:
    """Return what `hyplearn train --help` prints. extra: further folders of configurations."""
    composed = defaults()
    parts = {
        "Groups (group=choice; * is the default; a wrong name lists all)": _groups(composed.choices, extra),
        "Keys most runs touch (key=value; all of them: --print-config)": _keys(composed.config, KEYS),
        f"Keys of retrieval (defaults of model={RETRIEVAL})": _keys(defaults(RETRIEVAL).config, RETRIEVAL_KEYS),
        "Options": FLAGS,
        "Examples": EXAMPLES,
    }
    sections = [f"{title}\n{body}" for title, body in parts.items()]
    return "\n\n".join(["python train.py [group=choice] [group.key=value] = hyplearn train ...", *sections])


def _groups(chosen: Mapping[str, str | None], extra: Sequence[Path]) -> str:
    lines = []
    for group, choices in groups(config_folders(extra)).items():
        if group == "experiment":
            choices = _families(choices)
        marked = ", ".join(f"{choice}*" if choice == chosen.get(group) else choice for choice in choices)
        lines.append(textwrap.fill(marked, 118, initial_indent=f"  {group:<11}", subsequent_indent=" " * 13))
    return "\n".join(lines)


def _families(experiments: Sequence[str]) -> list[str]:
    """The experiments, those of one table of a paper together: `bdeir_table2_... (24)`."""
    tables = [re.match(r"[a-z]+_table\d+_", name) for name in experiments]
    families = Counter(
        name if table is None else f"{table[0]}..." for name, table in zip(experiments, tables, strict=True)
    )
    return [f"{name} ({count})" if name.endswith("...") else name for name, count in families.items()]


def _keys(config: Mapping[str, Any], keys: Mapping[str, str]) -> str:
    shown = {}
    for key, meaning in keys.items():
        value = reduce(lambda node, part: node[part], key.split("."), config)
        typed = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        shown[f"{key}={typed}"] = meaning
    width = max(map(len, shown))
    return "\n".join(f"  {text:<{width}}  {meaning}" for text, meaning in shown.items())
