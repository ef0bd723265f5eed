from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hyplearn
from hyplearn.cli import train as train_command
from hyplearn.cli.commands import COMMANDS, KINDS, parser_of
from hyplearn.data.errors import DatasetError
from hyplearn.errors import Interrupted, NonFiniteLoss

SOURCE = Path(hyplearn.__file__).parents[1]


def test_help_answers_at_once_without_torch_and_lists_every_choice(tmp_path: Path) -> None:
    program = (
        "import json, sys\n"
        f"sys.path.insert(0, {str(SOURCE)!r})\n"
        "from hyplearn.cli.main import main\n"
        "status = main(['train', '--help'])\n"
        "print(json.dumps([status, [name for name in ('torch', 'pytorch_lightning', 'wandb') if name in sys.modules]]))"
    )
    start = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 3
    assert json.loads(answer.stdout.splitlines()[-1]) == [0, []]
    for choice in (
        "hecnn_r18*",
        "hcnn_original_r18",
        "radamw",
        "cifar100",
        "tensorboard",
        "debug",
        "bdeir_table5_... (4)",
        "demo_retrieval",
    ):
        assert choice in answer.stdout


def test_help_names_keys_that_exist_with_their_defaults(command) -> None:
    text = command("train", "--help").out
    assert "optim.lr=0.1 " in text
    assert "trainer.max_epochs=" in text
    assert "manifold.learned=true" in text
    assert "evaluation.k=[1,2,4,8] " in text
    assert max(map(len, text.splitlines())) <= 120


def test_help_lists_every_command_with_its_line(command) -> None:
    text = command("--help").out
    for name, about in COMMANDS.items():
        assert re.search(rf"(?m)^  {name} +{re.escape(about.about)}$", text), name


def every_command() -> list[list[str]]:
    return [*([name] for name in COMMANDS), *(["plot", kind] for kind in KINDS)]


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_help_of_a_command_is_made_of_its_parser(command, words: list[str]) -> None:
    answer = command(*words, "--help")
    assert (answer.status, answer.err) == (0, "")
    if words == ["train"]:
        return
    assert answer.out.startswith(f"usage: hyplearn {' '.join(words)} [-h]")
    assert max(map(len, answer.out.splitlines())) <= 100
    if words == ["plot"]:
        return
    parser = parser_of(words[-1], {**COMMANDS, **KINDS}[words[-1]])
    for action in parser._actions:  # argparse lists them nowhere else
        assert action.help, f"{action.dest} says nothing of itself"


def test_help_of_no_command_imports_torch(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(SOURCE)!r})\n"
        "from hyplearn.cli.commands import overview\n"
        "overview(complete=True)\n"
        "print([name for name in ('torch', 'pytorch_lightning', 'wandb', 'matplotlib') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["evaluate", "--help"], ["train", "model=x", "-h"]])
def test_help_is_status_0(command, arguments: list[str]) -> None:
    result = command(*arguments)
    assert result.status == 0
    assert "hyplearn" in result.out


def test_version(command) -> None:
    result = command("--version")
    assert (result.status, result.out) == (0, f"hyplearn {hyplearn.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'"),
        (["train", "--multi"], "unrecognized arguments: --multi"),
        (["train", "--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["train", "--cfg", "job", "-m", "seed=1,2"], "--multirun and --cfg ask for two things at once"),
        (["train", "--resolve"], "add --cfg job"),
        (["train", "-p", "loss"], "add --cfg job"),
        (["train", "-sc"], "--shell-completion needs a word such as install=bash"),
        (["train", "=3"], "'=3' is no override"),
        (["train", "--jobs", "2"], "--jobs and --jobs-per-gpu are for several jobs: add -m"),
        (["train", "--config-name", "nope"], "no configuration nope.yaml. (--config-name takes: train)"),
        (["train", "--config-dir", "nowhere"], "nowhere is no folder"),
        (["evaluate"], "needs a run directory or a checkpoint"),
        (["evaluate", "nowhere"], "nowhere does not exist"),
    ],
)
def test_wrong_arguments_are_status_2(command, arguments: list[str], message: str) -> None:
    result = command(*arguments)
    assert result.status == 2
    assert result.err.startswith("error: ")
    assert message in result.err


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (NonFiniteLoss("loss is nan after batch 3", Path("run/nonfinite.json")), 3, "report: run/nonfinite.json"),
        (Interrupted(15, Path("run/checkpoints/last.ckpt")), 143, "resume=run/checkpoints/last.ckpt"),
        (Interrupted(2), 130, "no checkpoint was written"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (DatasetError("place cifar.tar.gz in data"), 1, "place cifar.tar.gz in data"),
    ],
)
def test_what_ends_a_run_is_a_message_and_an_exit_status(
    command, monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, message: str
) -> None:
    def fail(*arguments: object, **options: object) -> int:
        raise raised

    monkeypatch.setattr(train_command, "train", fail)
    result = command("train")
    assert result.status == status
    assert message in result.err
    assert "Traceback" not in result.err


def test_an_unforeseen_error_keeps_its_traceback(command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr(train_command, "train", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        command("train")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/last.ckpt"), ("out/last.ckpt: No space", "Make room")),
        (OSError(errno.EROFS, "Read-only file system", "out"), ("out: Read-only", "Name an output_dir")),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), ("File name too long", "Name a shorter path")),
        (OSError(errno.EMFILE, "Too many open files"), ("Too many open files", "ulimit -n")),
        (PermissionError(errno.EACCES, "Permission denied", b"caf\xe9"), ("Permission denied", "caf")),
        (OSError(errno.EIO, "Input/output error", "disk"), ("disk: Input/output error", "What was saved before")),
        (MemoryError(), ("out of memory", "dataset.batch_size")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_system_refuses_is_one_message(
    command, monkeypatch: pytest.MonkeyPatch, error: Exception, words: tuple[str, str]
) -> None:
    def refused(argv: object) -> int:
        raise error

    monkeypatch.setattr(train_command, "train", refused)
    answer = command("train")
    assert answer.status == 1
    assert len(answer.err.splitlines()) == 1
    assert all(word in answer.err for word in words)


@pytest.mark.parametrize("key", ["output_dir", "resume", "dataset.root"])
def test_an_empty_path_is_refused(command, tmp_path: Path, key: str) -> None:
    answer = command("train", f"{key}=''")
    assert answer.status == 2
    assert f"{key} is empty" in answer.err
    assert not list(tmp_path.iterdir())


def test_the_home_directory_in_paths(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    quick = ("experiment=smoke", "trainer.limit_train_batches=1", "trainer.max_epochs=1", "callbacks.figures=false")
    assert command("train", *quick, "output_dir='~/run'").status == 0
    assert (tmp_path / "home/run/results.json").is_file()
    assert command("evaluate", str(tmp_path / "home/run")).status == 0
    assert not (tmp_path / "~").exists()
