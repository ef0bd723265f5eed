"""What people type who come from other libraries, and the one answer for each. No torch.

The tables are data: a name is looked up only once it was found to be unknown, so that a key or choice of that name,
here or in a package of one's own, always wins. Values that mean the same as one of ours are taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A key, whole or its last part: what to type in its place, a key or a choice.
KEYS = {
    "lr": "optim.lr",
    "learning_rate": "optim.lr",
    "base_lr": "optim.lr",
    "init_lr": "optim.lr",
    "lr_curvature": "optim.curvature_lr",
    "curv_lr": "optim.curvature_lr",
    "weight_decay": "optim.weight_decay",
    "wd": "optim.weight_decay",
    "momentum": "optim.optimizer.momentum",
    "nesterov": "optim.optimizer.nesterov",
    "betas": "optim.optimizer.betas",
    "optimizer": "optim",
    "opt": "optim",
    "scheduler": "optim.schedule",
    "lr_scheduler": "optim.schedule",
    "schedule": "optim.schedule",
    "warmup": "optim.schedule",
    "warmup_epochs": "optim.schedule",
    "epochs": "trainer.max_epochs",
    "epoch": "trainer.max_epochs",
    "n_epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "max_epochs": "trainer.max_epochs",
    "max_steps": "trainer.max_steps",
    "steps": "trainer.max_steps",
    "gpus": "trainer.devices",
    "devices": "trainer.devices",
    "num_gpus": "trainer.devices",
    "n_gpus": "trainer.devices",
    "device": "trainer.accelerator",
    "accelerator": "trainer.accelerator",
    "strategy": "trainer.strategy",
    "distributed": "trainer.strategy",
    "precision": "trainer.precision",
    "amp": "trainer.precision",
    "use_amp": "trainer.precision",
    "fp16": "trainer.precision",
    "bf16": "trainer.precision",
    "mixed_precision": "trainer.precision",
    "deterministic": "trainer.deterministic",
    "torch_compile": "trainer.compile",
    "grad_clip": "trainer.gradient_clip",
    "clip_grad": "trainer.gradient_clip",
    "clip_grad_norm": "trainer.gradient_clip",
    "gradient_clip_val": "trainer.gradient_clip",
    "max_grad_norm": "trainer.gradient_clip",
    "accumulate_grad_batches": "trainer.accumulate_grad_batches",
    "gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "accum_steps": "trainer.accumulate_grad_batches",
    "sync_bn": "trainer.sync_batchnorm",
    "check_val_every_n_epoch": "trainer.val_every_epochs",
    "eval_every": "trainer.val_every_epochs",
    "enable_progress_bar": "trainer.progress",
    "progress_bar": "trainer.progress",
    "num_threads": "trainer.num_threads",
    "limit_train_batches": "trainer.limit_train_batches",
    "limit_val_batches": "trainer.limit_val_batches",
    "limit_test_batches": "trainer.limit_test_batches",
    "overfit_batches": "trainer.limit_train_batches",
    "fast_dev_run": "trainer=debug",
    "dry_run": "--print-config",
    "batch_size": "dataset.batch_size",
    "batchsize": "dataset.batch_size",
    "bs": "dataset.batch_size",
    "train_batch_size": "dataset.batch_size",
    "eval_batch_size": "dataset.eval_batch_size",
    "test_batch_size": "dataset.eval_batch_size",
    "samples_per_class": "dataset.images_per_class",
    "images_per_class": "dataset.images_per_class",
    "img_size": "dataset.image_size",
    "image_size": "dataset.image_size",
    "imgsz": "dataset.image_size",
    "input_size": "dataset.image_size",
    "resolution": "dataset.image_size",
    "data": "dataset.root",
    "data_dir": "dataset.root",
    "data_path": "dataset.root",
    "data_root": "dataset.root",
    "root": "dataset.root",
    "val_split": "dataset.val_fraction",
    "val_fraction": "dataset.val_fraction",
    "augment": "dataset.augmentation",
    "num_workers": "dataset.num_workers",
    "workers": "dataset.num_workers",
    "curvature": "manifold.c",
    "curv": "manifold.c",
    "c": "manifold.c",
    "hyp_c": "manifold.c",
    "learn_curvature": "manifold.learned",
    "learn_k": "manifold.learned",
    "temperature": "loss.tau",
    "temp": "loss.tau",
    "tau": "loss.tau",
    "label_smoothing": "loss.label_smoothing",
    "criterion": "loss",
    "loss_fn": "loss",
    "embed_dim": "model.head.size",
    "embedding_dim": "model.head.size",
    "embedding_size": "model.head.size",
    "emb": "model.head.size",
    "dim": "model.head.size",
    "out_dim": "model.head.size",
    "clip_r": "model.head.clip",
    "pretrained": "model.pretrained",
    "weights": "model.weights",
    "drop_rate": "model.drop_rate",
    "width": "model.width",
    "depth": "model.depth",
    "arch": "model",
    "network": "model",
    "net": "model",
    "architecture": "model",
    "ckpt_path": "resume",
    "ckpt": "resume",
    "checkpoint": "resume",
    "resume_from": "resume",
    "resume_from_checkpoint": "resume",
    "random_seed": "seed",
    "random_state": "seed",
    "out": "output_dir",
    "output": "output_dir",
    "out_dir": "output_dir",
    "save_dir": "output_dir",
    "log_dir": "output_dir",
    "logdir": "output_dir",
    "default_root_dir": "output_dir",
    "exp_name": "output_dir",
    "name": "output_dir",
    "project": "logger.project",
    "wandb_project": "logger.project",
    "tags": "logger.tags",
    "wandb": "logger=wandb",
    "use_wandb": "logger=wandb",
    "tensorboard": "logger=tensorboard",
    "patience": "callbacks.patience",
    "early_stopping": "callbacks=early_stopping",
    "monitor": "callbacks.monitor",
    "save_every": "callbacks.save_every_epochs",
    "topk": "evaluation.k",
    "recall_k": "evaluation.k",
}
# What is to be said beside an answer.
ABOUT = {
    "loss.tau": "It is the temperature of a retrieval model, such as model=hyp_vit_s.",
    "model.head.size": "It is the size of a retrieval model's embedding, such as that of model=hyp_vit_s.",
    "model.head.clip": "It belongs to the head of a retrieval model, such as model=hyp_vit_s.",
    "evaluation.k": "It is of retrieval models, such as model=hyp_vit_s: evaluation.k=[1,10,100].",
    "dataset.images_per_class": "It is of retrieval data, such as dataset=digits_retrieval.",
    "model.pretrained": "It is of retrieval models, such as model=hyp_vit_s.",
    "model.weights": "It is of retrieval models, such as model=hyp_vit_s.",
    "model.drop_rate": "It is of retrieval models, such as model=hyp_vit_s.",
    "trainer.devices": "trainer=gpu takes one GPU, trainer=ddp all of them.",
    "trainer.precision": "It is 32, bf16, fp16 or 64.",
    "trainer.progress": "It is auto, rich, plain or none.",
    "trainer=debug": "It runs three batches of each kind, for two epochs.",
    "trainer.limit_train_batches": "It takes so many batches an epoch; dataset.limit_train=N takes N images alone.",
    "--print-config": "It checks and prints the configuration and runs nothing.",
    "resume": "It names a run directory or a checkpoint: resume=outputs/latest.",
    "optim": "It is a group: optim=radamw.",
    "loss": "It is a group: loss=pairwise.",
    "model": "It is a group: model=hecnn_r18.",
    "optim.schedule": "It is given whole: optim.schedule={name:cosine,warmup:0.1,final:0.0}.",
    "dataset.root": "It is of data sets that lie in files, such as dataset=image_folder.",
    "dataset.num_workers": "It is of data sets that decode files for every batch, such as dataset=image_folder_224.",
}
# A choice that a group does not offer: what to type in its place.
CHOICES = {
    "model": {
        "resnet18": "model=hecnn_r18, or model=euclidean_r18 for the network without hyperbolic layers",
        "resnet50": "model=hecnn_r50, or model=euclidean_r50 for the network without hyperbolic layers",
        "resnet": "model=hecnn_r18, or model=euclidean_r18 for the network without hyperbolic layers",
        "vit_s": "model=hyp_vit_s, or model=sph_vit_s on the sphere",
        "vit": "model=hyp_vit_s, or model=sph_vit_s on the sphere",
        "vit_small": "model=hyp_vit_s, or model=sph_vit_s on the sphere",
        "vit_small_patch16_224": "model=hyp_vit_s, or model=sph_vit_s on the sphere",
        "dino": "model=hyp_dino_vit_s",
        "deit": "model=hyp_deit_s",
        "hcnn": "model=hcnn_r18",
        "hecnn": "model=hecnn_r18",
    },
    "backbone": {
        "resnet50": "backbone=r50",
        "resnet18": "model.backbone=resnet18.a1_in1k, a name of timm",
        "vit": "backbone=vit_s",
        "vit_small": "backbone=vit_s",
        "dino": "backbone=dino_vit_s",
        "deit": "backbone=deit_s",
    },
    "dataset": {
        "mnist": "dataset=digits, or dataset=fashion_mnist",
        "cifar": "dataset=cifar10",
        "cub200": "dataset=cub",
        "cub_200_2011": "dataset=cub",
        "cars196": "dataset=cars",
        "stanford_cars": "dataset=cars",
        "tinyimagenet": "dataset=tiny_imagenet",
        "imagenet": "dataset=image_folder_224 with dataset.root=<its folder>",
        "imagefolder": "dataset=image_folder",
        "folder": "dataset=image_folder",
        "csv": "dataset=csv_retrieval",
    },
    "optim": {
        "adam": "optim=radam, or optim=adamw for Euclidean models",
        "riemannian_adam": "optim=radam",
        "riemannian_sgd": "optim=rsgd",
    },
    "loss": {
        "triplet_loss": "loss=triplet",
        "triplet_margin": "loss=triplet",
        "cosface": "loss=normalized_softmax, which is CosFace with margin 0",
        "ce": "loss=cross_entropy",
        "crossentropy": "loss=cross_entropy",
        "infonce": "loss=pairwise",
        "ntxent": "loss=pairwise",
        "supcon": "loss=pairwise",
        "proxynca": "loss=proxy_nca",
        "proxyanchor": "loss=proxy_anchor",
        "ms": "loss=multi_similarity",
    },
    "manifold": {
        "hyperboloid": "manifold=lorentz",
        "poincare_ball": "manifold=poincare",
        "poincareball": "manifold=poincare",
        "hyperbolic": "manifold=lorentz",
        "euclid": "manifold=euclidean",
    },
    "logger": {"tb": "logger=tensorboard", "wb": "logger=wandb", "none": "logger=csv, which is always written"},
    "trainer": {
        "cuda": "trainer=gpu",
        "fast_dev_run": "trainer=debug",
        "multi_gpu": "trainer=ddp",
        "default": "trainer=auto",
    },
}
# Values of Lightning and torch that mean the same as ours.
SAME: dict[str, dict[str, str]] = {
    "trainer.precision": {
        "16": "fp16",
        "16-mixed": "fp16",
        "bf16-mixed": "bf16",
        "32-true": "32",
        "float32": "32",
        "64-true": "64",
        "float64": "64",
    },
    "trainer.accelerator": {"cuda": "gpu"},
    "trainer.devices": {"-1": "auto"},
}
# Short flags of other command lines.
FLAGS = {"b": "batch_size", "e": "epochs", "j": "num_workers", "lr": "lr", "wd": "weight_decay", "a": "arch"}


def meant_key(key: str) -> str:
    """Return ` Did you mean ...?` for a dotted key that other libraries have, nothing for one that is in no table."""
    answer = answer_of(key)
    return "" if answer is None else f" Did you mean {answer}?{_about(answer)}"


def meant_choice(group: str, choice: str) -> str:
    """Return ` Did you mean ...?` for a choice that people type, nothing for one that is in no table."""
    answer = CHOICES.get(group, {}).get(choice.lower().replace("-", "_"))
    return "" if answer is None else f" Did you mean {answer}?"


def meant_word(word: str) -> str:
    """Return what a word without a sign is a choice of: ` Did you mean optim=radam?` for adam."""
    found = [hint for group in CHOICES if (hint := meant_choice(group, word))]
    values = [f" Did you mean {key}={word}?" for key, same in SAME.items() if word in same]
    return next(iter([*found, *values]), "") or meant_key(word)


def meant_flag(flag: str, value: str | None) -> str:
    """Return how a setting that was typed as a flag is written, nothing for a flag that is in no table."""
    name = flag.lstrip("-").replace("-", "_")
    answer = answer_of(FLAGS.get(name, name))
    if answer is None:
        return ""
    settled = "=" in answer or answer.startswith("--")
    written = answer if settled else f"{answer}={'...' if value is None else value}"
    return f"{flag}: settings are written key=value, without dashes. Did you mean {written}?{_about(answer)}"


def answer_of(key: str) -> str | None:
    """Return what to type in place of a key, whole or by its last part; None for one that is in no table."""
    return KEYS.get(key) or KEYS.get(key.rpartition(".")[2].lower())


def _about(answer: str) -> str:
    return f" {ABOUT[answer]}" if answer in ABOUT else ""


def with_our_values(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the values of `SAME` as our own, so that both ways of typing name one run."""
    for key, same in SAME.items():
        group, _, name = key.partition(".")
        node = config.get(group)
        if isinstance(node, Mapping) and isinstance(node.get(name), (str, int)) and str(node[name]) in same:
            config = {**config, group: {**node, name: same[str(node[name])]}}
    return config
