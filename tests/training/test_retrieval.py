"""A retrieval run: what it measures, what it leaves, how it continues, in chunks and in two processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from hyplearn.errors import Interrupted
from hyplearn.evaluation import store
from hyplearn.geometry import lorentz
from hyplearn.losses import ConvexCombination, CrossEntropy, PairwiseCrossEntropy, ProxyAnchor
from hyplearn.losses.hard_negatives import hard_negatives
from hyplearn.manifolds import Lorentz, Sphere
from hyplearn.models.necks import Branch
from hyplearn.nn.space import Space
from hyplearn.optim.settings import ConstantSchedule
from hyplearn.training.fit import evaluate, fit
from tests.support import retrieval_runs, runs
from tests.support.resuming import assert_same_end, at_step, stop_in

SPHERE = {"sphere": Branch("sphere")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("retrieval") / "finished"
    changes: dict[str, Any] = {"logger": {"tensorboard": True}, "evaluation": {"hard_negatives": True}}
    changes |= {"callbacks": {"figures": True}, "build_loss": lambda model: PairwiseCrossEntropy()}
    fit(retrieval_runs.spec(folder, **changes))
    return folder


def test_recall_is_that_of_a_float64_comparison_of_all_pairs(finished: Path) -> None:
    stored, metrics = store.load(finished / "embeddings" / "test.npz"), runs.results(finished)["metrics"]
    (u, x), labels = (p.double() for p in stored.points), stored.labels
    _, hyperbolic = stored.metrics
    weights = (hyperbolic.weight, hyperbolic.c)
    u = torch.nn.functional.normalize(u)  # float32 directions are of length 1 to 1e-7, which decides some ranks
    distance = 2 - 2 * u @ u.mT + weights[0] * lorentz.dist(x[:, None], x[None], c=weights[1])
    distance.fill_diagonal_(torch.inf)
    near = labels[distance.argsort(stable=True)] == labels[:, None]
    for k in (1, 2, 4, 8):
        assert metrics[f"test/recall@{k}"] == pytest.approx(100 * near[:, :k].any(1).double().mean().item())
    assert metrics["test/queries"] == 896 == len(labels)
    assert set(labels.tolist()) == {5, 6, 7, 8, 9}
    features = torch.nn.functional.normalize(stored.backbone.double())
    cosine = (features @ features.mT).fill_diagonal_(-torch.inf)
    first = (labels[cosine.argmax(1)] == labels).double().mean().item()
    assert metrics["test/backbone/recall@1"] == pytest.approx(100 * first)


def test_what_a_run_leaves(finished: Path) -> None:
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    expected = ["embeddings/test.npz", "embeddings/test.safetensors", "retrieval/classes.csv"]
    expected += [f"figures/{name}.png" for name in ("loss", "recall", "radius", "gallery", "curvature")]
    assert names >= set(expected)
    assert "figures/accuracy.png" not in names
    rows = list(csv.DictReader((finished / "metrics.csv").read_text().splitlines()))
    assert len(rows) == 2
    for name in ("val/recall@1", "val/map@r", "train/loss", "radius/lorentz/mean", "clipped/lorentz"):
        assert float(rows[-1][name]) >= 0
    assert any(name.startswith("hard_negatives/overlap") for name in rows[-1])
    assert "train/top1" not in rows[-1]
    classes = list(csv.DictReader((finished / "retrieval" / "classes.csv").read_text().splitlines()))
    assert [row["name"] for row in classes] == list("56789")
    total = sum(float(row["recall@1"]) * int(row["queries"]) for row in classes) / 896
    assert total == pytest.approx(runs.results(finished)["metrics"]["test/recall@1"], abs=1e-3)


def test_the_last_training_batch_is_kept_with_what_the_loss_compares_it_by(finished: Path) -> None:
    batch, last = store.load(finished / "embeddings" / "last_batch.npz"), read_last_row(finished)
    sphere, lorentz_metric = batch.embeddings.metrics
    assert (sphere.kind, lorentz_metric.kind) == ("sphere", "lorentz")
    assert sphere.weight == pytest.approx(1 / 0.2)  # weight/tau
    assert set(batch.labels.tolist()) <= set(range(5)) and len(batch.ids.unique()) == len(batch.ids)
    spaces = [Space(Sphere()), Space(Lorentz(lorentz_metric.c))]
    found = hard_negatives(batch.points, batch.labels, spaces, [sphere.weight, lorentz_metric.weight], nearest=6)
    assert found.fused.entropy == pytest.approx(last["hard_negatives/entropy"], rel=1e-3)


def read_last_row(folder: Path) -> dict[str, float]:
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return {name: float(text) for name, text in list(rows)[-1].items() if text}


def test_pictures_and_histograms_reach_tensorboard(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    figures = {"figures/curvature", "figures/loss", "figures/recall"}
    assert set(events.Tags()["images"]) == {"test/gallery", "test/radius"} | figures
    assert set(events.Tags()["histograms"]) == {"val/radius/lorentz", "test/radius/lorentz"}


def test_evaluating_the_checkpoint_gives_the_same_metrics(finished: Path) -> None:
    spec = retrieval_runs.spec(finished, build_loss=lambda model: PairwiseCrossEntropy())
    found = evaluate(spec, finished / "checkpoints" / "best.ckpt")
    tests = {name: value for name, value in runs.results(finished)["metrics"].items() if name.startswith("test/")}
    assert_close(found["metrics"], tests)


@pytest.mark.parametrize("step", [2, 5])
def test_proxies_curvature_and_batches_resume_bit_for_bit(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"evaluation": {"gallery": 0}}
    fit(retrieval_runs.spec(tmp_path / "whole", **changes))
    stop_in(monkeypatch, "on_after_backward", at_step(step), signal.SIGTERM)
    with pytest.raises(Interrupted):
        fit(retrieval_runs.spec(tmp_path / "parts", **changes))
    assert runs.checkpoint(tmp_path / "parts")["global_step"] == step + 1
    fit(retrieval_runs.spec(tmp_path / "parts", resume=tmp_path / "parts", **changes))
    assert_same_end(tmp_path / "parts", tmp_path / "whole")
    state = runs.checkpoint(tmp_path / "whole")["state_dict"]
    assert any(name.startswith("loss.") and name.endswith("rho") for name in state)


def test_chunks_train_as_whole_batches_do(tmp_path: Path) -> None:
    """Without random layers; with them, test_chunks.py compares one graph with the same random numbers."""
    changes: dict[str, Any] = {**retrieval_runs.EXACT, "evaluation": {"gallery": 0}}
    changes["trainer"] = {"gradient_clip": 1.0, "accumulate_grad_batches": 2}
    whole, parts = (
        fit(retrieval_runs.spec(tmp_path / name, batch={"chunk": chunk}, **changes))
        for name, chunk in (("whole", None), ("parts", 5))
    )
    assert_close(parts["metrics"]["train/loss"], whole["metrics"]["train/loss"], rtol=1e-5, atol=0)
    ours, theirs = (runs.checkpoint(tmp_path / name)["state_dict"] for name in ("parts", "whole"))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [None, 4])
def test_two_processes_train_and_evaluate_as_one(chunk: int | None, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"batch": {"chunk": chunk}, "evaluation": {"gallery": 0}}
    two = {**changes, "trainer": {"devices": 2, "max_epochs": 1}, "exact": True}
    command = [sys.executable, retrieval_runs.__file__, str(tmp_path / "two"), json.dumps(two)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert answer.returncode == 0, answer.stderr
    one = fit(retrieval_runs.spec(tmp_path / "one", trainer={"max_epochs": 1}, **changes, **retrieval_runs.EXACT))
    found = runs.results(tmp_path / "two")
    assert_close(found["metrics"]["train/loss"], one["metrics"]["train/loss"], rtol=1e-4, atol=1e-4)
    assert found["metrics"]["test/recall@1"] == pytest.approx(one["metrics"]["test/recall@1"], abs=0.5)
    assert found["metrics"]["test/queries"] == 896
    ours, theirs = (runs.checkpoint(tmp_path / name)["state_dict"] for name in ("two", "one"))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert answer.stdout.count("written to") == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16", "64"])
def test_other_precisions_train(precision: str, tmp_path: Path) -> None:
    settings = {"precision": precision, "max_epochs": 1, "gradient_clip": 3.0}
    results = fit(retrieval_runs.spec(tmp_path, trainer=settings, evaluation={"gallery": 0}))
    assert results["status"] == "finished"
    assert 0 < results["metrics"]["test/recall@1"] <= 100


def test_parts_learn_at_rates_of_their_own(tmp_path: Path) -> None:
    scales = {"neck": 10.0, "hierarchical_proxies": 50.0, "class_proxies": 100.0}
    optim = {"scales": scales, "schedule": ConstantSchedule(hold={"backbone": 1})}
    module = retrieval_runs.spec(tmp_path, optim=optim).build_module()
    groups = {group["name"]: group for group in module.optimization.parameter_groups(module)}
    rates = {name: group["lr"] for name, group in groups.items()}
    expected = {"backbone": 1e-3, "neck": 1e-2, "hierarchical_proxies": 5e-2, "scalars": 1e-3, "curvature": 1e-2}
    assert rates == pytest.approx(expected)
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "backbone": 1e-2, "neck": 1e-2, "hierarchical_proxies": 1e-2, "scalars": 0.0, "curvature": 0.0
    }  # fmt: skip
    rates = replace(module.optimization.settings, manifold_lr_scale=2.0, manifold_weight_decay=0.0)
    moved = replace(module.optimization, settings=rates)
    (points,) = [g for g in moved.parameter_groups(module) if g["name"] == "hierarchical_proxies"]
    assert (points["lr"], points["weight_decay"]) == (pytest.approx(0.1), 0.0)
    unknown = replace(module.optimization, settings=replace(rates, scales={"head": 2.0}))
    with pytest.raises(ValueError, match=r"optim.scales.head is no part of a model or loss: known are backbone, neck"):
        unknown.parameter_groups(module)


def test_a_backbone_that_is_held_does_not_move(tmp_path: Path) -> None:
    optim = {"schedule": ConstantSchedule(hold={"backbone": 1})}
    spec = retrieval_runs.spec(tmp_path, optim=optim, trainer={"max_epochs": 1}, evaluation={"gallery": 0})
    before = {name: value.clone() for name, value in spec.build_module().state_dict().items()}
    fit(spec)
    moved = {
        name for name, value in runs.checkpoint(tmp_path)["state_dict"].items() if not torch.equal(value, before[name])
    }
    assert moved
    assert not any(name.startswith("model.backbone") for name in moved)


def test_selection_on_the_test_classes_is_stamped(tmp_path: Path) -> None:
    data: dict[str, Any] = {"select_on_test": True, "val_fraction": 0.0}
    results = fit(retrieval_runs.spec(tmp_path, data=data, trainer={"max_epochs": 1}, evaluation={"gallery": 0}))
    assert results["selection"]["rule"] == "best val/recall@1 of the test classes: SELECTED ON TEST"
    assert results["dataset"]["selection"] == "test"
    assert "SELECTED ON TEST" in (store.load(tmp_path / "embeddings" / "test.npz").selection or "")
    assert evaluate(retrieval_runs.spec(tmp_path, data=data), tmp_path / "checkpoints" / "best.ckpt")[
        "selected_on_test"
    ]


def test_without_validation_the_last_epoch_counts(tmp_path: Path) -> None:
    data = {"val_fraction": 0.0, "batch_size": 20}
    results = fit(retrieval_runs.spec(tmp_path, data=data, trainer={"max_epochs": 1}, evaluation={"gallery": 0}))
    assert results["selection"]["rule"] == "last epoch"
    assert "val/recall@1" not in results["metrics"]


def test_part_of_the_images_can_be_evaluated_for_debugging(tmp_path: Path) -> None:
    limits = {"limit_val_batches": 1, "limit_test_batches": 1, "max_epochs": 1}
    results = fit(
        retrieval_runs.spec(tmp_path, data={"eval_batch_size": 64}, trainer=limits, evaluation={"gallery": 2})
    )
    assert 0 < results["metrics"]["test/queries"] <= 64


def test_ranks_that_are_not_reported_may_choose_the_checkpoint(tmp_path: Path) -> None:
    results = fit(retrieval_runs.spec(tmp_path, evaluation={"k": [2, 4], "gallery": 0}, trainer={"max_epochs": 1}))
    assert results["selection"]["rule"] == "best val/recall@1"
    assert "test/recall@1" not in results["metrics"]


def proxy_anchor(model: torch.nn.Module) -> ProxyAnchor:
    return ProxyAnchor(spaces=list(model.spaces), sizes=model.sizes, num_classes=3)


def test_a_loss_of_directions_trains_their_cosine(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"build_loss": proxy_anchor, "trainer": {"max_epochs": 1}}
    metrics = fit(retrieval_runs.spec(tmp_path, evaluation={"gallery": 0}, **changes))["metrics"]
    stored = store.load(tmp_path / "embeddings" / "test.npz")
    assert [metric.kind for metric in stored.metrics or ()] == ["sphere", "sphere"]
    assert {"test/sphere/recall@1", "test/lorentz/recall@1", "test/recall@1"} <= set(metrics)


def test_other_classes_than_those_trained_on_can_be_evaluated(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"build_loss": proxy_anchor, "trainer": {"max_epochs": 1}}
    trained = fit(retrieval_runs.spec(tmp_path, evaluation={"gallery": 0}, **changes))
    five = {"val_fraction": 0.0, "batch_size": 20}

    def of_five(model: torch.nn.Module) -> ProxyAnchor:
        return ProxyAnchor(spaces=list(model.spaces), sizes=model.sizes, num_classes=5)

    found = evaluate(
        retrieval_runs.spec(tmp_path, data=five, build_loss=of_five), tmp_path / "checkpoints" / "last.ckpt"
    )
    assert found["metrics"]["test/recall@1"] == pytest.approx(trained["metrics"]["test/recall@1"])


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_space_that_the_loss_leaves_out_ranks_nothing(lam: float, tmp_path: Path) -> None:
    loss = ConvexCombination(first=PairwiseCrossEntropy(), second=PairwiseCrossEntropy(), lam=lam)
    changes: dict[str, Any] = {"build_loss": lambda model: loss, "trainer": {"max_epochs": 1}}
    metrics = fit(retrieval_runs.spec(tmp_path, evaluation={"gallery": 1}, **changes))["metrics"]
    assert metrics["test/recall@1"] == metrics[f"test/{'lorentz' if lam else 'sphere'}/recall@1"]


def test_one_space_is_compared_with_other_metrics(tmp_path: Path) -> None:
    def hyperbolic() -> torch.nn.Module:
        return retrieval_runs.model(branches={"lorentz": Branch("lorentz")})

    asked = {"gallery": 0, "k": [1, 10], "metrics": ["cosine", "euclidean", "pixels"], "nmi": True}
    changes: dict[str, Any] = {"trainer": {"max_epochs": 1}, "evaluation": asked}
    metrics = fit(retrieval_runs.spec(tmp_path / "a", build_model=hyperbolic, **changes))["metrics"]
    beside = {name.split("/")[1] for name in metrics if name.startswith("test/") and name.count("/") == 2}
    assert beside == {"cosine", "euclidean", "backbone", "pixels"}
    assert "test/recall@10" in metrics
    assert metrics["test/pixels/recall@1"] == pytest.approx(98.88, abs=0.02)  # another implementation's number
    assert 0 < metrics["test/ami"] <= metrics["test/nmi"] <= 100


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"CrossEntropy is computed from 'logits': retrieval needs a loss of 'embed"):
        retrieval_runs.spec(tmp_path, build_loss=lambda model: CrossEntropy()).build_module()
    with pytest.raises(ValueError, match=r"evaluation.hard_negatives=true reads .* HierarchicalLoss has none"):
        retrieval_runs.spec(tmp_path, evaluation={"hard_negatives": True}).build_module()
    with pytest.raises(ValueError, match=r"trainer.val_every_epochs=3 must be at most max_epochs=2"):
        fit(retrieval_runs.spec(tmp_path, trainer={"val_every_epochs": 3}))
    with pytest.raises(ValueError, match=r"evaluation.k=\[4, 2\] must be increasing numbers from 1 on"):
        fit(retrieval_runs.spec(tmp_path, evaluation={"k": [4, 2]}))
    with pytest.raises(ValueError, match=r"callbacks.monitor='val/top1' must be one of val/recall@1, .* for a retr"):
        fit(retrieval_runs.spec(tmp_path, callbacks={"monitor": "val/top1"}))
    with pytest.raises(ValueError, match=r"callbacks.monitor='val/recall@1' must be one of .* for a classifier"):
        fit(runs.spec(tmp_path, callbacks={"monitor": "val/recall@1"}))
    with pytest.raises(ValueError, match=r"batch.chunk=4 is for retrieval"):
        fit(runs.spec(tmp_path, batch=retrieval_runs.BatchSettings(chunk=4)))
    assert not list(tmp_path.iterdir())


def test_a_sphere_has_no_radii(tmp_path: Path) -> None:
    fit(
        retrieval_runs.spec(
            tmp_path,
            build_model=lambda: retrieval_runs.model(branches=SPHERE, manifold="sphere"),
            build_loss=lambda model: PairwiseCrossEntropy(),
            trainer={"max_epochs": 1},
            callbacks={"figures": True},
        )
    )
    assert not (tmp_path / "figures" / "radius.png").exists()
    assert (tmp_path / "figures" / "gallery.png").exists()
