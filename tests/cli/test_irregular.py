"""What lies where a file is to be read and is none, and names that are no text: one message at once, nothing hangs."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from hyplearn.runs.bounded import read_text
from hyplearn.runs.regular import NoRegularFile, open_regular

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")

UNSPEAKABLE = os.fsdecode(b"caf\xe9")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS = {pipe: "a named pipe", bound_socket: "a socket", device: "a device"}
kinds = pytest.mark.parametrize("make", list(KINDS), ids=lambda make: make.__name__)


def replaced(path: Path, make: Callable[[Path], None]) -> None:
    path.unlink(missing_ok=True)
    make(path)


@pytest.fixture
def run(classifier_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(classifier_run, tmp_path / "outputs" / "run")
    shutil.copytree(classifier_run, tmp_path / "outputs" / "sound")
    return Path("outputs/run")


@kinds
def test_only_files_are_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "it")
    for read in (open_regular, read_text):
        with pytest.raises(NoRegularFile, match=KINDS[make]):
            read(tmp_path / "it")
    with pytest.raises(NoRegularFile, match="a folder"):
        open_regular(tmp_path)
    (tmp_path / "text").write_text("a")
    with open_regular(tmp_path / "text") as file:
        assert file.read() == b"a"


@kinds
@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "results.json", "metrics.csv"])
def test_files_of_a_run(command, run: Path, caplog, name: str, make: Callable[[Path], None]) -> None:
    replaced(run / name, make)
    for words in (("evaluate", str(run)), ("export", str(run)), ("train", f"resume={run}"), ("rerun", str(run))):
        answer = command(*words)
        assert answer.status == 2, (words, answer.out + answer.err)
        assert f"{name} cannot be read: it is {KINDS[make]}" in answer.err, words
    for words in (("report", "bdeir_table3"), ("reproduce", "bdeir_table3", "--dry-run")):
        caplog.clear()
        answer = command(*words)
        said = answer.out + answer.err + caplog.text
        assert answer.status == 0, said
        assert f"run/{name} cannot be read: it is {KINDS[make]}" in said, words


@kinds
def test_checkpoints(command, run: Path, make: Callable[[Path], None]) -> None:
    for name in ("best", "last"):
        replaced(run / "checkpoints" / f"{name}.ckpt", make)
    for words in (
        ("evaluate", str(run)),
        ("evaluate", f"{run}/checkpoints/last.ckpt"),
        ("export", str(run)),
        ("predict", f"{run}/checkpoints/last.ckpt", "outputs/sound/figures"),
        ("train", f"resume={run}", "trainer.max_epochs=3"),
        ("rerun", "outputs/sound", "--compare", str(run)),
    ):
        Path("outputs/sound/figures").mkdir(exist_ok=True)
        _picture(Path("outputs/sound/figures/a.png"))
        answer = command(*words)
        assert answer.status == 2, (words, answer.out + answer.err)
        assert f".ckpt cannot be read: it is {KINDS[make]}" in answer.err, (words, answer.err)


@kinds
@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_embeddings_and_weights(command, run: Path, ending: str, make: Callable[[Path], None]) -> None:
    name = f"given{ending}"
    make(Path(name))
    small = ("model=hyp_vit_s", "dataset=digits_retrieval", "trainer.accelerator=cpu")
    for words in (
        ("recall", name),
        ("delta", name),
        ("plot", "embeddings", name),
        ("train", *small, f"model.weights={name}"),
    ):
        answer = command(*words)
        assert answer.status == 2, (words, answer.out + answer.err)
        assert f"{name} cannot be read: it is {KINDS[make]}" in answer.err, (words, answer.err)


@kinds
def test_an_export(command, run: Path, make: Callable[[Path], None]) -> None:
    assert command("export", str(run), "--output", "model").status == 0
    _picture(Path("a.png"))
    replaced(Path("model/model.safetensors"), make)
    answer = command("predict", "model", "a.png")
    assert answer.status == 2, answer.out + answer.err
    assert f"model.safetensors cannot be read: it is {KINDS[make]}" in answer.err


@kinds
def test_pictures(command, run: Path, make: Callable[[Path], None]) -> None:
    _folders(Path("photos"))
    make(Path("photos/train/a/pipe.png"))
    answer = command("predict", str(run), "photos")
    assert answer.status == 1
    assert f"train/a/pipe.png: it is {KINDS[make]}" in answer.err
    set_of = ("dataset=image_folder", "dataset.root=photos", "dataset.image_size=8")
    for words in (("data", "verify", "image_folder", "dataset.root=photos"), ("train", *set_of)):
        answer = command(*words)
        assert answer.status == 1, (words, answer.out + answer.err)
        assert f"train/a/pipe.png: it is {KINDS[make]}" in answer.out + answer.err


@kinds
def test_lists_of_a_data_set(command, make: Callable[[Path], None]) -> None:
    Path("data").mkdir()
    make(Path("data/index.csv"))
    words = ("csv_retrieval", "dataset.root=data", "dataset.source.file=index.csv")
    answer = command("data", "verify", *words)
    assert answer.status == 1
    assert f"index.csv cannot be read: it is {KINDS[make]}" in answer.out
    for name in (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        make(Path("data") / name)
    answer = command("data", "verify", "fashion_mnist", "dataset.root=data")
    assert answer.status == 1
    assert KINDS[make] in answer.out


@kinds
def test_a_configuration_of_ones_own(command, make: Callable[[Path], None]) -> None:
    Path("mine/optim").mkdir(parents=True)
    make(Path("mine/optim/fast.yaml"))
    answer = command("train", "--config-dir", "mine", "optim=fast")
    assert answer.status == 2, answer.out + answer.err
    assert f"fast.yaml cannot be read: it is {KINDS[make]}" in answer.err


@pytest.mark.parametrize(
    "words",
    [
        ("train", f"output_dir={UNSPEAKABLE}"),
        ("train", f"resume={UNSPEAKABLE}/run"),
        ("train", "-m", "seed=1,2", f"output_dir={UNSPEAKABLE}"),
        ("train", f"dataset.root={UNSPEAKABLE}"),
        ("evaluate", UNSPEAKABLE),
        ("rerun", UNSPEAKABLE),
        ("export", "outputs/run", "--output", UNSPEAKABLE),
        ("predict", "outputs/run", UNSPEAKABLE),
        ("predict", "outputs/run", "outputs", "--output", f"{UNSPEAKABLE}.csv"),
        ("recall", f"{UNSPEAKABLE}.npz"),
        ("report", "bdeir_table3", "--runs", UNSPEAKABLE),
        ("data", "verify", "cub", f"dataset.root={UNSPEAKABLE}"),
        ("tune", f"experiment={UNSPEAKABLE}"),
        (UNSPEAKABLE,),
    ],
    ids=ascii,
)
def test_an_argument_that_is_no_text_is_named(command, run: Path, words: tuple[str, ...]) -> None:
    answer = command(*words)
    assert answer.status == 2
    assert r"caf\udce9" in answer.err
    assert "is not in UTF-8" in answer.err


def test_the_folder_in_which_a_command_is_typed_may_be_none(command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(UNSPEAKABLE).mkdir()
    monkeypatch.chdir(UNSPEAKABLE)
    answer = command("train")
    assert answer.status == 2
    assert r"caf\udce9 is not in UTF-8" in answer.err
    assert list(Path().iterdir()) == []


def test_pictures_of_such_names_are_bad_pictures(command, run: Path) -> None:
    _folders(Path("photos"))
    shutil.copy("photos/train/a/0.png", f"photos/train/a/{UNSPEAKABLE}.png")
    shutil.copy("photos/train/a/0.png", f"photos/test/b/{UNSPEAKABLE}.png")
    answer = command("data", "verify", "image_folder", "dataset.root=photos")
    assert answer.status == 1
    assert answer.out.count("its path is not in UTF-8") == 2
    assert command("data", "verify", "image_folder", "dataset.root=photos", "--json").status == 1
    small = (
        "model=hecnn_r18",
        "model.width=4",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "trainer.num_threads=1",
    )
    words = (
        "train",
        *small,
        "dataset=image_folder",
        "dataset.root=photos",
        "dataset.image_size=8",
        "dataset.batch_size=4",
    )
    answer = command(*words)
    assert answer.status == 1
    assert answer.err.count("its path is not in UTF-8") == 2
    answer = command(*words, "dataset.on_bad_image=skip", "callbacks.figures=false")
    assert answer.status == 0, answer.err
    answer = command("predict", str(run), "photos", "--skip-unreadable", "--output", "-")
    assert answer.status == 0
    assert answer.out.count("its path is not in UTF-8") == 2


def test_class_folders_of_such_names_are_told(command) -> None:
    _folders(Path("photos"))
    Path(f"photos/train/{UNSPEAKABLE}").mkdir()
    answer = command("train", "dataset=image_folder", "dataset.root=photos", "dataset.image_size=8")
    assert answer.status == 2
    assert "the name of its folder b'caf\\xe9' is not in UTF-8" in answer.err


def test_a_run_in_such_a_folder_is_read_with_the_others(command, run: Path) -> None:
    shutil.copytree(run, f"outputs/{UNSPEAKABLE}")
    for words in (
        ("report", "bdeir_table3", "--output", "table.md"),
        ("reproduce", "bdeir_table3", "--dry-run"),
        ("plot", "curvature", "outputs", "--output", "figures"),
        ("wandb-report", "bdeir_table3", "--output", "page"),
    ):
        answer = command(*words)
        assert answer.status == 0, (words, answer.out + answer.err)


def _folders(root: Path) -> None:
    for part in ("train", "test"):
        for kind in ("a", "b"):
            for number in range(4):
                (root / part / kind).mkdir(parents=True, exist_ok=True)
                _picture(root / part / kind / f"{number}.png")


def _picture(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), (10, 20, 30)).save(path)
