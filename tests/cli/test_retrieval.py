"""Retrieval as a user runs it: every head with every loss, on every layout of files, and what can go wrong."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hyplearn.config.folders import config_dir, groups
from tests.support.retrieval_trees import make_cars, make_cub, make_inshop, make_sop, write_picture

TINY = [
    "trainer.max_epochs=1",
    "trainer.num_threads=1",
    "trainer.progress=none",
    "callbacks=minimal",
    "dataset.val_fraction=0.4",
    "dataset.batch_size=6",
    "dataset.images_per_class=2",
    "dataset.num_workers=0",
]
SMALL = ["model.small.width=12", "model.small.depth=1", "model.small.heads=2"]
UNTRAINED = ["backbone=vit_small_images", *SMALL, "dataset.mean=[0.5]", "dataset.std=[0.5]"]

LOSSES = [name for name in groups([config_dir()])["loss"] if name != "cross_entropy"]
HEADS = ("sph", "hyp", "mix", "hier", "lhier")
GEOMETRY = "loss.similarity=geometry"
ADAPTED = [name for name in LOSSES if name not in ("pairwise", "mix_convex", "hier", "lhier", "xbm")]


def senseless(head: str, loss: str) -> bool:
    return (loss in ("hier", "lhier") and head == "sph") or (loss == "mix_convex" and head != "mix")


PRODUCT = [(head, [f"loss={loss}"]) for head in HEADS for loss in LOSSES if not senseless(head, loss)]
PRODUCT += [(head, [f"loss={loss}", GEOMETRY]) for head in HEADS for loss in ADAPTED]
COVER = [  # every loss, every head, class proxies and pairs by cosine and in every geometry
    ("sph", ["loss=pairwise"]),
    ("hyp", ["loss=pairwise", "manifold.learned=true"]),
    ("mix", ["loss=pairwise", "loss.tau=[0.1,0.2]"]),
    ("mix", ["loss=mix_convex"]),
    ("hier", ["loss=hier"]),
    ("lhier", ["loss=lhier"]),
    ("hyp", ["loss=lhier"]),
    ("sph", ["loss=contrastive"]),
    ("mix", ["loss=fast_ap", GEOMETRY]),
    ("hyp", ["loss=margin", GEOMETRY]),
    ("lhier", ["loss=multi_similarity", GEOMETRY]),
    ("sph", ["loss=normalized_softmax"]),
    ("hyp", ["loss=proxy_anchor"]),
    ("lhier", ["loss=proxy_anchor", GEOMETRY]),
    ("hier", ["loss=proxy_nca", GEOMETRY]),
    ("hyp", ["loss=proxy_nca_pp", GEOMETRY]),
    ("mix", ["loss=soft_triple", GEOMETRY]),
    ("lhier", ["loss=xbm"]),
    ("lhier", ["loss=triplet", GEOMETRY]),
    ("hyp", ["loss=arcface", GEOMETRY]),
]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small data sets: cub, cars, cars_halves, sop, inshop, folder/ and table/images.csv."""
    root = tmp_path_factory.mktemp("trees")
    make_cub(root / "cub")
    make_cars(root / "cars")
    make_cars(root / "cars_halves", layout="halves")
    make_sop(root / "sop")
    make_inshop(root / "inshop")
    for number in range(1, 9):
        for index in range(4):
            write_picture(root / "folder" / f"kind {number}" / f"{index}.png", number, index)
    rows = [f"{path.relative_to(root / 'folder')},{path.parent.name}" for path in sorted(root.glob("folder/*/*"))]
    (root / "folder" / "images.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    return root


def train(command, *overrides: str) -> tuple[dict, Path]:
    """Results and directory of a run that has to succeed."""
    done = command("train", *TINY, *overrides, "output_dir=run")
    assert done.status == 0, done.err
    return json.loads(Path("run/results.json").read_text()), Path("run")


def check(results: dict, *, queries: int) -> None:
    metrics = results["metrics"]
    assert results["status"] == "finished"
    assert math.isfinite(metrics["train/loss"])
    assert metrics["test/queries"] == queries
    assert 0 <= metrics["test/recall@1"] <= metrics["test/recall@2"] <= 100
    assert 0 <= metrics["val/recall@1"] <= 100
    assert results["selection"]["rule"].startswith("best val/recall@1")


# Training


def train_on_cub(command, trees: Path, head: str, overrides: list[str]) -> None:
    where = ["dataset=cub", f"dataset.root={trees / 'cub'}", "dataset.image_size=16"]
    results, _ = train(command, f"model={head}_vit_s", *where, *UNTRAINED, *overrides)
    check(results, queries=12)
    assert results["dataset"]["classes"] == {"train": 3, "val": 2, "test": 3}


@pytest.mark.parametrize(("head", "overrides"), COVER, ids=[f"{head}-{'-'.join(rest)}" for head, rest in COVER])
def test_heads_and_losses_train(command, trees: Path, head: str, overrides: list[str]) -> None:
    train_on_cub(command, trees, head, overrides)


def test_the_fast_runs_cover_all_heads_and_losses() -> None:
    assert {head for head, _ in COVER} == set(HEADS)
    assert {overrides[0].removeprefix("loss=") for _, overrides in COVER} == set(LOSSES)
    assert {head for head, overrides in COVER if GEOMETRY in overrides} == set(HEADS) - {"sph"}


@pytest.mark.slow
@pytest.mark.parametrize(("head", "overrides"), PRODUCT, ids=[f"{head}-{'-'.join(rest)}" for head, rest in PRODUCT])
def test_every_head_trains_with_every_loss_that_makes_sense(
    command, trees: Path, head: str, overrides: list[str]
) -> None:
    train_on_cub(command, trees, head, overrides)


@pytest.mark.parametrize(
    ("data", "head", "loss", "queries"),
    [
        ("cars", "sph", "pairwise", 12),
        ("cars", "lhier", "lhier", 12),
        ("cars_halves", "mix", "pairwise", 12),
        ("sop", "hyp", "pairwise", 20),
        ("sop", "hier", "hier", 20),
        ("inshop", "mix", "pairwise", 10),
        ("inshop", "lhier", "proxy_anchor", 10),
    ],
)
def test_official_layouts_train(command, trees: Path, data: str, head: str, loss: str, queries: int) -> None:
    where = [f"dataset={data.partition('_')[0]}", f"dataset.root={trees / data}", "dataset.image_size=16"]
    results, _ = train(command, f"model={head}_vit_s", *where, *UNTRAINED, f"loss={loss}", "evaluation.k=[1,2]")
    check(results, queries=queries)


@pytest.mark.parametrize(
    ("own", "head"),
    [
        (["dataset=image_folder_retrieval", "dataset.source.test_fraction=0.5"], "hyp"),
        (["dataset=image_folder_retrieval", "dataset.source.test_classes=[kind 1,kind 2,kind 5]"], "lhier"),
        (["dataset=csv_retrieval", "dataset.source.test_fraction=0.5"], "mix"),
    ],
)
def test_images_of_ones_own_train(command, trees: Path, own: list[str], head: str) -> None:
    where = [f"dataset.root={trees / 'folder'}", "dataset.image_size=16", "dataset.val_fraction=0.5"]
    results, _ = train(
        command, f"model={head}_vit_s", "backbone=vit_small_images", *SMALL, *own, *where, "dataset.batch_size=4"
    )
    check(results, queries=12 if head == "lhier" else 16)


@pytest.mark.parametrize(
    "model",
    [
        ["model=hyp_r50", "model.small.width=8"],
        ["model=lhier_r50", "model.small.width=8"],
        ["model=sph_deit_s", *SMALL],
        ["model=mix_dino_vit_s", *SMALL, "batch.chunk=4"],
    ],
)
def test_other_backbones_train_on_small_images_by_their_stand_in(command, trees: Path, model: list[str]) -> None:
    where = ["dataset=cub", f"dataset.root={trees / 'cub'}", "dataset.image_size=16"]
    results, _ = train(command, *model, *where)
    check(results, queries=12)


def test_a_whole_network_reads_weights_of_a_file(command, trees: Path, tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("resnet10t.c3_in1k", num_classes=0).state_dict(), tmp_path / "mine.pth")
    where = ["dataset=cub", f"dataset.root={trees / 'cub'}", "dataset.image_size=64"]
    model = ["model=hyp_r50", "model.backbone=resnet10t.c3_in1k", "model.weights=mine.pth", "model.head.size=16"]
    results, run_dir = train(command, *model, *where)
    check(results, queries=12)
    assert results["parameters"] > 4e6
    assert (run_dir / "embeddings" / "test.npz").is_file()


def test_selecting_on_test_is_stamped_on_the_results(command, trees: Path) -> None:
    where = ["dataset=cub", f"dataset.root={trees / 'cub'}", "dataset.image_size=16"]
    selecting = ["dataset.val_fraction=0", "dataset.select_on_test=true"]
    results, _ = train(command, "model=sph_vit_s", *where, *UNTRAINED, *selecting)
    assert "SELECTED ON TEST" in results["selection"]["rule"]


# A run is evaluated again


@pytest.fixture
def run_dir(command, trees: Path) -> Path:
    where = ["dataset=inshop", f"dataset.root={trees / 'inshop'}", "dataset.image_size=16"]
    _, run_dir = train(command, "model=mix_vit_s", *where, *UNTRAINED, "evaluation.k=[1,2,4]")
    return run_dir


def test_evaluate_and_recall_give_the_numbers_of_the_run(command, run_dir: Path) -> None:
    metrics = json.loads((run_dir / "results.json").read_text())["metrics"]
    tested = {name: value for name, value in metrics.items() if name.startswith("test/")}
    assert command("evaluate", str(run_dir)).status == 0
    (written,) = (run_dir / "evaluations").iterdir()
    assert json.loads(written.read_text())["metrics"] == pytest.approx(tested, abs=1e-6)
    written.unlink()

    other = command("evaluate", str(run_dir), "evaluation.k=[1,3]", "evaluation.index=torch")
    assert other.status == 0
    (written,) = (run_dir / "evaluations").iterdir()
    content = json.loads(written.read_text())
    assert content["overrides"] == ["evaluation.k=[1,3]", "evaluation.index=torch"]
    assert content["metrics"]["test/recall@1"] == pytest.approx(tested["test/recall@1"], abs=1e-6)
    assert tested["test/recall@2"] <= content["metrics"]["test/recall@3"] <= tested["test/recall@4"]
    assert "test/recall@4" not in content["metrics"]
    assert "test/recall@3" in other.out
    assert ["test/queries", "10"] in [line.split() for line in other.out.splitlines()]

    again = command("recall", str(run_dir / "embeddings" / "test.npz"), "--k", "1,2,4", "--json")
    assert again.status == 0
    found = json.loads(again.out)
    for name in ("recall@1", "recall@2", "recall@4", "map@r", "r_precision"):
        assert 100 * found[name] == pytest.approx(tested[f"test/{name}"], abs=1e-6)
    assert found["queries"] == tested["test/queries"] == 10

    refused = command("evaluate", str(run_dir), "model.head.size=64")
    assert refused.status == 2
    assert "model.head.size of a stored run stays as it is" in refused.err


def test_recall_of_arrays_of_ones_own(command) -> None:
    spaced = np.array([[0.0, 0.1], [0.0, 0.2], [0.5, 0.0], [0.6, 0.0], [-0.9, 0.0]])
    np.savez("mine.npz", embeddings=spaced, labels=np.array(["a", "a", "b", "b", "a"]))
    done = command("recall", "mine.npz", "--geometry", "poincare", "--c", "1", "--k", "1,4", "--json")
    assert done.status == 0
    found = json.loads(done.out)
    assert (found["recall@1"], found["recall@4"], found["queries"]) == (1.0, 1.0, 5)
    assert command("recall", "mine.npz").err.startswith("error: mine.npz names no metric: say the geometry")


# Pairs that make no sense, and mistakes


HYP = "model=hyp_vit_s"
MISTAKES = {
    "model=sph_vit_s loss=hier": ["none hyperbolic", "choose a hyp_, hier_ or lhier_ model"],
    "model=sph_vit_s loss=lhier": ["none hyperbolic", "choose a hyp_, hier_ or lhier_ model"],
    f"{HYP} loss=mix_convex": ["loss=mix_convex, model=hyp_vit_s", "needs a model of two spaces, as mix_*"],
    "model=mix_vit_s loss=mix_convex model.head.branches.sphere=null": ["needs a model of two spaces", "(poincare)"],
    "model=hecnn_r18 dataset=digits_retrieval": ["is a classifier", "use dataset=digits", "a model such as hyp_vit_s"],
    f"{HYP} dataset=digits": ["is a retrieval model", "use dataset=digits_retrieval", "a model such as hecnn_r18"],
    f"{HYP} loss=cross_entropy": ["loss=cross_entropy is computed from logits", "use loss=pairwise"],
    "model=hecnn_r18 loss=pairwise": ["loss=pairwise is computed from embeddings", "use loss=cross_entropy"],
    "evaluation=default": ["evaluation", "would be ignored by a classifier"],
    f"{HYP} dataset.sampler=shuffled dataset.images_per_class=null": [
        "loss=pairwise compares 2 or more images of each class",
        "use dataset.sampler=class_balanced dataset.images_per_class=2",
    ],
    f"{HYP} dataset.sampler=shuffled": ["set images_per_class=null"],
    f"{HYP} dataset.images_per_class=1": ["dataset.images_per_class=2 or more, not 1"],
    f"{HYP} dataset.batch_size=100": ["needs 5 classes, but 3 are trained on", "set batch_size to 60"],
    f"{HYP} dataset.batch_size=61": ["multiple of images_per_class=20, and hold", "got 61: try 40"],
    f"{HYP} dataset.val_fraction=0.2": ["holds out 1 and keeps 4", "set val_fraction=0.4 or set val_fraction=0"],
    f"{HYP} dataset.select_on_test=true": ["set val_fraction=0 with it, or select_on_test=false"],
    f"{HYP} dataset=image_folder_retrieval": ["dataset.root is missing: give it a value"],
    f"{HYP} dataset=image_folder_retrieval dataset.root=nowhere": ["nowhere/train/<class>/", "test_fraction=0.5"],
    f"{HYP} dataset=csv_retrieval dataset.root=nowhere": ["nowhere/images.csv is no file", "columns path and label"],
    f"{HYP} model.weights=nowhere.pth": ["weights=nowhere.pth: there is no such file"],
    f"{HYP} manifold=sphere": ["clip=2.3 is for points of a hyperbolic space", "choose a hyperbolic manifold"],
    "model=lhier_vit_s manifold=poincare_embedding": ["a Lorentz neck needs manifold=lorentz_embedding"],
    "model=sph_vit_s manifold=poincare_embedding": ["its curvature would be ignored", "use manifold=sphere"],
    "model=mix_vit_s manifold=sphere": ["use manifold=poincare_embedding"],
    f"{HYP} manifold.c=0": ["c=0.0 must lie in bounds"],
    f"{HYP} evaluation.k=[]": ["evaluation.k=[]", "such as [1, 2, 4, 8]"],
    f"{HYP} evaluation.k=[2,1]": ["evaluation.k=[2, 1]", "increasing numbers from 1 on"],
    f"{HYP} evaluation.k=[1,a]": ["evaluation.k=[1, 'a']: expected a list of integers, got another list"],
    f"{HYP} evaluation.index=annoy": ["evaluation.index=annoy: expected one of auto, faiss, torch"],
    f"{HYP} evaluation.metrics=[cosin]": ["evaluation.metrics=['cosin']: expected a list of one of cosine, euclidean"],
    f"{HYP} callbacks.monitor=val/top1": ["one of val/recall@1, val/map@r, val/r_precision for a retrieval model"],
    "callbacks.monitor=val/recall@1": ["one of val/top1, val/top5, val/loss for a classifier"],
    "model=hyp_r50 batch.chunk=16": ["would normalise by statistics of a chunk", "set batch.chunk=null"],
    "batch.chunk=16": ["batch.chunk=16 is for retrieval"],
    f"{HYP} optim.scales={{head:2}}": ["optim.scales.head is no part", "backbone, neck, class_proxies"],
    f"{HYP} optim.scales={{neck:-1}}": ["optim.scales.neck=-1 must be at least 0"],
    "optim.scales={neck:2}": ["is for the parts of a retrieval run"],
    "model=lhier_vit_s optim=adamw": ["AdamW cannot train", "choose optim=rsgd, radam or radamw"],
    f"{HYP} loss.tau=[0.1,0.2]": ["loss=pairwise", "2 values for 1 space(s) (poincare)", "one number for all"],
    "model=mix_vit_s loss.tau=[0.1,0.2,0.3]": ["3 values for 2 space(s) (sphere, poincare)"],
    f"{HYP} loss.tau=0": ["tau=0.0 must be > 0"],
    f"{HYP} loss=xbm loss.size=4": ["size=4 of the memory must be at least the batch, 60 points"],
    f"{HYP} loss.spaces=1": ["loss.spaces follows from other settings and cannot be set"],
    f"{HYP} model.small=null": ["dataset.channels=3", "model.pretrained=false"],
    f"{HYP} model.small=null model.pretrained=false": ["image_size=8 is too small", "dataset.image_size=224"],
}


@pytest.mark.parametrize(("overrides", "parts"), MISTAKES.items(), ids=MISTAKES)
def test_mistakes_end_with_one_message_before_anything_is_read_or_written(
    overrides: str, parts: list[str], command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyplearn.data.datamodule import ImageDataModule

    monkeypatch.setattr(ImageDataModule, "setup", lambda *arguments: pytest.fail("data were read"))
    result = command("train", *overrides.split())
    assert result.status == 2
    errors = [line for line in result.err.splitlines() if not line.startswith("images of ")]  # which stand-in is used
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    for part in parts:
        assert part in errors[0]
    assert not list(tmp_path.iterdir())


def test_rates_of_absent_parts_are_told_and_do_not_stop_a_grid(command, caplog: pytest.LogCaptureFixture) -> None:
    for typed in ("optim.scales={class_proxies:100}", "optim.scales.class_proxies=100"):
        caplog.clear()
        assert command("train", "--print-config", HYP, typed).status == 0
        assert "optim.scales.class_proxies: no effect on loss=pairwise, which has no such parameters" in caplog.text


def test_pretrained_weights_without_a_network(command, trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setenv("HF_HOME", "empty")
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    result = command("train", HYP, "dataset=cub", f"dataset.root={trees / 'cub'}", *TINY)
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert "cannot be downloaded (Name or service not known)" in result.err
    assert "Set model.weights=<local file>, or model.pretrained=false" in result.err
    assert not Path("outputs").exists()


def test_weights_of_another_architecture(command, trees: Path) -> None:
    torch.save({"conv.weight": torch.zeros(2)}, "other.pth")
    result = command("train", HYP, "dataset=cub", f"dataset.root={trees / 'cub'}", *TINY, "model.weights=other.pth")
    assert result.status == 2
    assert "weights=other.pth lacks " in result.err
    assert "it belongs to another architecture than model.backbone" in result.err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("cars", ["cars not found below nowhere", "nowhere/cars196", "car_ims.tgz", "cars_train/", "dataset.root"]),
        ("inshop", ["inshop not found below nowhere", "Eval/list_eval_partition.txt", "Img/img.zip", "dataset.root"]),
    ],
)
def test_a_data_set_that_is_not_there(command, data: str, says: list[str]) -> None:
    overrides = [HYP, f"dataset={data}", "dataset.root=nowhere", "dataset.image_size=16", *UNTRAINED]
    result = command("train", *overrides)
    assert result.status == 1
    assert result.err.startswith("error: ")
    for part in says:
        assert part in result.err


def test_broken_and_missing_images_stop_a_run_or_are_skipped(command, trees: Path, tmp_path: Path) -> None:
    shutil.copytree(trees / "cub", tmp_path / "cub")
    images = tmp_path / "cub" / "CUB_200_2011" / "images"
    (images / "001.Bird_1" / "Bird_1_0000.jpg").unlink()
    (images / "002.Bird_2" / "Bird_2_0001.jpg").write_bytes(b"no picture")
    (images / "101.Bird_101" / "Bird_101_0002.jpg").write_bytes(b"no picture")
    overrides = [HYP, "dataset=cub", "dataset.root=cub", "dataset.image_size=16", *UNTRAINED, *TINY]
    stopped = command("train", *overrides, "output_dir=stopped")
    assert stopped.status == 1
    assert stopped.err.startswith("error: 3 of 32 images cannot be used:")
    for name, line in (("Bird_1_0000.jpg", 1), ("Bird_2_0001.jpg", 6), ("Bird_101_0002.jpg", 23)):
        (told,) = [text for text in stopped.err.splitlines() if name in text]
        assert f"images.txt, line {line}" in told
    assert "on_bad_image=skip" in stopped.err
    assert not Path("stopped/checkpoints").exists()

    results, _ = train(command, *overrides, "dataset.on_bad_image=skip")
    check(results, queries=11)
    skipped = results["dataset"]["skipped"]
    assert sorted(Path(path).name for paths in skipped.values() for path in paths) == [
        "Bird_101_0002.jpg",
        "Bird_1_0000.jpg",
        "Bird_2_0001.jpg",
    ]


# Mirrors


def test_weights_and_biases_offline_gets_curves_pictures_and_histograms(
    command, trees: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "nowhere")
    where = ["dataset=cub", f"dataset.root={trees / 'cub'}", "dataset.image_size=16"]
    monkeypatch.setattr("builtins.input", lambda *arguments: pytest.fail("asked"))
    told = command("train", *TINY, HYP, *where, *UNTRAINED, "callbacks=default", "logger=wandb", "output_dir=run")
    assert told.status == 0
    assert "to upload: wandb sync run/wandb/offline-run-" in (Path("run") / "train.log").read_text()
    (offline,) = Path("run/wandb").glob("offline-run-*")
    pictures = {path.name.split("_")[0] for path in offline.glob("files/media/images/test/*.png")}
    assert pictures == {"gallery", "radius"}
    (record,) = (path.read_bytes() for path in offline.glob("*.wandb"))
    for logged in (b"histogram", b"val/radius/poincare", b"test/radius/poincare", b"val/recall@1"):
        assert logged in record
