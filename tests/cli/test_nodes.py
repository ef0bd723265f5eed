"""One run on two machines: two launchers on this one, and torchrun, train what one process trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.testing import assert_close

from hyplearn.training.settings import TrainerSettings
from hyplearn.training.trainer import devices_of_node, node_count

ROOT = Path(__file__).parents[2]
RUN = [
    *("model=euclidean_r18", "model.width=4", "dataset=synthetic", "dataset.source.train_size=64"),
    *("dataset.source.test_size=32", "dataset.batch_size=16", "trainer=cpu", "trainer.max_epochs=1"),
    *("trainer.progress=plain", "callbacks.figures=false", "callbacks.geometry=false", "trainer.limit_train_batches=1"),
]


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def started(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "HYPLEARN_RUN"))}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**clean, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_two_launchers_train_one_run(tmp_path: Path) -> None:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = ["train.py", *RUN, "trainer.num_nodes=2", f"output_dir={tmp_path / 'two'}"]
    nodes = [started(command, NODE_RANK=str(rank), **meeting) for rank in range(2)]
    told = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told
    one = started(["train.py", *RUN, f"output_dir={tmp_path / 'one'}"])
    text = one.communicate(timeout=300)[0]
    assert one.returncode == 0, text
    two = results(tmp_path / "two")
    # batch norm sees the half of each process: the first loss of the untrained network is close, not equal
    assert two["steps"] == results(tmp_path / "one")["steps"]
    assert_close(two["metrics"]["train/loss"], results(tmp_path / "one")["metrics"]["train/loss"], rtol=0.3, atol=0)
    manifest = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert [session["processes"] for session in manifest["sessions"]] == [2]
    assert "written to" in told[0]
    assert "written to" not in told[1]


def test_torchrun_says_how_many(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}", "train.py"]
    run = started([*launcher, *RUN, f"output_dir={folder}"])
    text = run.communicate(timeout=300)[0]
    assert run.returncode == 0, text
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [session["processes"] for session in manifest["sessions"]] == [2]


def test_nodes_need_one_directory() -> None:
    run = started(["train.py", *RUN, "trainer.num_nodes=2"])
    text = run.communicate(timeout=120)[0]
    assert run.returncode == 2, text
    assert "trainer.num_nodes=2: the nodes write to one directory" in text


@pytest.mark.parametrize(
    ("settings", "counts"), [({}, (4, 2)), ({"devices": "auto"}, (4, 2)), ({"devices": 3, "num_nodes": 5}, (3, 5))]
)
def test_what_torchrun_started_counts_where_nothing_is_set(
    settings: dict[str, Any], counts: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    trainer = TrainerSettings(accelerator="cpu", **settings)
    assert (devices_of_node(trainer), node_count(trainer)) == counts
