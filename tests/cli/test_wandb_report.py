from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyplearn.cli.wandb_report import build_report, offline_runs
from hyplearn.config.compose import compose
from hyplearn.runs.atomic import write_json, write_yaml
from hyplearn.runs.directory import RunDirectory
from tests.support.commands import SMALL, Command

EXPERIMENT = "bdeir_table3_cifar100_hecnn_r50"
MakeRun = Callable[..., str]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Leave a finished run of the cell below tmp_path/runs; returns its id."""

    def make(name: str, top1: float, *overrides: str, status: str = "finished") -> str:
        path = tmp_path / "runs" / name
        write_yaml(path / "config.yaml", compose([f"experiment={EXPERIMENT}", *overrides]).config)
        selection = {"rule": "last epoch", "epoch": 200}
        dataset = {"name": "CIFAR-100", "sha256": {"train": "0123456789abcdef"}}
        write_json(
            path / "results.json",
            {"status": status, "metrics": {"test/top1": top1}, "selection": selection, "dataset": dataset},
        )
        return RunDirectory(path).id

    return make


def row_of(path: Path) -> dict[str, Any]:
    """Of the one table in dashboard.json, the row of the cell."""
    (section,) = json.loads(path.read_text())["sections"]
    (row,) = [row for row in section["rows"] if row["cell"] == EXPERIMENT]
    return dict(row)


def test_measured_stands_beside_published(command: Command, make_run: MakeRun, tmp_path: Path) -> None:
    ids = [make_run("a", 80.0, "seed=1"), make_run("b", 82.0, "seed=2")]
    make_run("smoke", 1.0, "seed=3", "scale=smoke")
    make_run("failed", 1.0, "seed=4", status="failed")
    make_run("other", 1.0, "seed=5", "optim.lr=0.5")
    result = command("wandb-report", "bdeir_table3", "--runs", "runs", "--output", "report")
    assert result.status == 0, result.err
    assert "bdeir_table3: 1 of 12 numbers measured" in result.out
    row = row_of(tmp_path / "report" / "dashboard.json")
    assert (row["published"], row["measured"], row["n"]) == (80.86, 81.0, 2)
    assert row["std"] == pytest.approx(2**0.5)
    assert row["difference"] == pytest.approx(0.14)
    assert row["run_ids"].split() == ids
    assert (row["protocol"], row["selection"], row["data"]) == ("paper", "last epoch", "CIFAR-100 0123456789ab")
    (table,) = (tmp_path / "report").rglob("*.table.json")
    content = json.loads(table.read_text())
    logged = [dict(zip(content["columns"], values, strict=True)) for values in content["data"]]
    assert [entry["measured"] for entry in logged if entry["cell"] == EXPERIMENT] == [81.0]
    (run,) = offline_runs([tmp_path])
    assert result.out.splitlines()[-1] == f"to upload all offline runs: wandb sync {run.relative_to(tmp_path)}"


def test_without_runs_the_published_values_stand_alone(command: Command, tmp_path: Path) -> None:
    assert command("wandb-report", "bdeir_table3").status == 0
    row = row_of(tmp_path / "outputs" / "wandb_report" / "dashboard.json")
    assert (row["published"], row["measured"], row["n"], row["protocol"]) == (80.86, None, 0, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bdeir_table33",), "Did you mean bdeir_table3?"),
        (("--runs", "nowhere"), "nowhere is no folder"),
        (("--publish",), "--publish"),
        (("--protocol", "mine"), "mine"),
    ],
)
def test_mistakes_are_told_before_runs_are_read(command: Command, arguments: tuple[str, ...], said: str) -> None:
    result = command("wandb-report", *arguments)
    assert result.status == 2
    assert said in result.err
    assert not Path("outputs").exists()


def test_help_names_the_tables(command: Command) -> None:
    assert "yue_table2" in command("wandb-report", "--help").out


def test_of_a_resumed_run_the_last_folder_is_uploaded_and_none_twice(tmp_path: Path) -> None:
    for stamp, name in (("20250101_000000", "aa"), ("20250102_000000", "aa"), ("20250103_000000", "bb")):
        folder = tmp_path / "run" / "wandb" / f"offline-run-{stamp}-{name}"
        folder.mkdir(parents=True)
        (folder / f"run-{name}.wandb").write_bytes(b"x")
    (tmp_path / "run" / "wandb" / "offline-run-20250103_000000-bb" / "run-bb.wandb.synced").touch()
    assert [path.name for path in offline_runs([tmp_path])] == ["offline-run-20250102_000000-aa"]


def test_many_offline_runs_are_listed_in_a_file(command: Command, tmp_path: Path) -> None:
    for number in range(10):
        folder = tmp_path / "runs" / str(number) / "wandb" / f"offline-run-20250101_000000-r{number}"
        folder.mkdir(parents=True)
        (folder / f"run-r{number}.wandb").write_bytes(b"x")
    result = command("wandb-report", "bdeir_table5", "--runs", "runs", "--output", "report")
    assert result.out.splitlines()[-1].endswith("xargs wandb sync < report/offline_runs.txt")
    assert len((tmp_path / "report" / "offline_runs.txt").read_text().splitlines()) == 11  # and the tables


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb-workspaces, when it is imported
def test_the_description_becomes_a_report(command: Command, make_run: MakeRun, tmp_path: Path) -> None:
    workspaces = pytest.importorskip("wandb_workspaces")
    make_run("a", 80.0, "seed=1")
    command("wandb-report", "bdeir_table3", "bdeir_table4", "--runs", "runs", "--output", "report", "--entity", "me")
    report = build_report(json.loads((tmp_path / "report" / "dashboard.json").read_text()))
    assert (report.project, report.entity) == ("hyplearn", "me")
    kinds = [type(block).__name__ for block in report.blocks]
    assert kinds == ["H1", "MarkdownBlock", "PanelGrid", "H1", "MarkdownBlock"]  # nothing was trained for Table 4
    (line,) = [line for line in report.blocks[1].text.splitlines() if "80.86" in line]
    assert "80.00" in line and "-0.86" in line
    (runs,) = report.blocks[2].runsets
    parsed = workspaces.expr.expr_to_filters(runs.filters)
    found = [(part.op, part.key.name, part.value) for part in parsed.filters]
    assert found == [
        ("IN", "tags", ["bdeir_table3"]),
        ("IN", "tags", ["protocol-paper"]),
        ("NIN", "tags", ["smoke"]),
    ]


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_publishing_in_a_mode_that_forbids_it_names_the_mode(
    command: Command, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    result = command("wandb-report", "bdeir_table3", "--publish")
    assert result.status == 2
    assert f"WANDB_MODE={mode} forbids" in result.err
    assert "login" not in result.err


def test_tables_without_a_run_where_the_mode_is_disabled(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    result = command("wandb-report", "bdeir_table3", "--output", "page")
    assert result.status == 0, result.err
    assert "no run of Weights & Biases was made, WANDB_MODE=disabled" in result.out
    assert "wandb sync" not in result.out
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["dashboard.json"]


def test_an_online_report_without_a_key_is_told_before_runs_are_read(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    result = command("wandb-report", "bdeir_table3")
    assert result.status == 2
    assert "WANDB_MODE=online needs a key" in result.err
    assert "WANDB_MODE=offline" in result.err
    assert not Path("outputs").exists()


# Nothing but this machine may be reached, and the service of W&B, which is no Python, is sent to a listener.
ALONE = """
import socket, sys
connect = socket.socket.connect
def local(self, address):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1", "localhost")):
        print("REACHED OUT", address, file=sys.stderr)
        raise OSError("the network is not for this test")
    return connect(self, address)
socket.socket.connect = local
from hyplearn.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("mode", ["offline", "disabled"])
@pytest.mark.parametrize(
    "words",
    [
        ("train", "experiment=smoke", "logger=wandb", "trainer.max_epochs=1", "trainer.limit_train_batches=1", *SMALL),
        ("wandb-report", "bdeir_table3"),
    ],
    ids=["train", "wandb-report"],
)
def test_no_request_is_made_where_the_mode_forbids_it(tmp_path: Path, mode: str, words: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.5)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        places = dict.fromkeys(("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), address)
        env = {**os.environ, **places, "WANDB_MODE": mode, "WANDB_API_KEY": "0" * 40, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [sys.executable, "-c", ALONE, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
        )
        assert ended.returncode == 0, ended.stderr
        assert "REACHED OUT" not in ended.stderr
        with pytest.raises(TimeoutError):
            listening.accept()
    assert bool(list(tmp_path.rglob("offline-run-*"))) == (mode == "offline")
