from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hyplearn.cli import export as command_module
from hyplearn.data.sources.datasets import Digits
from hyplearn.errors import ConfigError
from hyplearn.evaluation import store
from hyplearn.evaluation.metric import Embeddings
from hyplearn.inference import onnx
from hyplearn.inference.export import read_header
from hyplearn.inference.open import load_exported, open_trained

WEIGHTS_FILE = Path("model/model.safetensors")


def pixels(count: int = 50) -> torch.Tensor:
    return Digits().test(None).pixels[:count]


def test_the_exported_model_gives_equal_outputs(command, classifier_run: Path) -> None:
    answer = command("export", str(classifier_run), "--output", "model")
    assert answer.status == 0, answer.err
    exported, own = load_exported(Path("model"), device="cpu"), open_trained(classifier_run, device="cpu").model
    a, b = exported(pixels()), own(pixels())
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.points[0], b.points[0])
    assert exported.class_names == own.class_names == tuple("0123456789")
    assert exported.metrics == own.metrics


def test_the_header_tells_every_manifold(command, classifier_run: Path) -> None:
    command("export", str(classifier_run), "--output", "model")
    with safe_open("model/model.safetensors", framework="pt") as file:
        header = file.metadata()
    curvature = json.loads((classifier_run / "results.json").read_text())["curvature"]
    manifolds = json.loads(header["manifolds"])
    assert {name: facts["c"] for name, facts in manifolds.items()} == pytest.approx(curvature)
    assert {facts["kind"] for facts in manifolds.values()} == {"lorentz"}
    assert json.loads(header["metrics"])[0]["c"] == manifolds["decoder"]["c"]
    assert json.loads(header["data"]) == {"in_channels": 1, "num_classes": 10, "image_size": 8}


def test_predictions_of_the_export_are_those_of_the_run(command, retrieval_run: Path) -> None:
    command("export", str(retrieval_run), "--output", "model", "--index")
    a = load_exported(Path("model"), device="cpu")(pixels()).points[0]
    b = open_trained(retrieval_run, device="cpu").model(pixels()).points[0]
    assert torch.equal(a, b)


def test_an_export_is_searched_in_its_own_gallery(command, retrieval_run: Path, tmp_path: Path) -> None:
    pixel = tmp_path / "a.png"
    Image.fromarray(pixels(1)[0, ..., 0].numpy()).save(pixel)
    command("export", str(retrieval_run), "--output", "model")
    answer = command("predict", "model", str(pixel), "--output", "-")
    assert (answer.status, answer.out) == (2, "")
    assert "gallery.npz does not exist" in answer.err
    command("export", str(retrieval_run), "--output", "model", "--index")
    found = command("predict", "model", str(pixel), "--output", "-")
    assert found.status == 0, found.err
    assert found.out == command("predict", str(retrieval_run), str(pixel), "--output", "-").out
    assert json.loads(Path("model/gallery.json").read_text())["weights"] == read_header(WEIGHTS_FILE)["weights"]


def test_an_export_whose_weights_were_exchanged_is_refused(command, classifier_run: Path) -> None:
    command("export", str(classifier_run), "--output", "model")
    header = safe_open(WEIGHTS_FILE, framework="pt").metadata()
    tensors = {name: x + 1e-3 if x.is_floating_point() else x for name, x in load_file(WEIGHTS_FILE).items()}
    save_file(tensors, WEIGHTS_FILE, metadata=header)
    with pytest.raises(ConfigError, match="holds other weights than its header names"):
        load_exported(Path("model"))


def test_the_index_and_its_recipe_find_the_exact_neighbours(command, retrieval_run: Path) -> None:
    """By the recipe in gallery.json, written out here in NumPy."""
    answer = command("export", str(retrieval_run), "--output", "model", "--index")
    assert answer.status == 0, answer.err
    facts = json.loads(Path("model/gallery.json").read_text())
    assert facts["metric"]["kind"] == "poincare"
    stored = store.load(retrieval_run / "embeddings" / "test.npz")
    p, c = stored.points[0].double().numpy(), facts["metric"]["c"]
    x = 2 * p / (1 - c * np.square(p).sum(1, keepdims=True))
    k = c**-0.5
    x_t = np.sqrt(k * k + np.square(x).sum(1, keepdims=True))
    index = faiss.read_index("model/gallery.faiss")
    scores, ids = index.search(np.concatenate([-x_t, x], 1)[:20].astype(np.float32), 5)
    distances = 2 * k * np.arcsinh(np.sqrt(np.maximum(0, c / 2 * (k * (x_t[:20] - k) - scores))))
    assert (ids < len(p)).all()
    assert facts["ids"] == stored.ids.tolist()
    assert facts["labels"] == stored.labels.tolist()
    positions = torch.from_numpy(ids)
    exact = stored.embeddings.direct(
        torch.arange(20).repeat_interleave(5), stored.embeddings, positions.flatten()
    ).view(20, 5)
    np.testing.assert_allclose(distances, exact.numpy(), atol=0.02)
    assert "the 10 nearest are the exact ones for 100.0% when re-ranked" in answer.out


def test_the_card_says_what_the_run_recorded(command, classifier_run: Path) -> None:
    command("export", str(classifier_run), "--output", "model")
    card = Path("model/README.md").read_text()
    results = json.loads((classifier_run / "results.json").read_text())
    manifest = json.loads((classifier_run / "manifest.json").read_text())
    assert f"| test/top1 | {results['metrics']['test/top1']:.4g} |" in card
    assert results["selection"]["rule"] in card
    assert results["dataset"]["sha256"]["test"] in card
    assert manifest["run_id"] in card
    for value in results["curvature"].values():
        assert f"c = {value:.6g}" in card
    assert "SMOKE" not in card
    assert "200 images only" in card


def test_a_smoke_run_is_stamped(command) -> None:
    small = ("model.width=4", "dataset.limit_train=100", "trainer.max_epochs=1", "callbacks.figures=false")
    assert command("train", *small, "scale=smoke", "trainer.accelerator=cpu", "output_dir=run").status == 0
    answer = command("export", "run")
    header = read_header(Path("run/export/model.safetensors"))
    assert header["smoke"] is True
    assert header["selection"].startswith("SMOKE RUN, weights of")
    assert "SMOKE RUN" in answer.out
    assert "SMOKE RUN" in Path("run/export/README.md").read_text()


def test_other_weights_than_the_tested_have_no_results(command, classifier_run: Path) -> None:
    assert command("export", str(classifier_run), "--output", "model", "--checkpoint", "last").status == 0
    card = Path("model/README.md").read_text()
    assert "weights of last.ckpt, which was not tested" in card
    assert "| test/top1" not in card


def test_preprocessing_is_told(command, classifier_run: Path) -> None:
    command("export", str(classifier_run), "--output", "model")
    content = json.loads(Path("model/preprocessing.json").read_text())
    assert content["input"]["shape"] == ["batch", 1, 8, 8]
    assert content["steps"][-1]["mean"] == pytest.approx([0.305])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a run directory"),
        (["nowhere"], "nowhere does not exist"),
        (["{run}/checkpoints/last.ckpt"], "is a checkpoint: name its run directory"),
        (["{run}", "--checkpoint", "frist"], "--checkpoint frist: frist does not exist"),
        (["{run}", "--gallery", "a.npz"], "--gallery a.npz would be ignored"),
        (["{run}", "--index"], "name the images to search in with --gallery"),
        (["{run}", "--output", "full"], "full holds other files"),
    ],
)
def test_what_does_not_fit_is_told(command, classifier_run: Path, arguments: list[str], message: str) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").touch()
    answer = command("export", *(text.format(run=classifier_run) for text in arguments))
    assert answer.status == 2
    assert message in answer.err


def test_a_missing_package_is_told_before_anything_is_written(
    command, monkeypatch: pytest.MonkeyPatch, classifier_run: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        command_module.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    answer = command("export", str(classifier_run), "--output", "model", "--onnx")
    assert answer.status == 2
    assert "--onnx needs onnxscript: pip install 'hyplearn[onnx]'" in answer.err
    assert not Path("model").exists()


def test_the_onnx_graph_computes_what_the_network_computes(command, retrieval_run: Path) -> None:
    answer = command("export", str(retrieval_run), "--output", "model", "--onnx")
    assert answer.status == 0, answer.out + answer.err
    import onnxruntime

    session = onnxruntime.InferenceSession("model/encoder.onnx", providers=["CPUExecutionProvider"])
    model = load_exported(Path("model"), device="cpu")
    images = model.normalization(pixels(7).permute(0, 3, 1, 2)).contiguous()
    (answered,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(answered, model(pixels(7)).points[0].numpy(), atol=1e-5)
    same = re.search(r"the 10 nearest of the test images are the same for ([0-9.]+)%", answer.out)
    assert same is not None
    assert float(same[1]) >= 99  # two libraries round differently, which turns near ties around


def test_a_graph_that_answers_nan_is_no_graph(command, monkeypatch: pytest.MonkeyPatch, retrieval_run: Path) -> None:
    both = onnx._both

    def broken(*arguments):
        graph, network = both(*arguments)
        graph[0][3] = torch.nan
        return graph, network

    monkeypatch.setattr(onnx, "_both", broken)
    answer = command("export", str(retrieval_run), "--output", "model", "--onnx")
    assert answer.status == 1
    assert "failed: the ONNX graph differs from the network: embedding by up to inf" in answer.out
    assert not Path("model/encoder.onnx").exists()


@pytest.mark.slow
def test_a_network_on_the_hyperboloid_has_an_onnx_form(command, classifier_run: Path) -> None:
    """Its translation takes most of a minute."""
    answer = command("export", str(classifier_run), "--output", "model", "--onnx")
    assert answer.status == 0, answer.out + answer.err
    assert "the class for 100.0%" in answer.out


def test_an_index_that_loses_neighbours_is_no_index(command, retrieval_run: Path) -> None:
    """Float32 cannot tell points apart that lie as close together as these."""
    own = store.load(retrieval_run / "embeddings" / "test.npz")
    near = own.points[0][:1] + 1e-5 * (own.points[0] - own.points[0].mean(0))
    store.save(Path("near.npz"), Embeddings(near, own.metrics), own.labels)
    answer = command("export", str(retrieval_run), "--output", "model", "--index", "--gallery", "near.npz")
    assert answer.status == 1
    assert "failed: the index in float32 loses exact neighbours" in answer.out
    assert not Path("model/gallery.faiss").exists()
    assert Path("model/model.safetensors").is_file()
