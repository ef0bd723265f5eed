from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from hyplearn.errors import ConfigError
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.identity import cell_id
from hyplearn.training.loggers import (
    RunLogger,
    TensorBoardRun,
    WandbRun,
    build_loggers,
    check_wandb_key,
    flatten,
    group_of,
    tags_of,
    wandb_mode,
)
from hyplearn.training.settings import LoggerSettings

RESULTS = {"status": "finished", "epochs": 2, "metrics": {"test/top1": 97.5}, "curvature": {"encoder": 0.5}}


def build(folder: Path, rows: Sequence[dict[str, float]] = (), **settings: Any) -> list[RunLogger]:
    return build_loggers(LoggerSettings(**settings), folder=folder, run_id="0a1b2c3d", config={"lr": 0.1}, rows=rows)


def scalars(folder: Path, name: str) -> dict[int, float]:
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {event.step: round(event.value, 4) for event in reader.Scalars(name)}


def test_only_the_chosen_loggers_are_made(tmp_path: Path) -> None:
    assert build(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_has_every_number_of_every_epoch(finished_run: Path) -> None:
    lines = [line.split(",") for line in (finished_run / "metrics.csv").read_text().splitlines()]
    for column, name in list(enumerate(lines[0]))[1:]:
        expected = {int(line[0]): float(line[column]) for line in lines[1:]}
        assert scalars(finished_run / "tensorboard", name) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert list(scalars(finished_run / "tensorboard", "test/top1")) == [3]


def test_tensorboard_forgets_epochs_that_a_resumed_run_repeats(tmp_path: Path) -> None:
    first = TensorBoardRun(tmp_path, first_epoch=1, config={})
    for epoch in (1, 2, 3):
        first.log({"epoch": epoch, "loss": 1.0})
    first._writer.close()
    second = TensorBoardRun(tmp_path, first_epoch=3, config={})
    second.log({"epoch": 3, "loss": 2.0})
    second.finish(RESULTS)
    assert scalars(tmp_path, "loss") == {1: 1.0, 2: 1.0, 3: 2.0}


def test_tensorboard_gets_the_figures_and_the_settings(tmp_path: Path) -> None:
    record = RunDirectory(tmp_path)
    record.figures.mkdir()
    for name in ("loss", "gallery"):
        Image.new("RGB", (4, 3)).save(record.figures / f"{name}.png")
    (mirror,) = build_loggers(
        LoggerSettings(tensorboard=True), folder=tmp_path, run_id="0a", config={"optim": {"lr": 0.1}, "k": [1]}, rows=[]
    )
    mirror.picture("retrieval/gallery", record.figures / "gallery.png", 1)
    mirror.finish(RESULTS)
    reader = EventAccumulator(str(record.tensorboard))
    reader.Reload()
    assert sorted(reader.Tags()["images"]) == ["figures/loss", "retrieval/gallery"]
    data = reader.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = HParamsPluginData.FromString(data).session_start_info.hparams
    assert settings["optim.lr"].number_value == 0.1
    assert settings["k"].string_value == "[1]"
    assert len(list(record.tensorboard.iterdir())) == 1  # no second run of its own


class FakeRun(SimpleNamespace):
    """Notes what a Weights & Biases run is told."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__(
            arguments=arguments,
            rows=[],
            summary={},
            steps=[],
            kept={},
            code=None,
            dir="/x/offline/files",
            url="https://w/1",
        )

    def define_metric(self, name: str, step_metric: str | None = None, summary: str | None = None) -> None:
        self.steps.append((name, step_metric))
        self.kept[name] = summary

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.code = exit_code


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    made: list[FakeRun] = []

    def init(**arguments: Any) -> FakeRun:
        made.append(FakeRun(arguments))
        return made[-1]

    monkeypatch.setattr(wandb, "init", init)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")
    return made


def test_a_wandb_run_has_config_group_summary_and_a_stable_id(tmp_path: Path, started: list[FakeRun]) -> None:
    folder = tmp_path / "my_run"
    (logger,) = build(folder, wandb=True, project="p", entity="e", group="sweep", tags=["a"])
    logger.log({"epoch": 1, "val/top1": 3.0})
    said = logger.finish(RESULTS)
    (run,) = started
    wanted = {"project": "p", "entity": "e", "group": "sweep", "tags": ["a"], "name": "my_run", "id": "0a1b2c3d"}
    assert {name: run.arguments[name] for name in wanted} == wanted
    assert (run.arguments["mode"], run.arguments["resume"]) == ("offline", None)
    assert run.arguments["config"] == {"lr": 0.1, "cell": cell_id({"lr": 0.1})}
    assert run.rows == [{"epoch": 1, "val/top1": 3.0}, {"epoch": 2, "test/top1": 97.5}]
    assert run.summary == {"status": "finished", "epochs": 2, "metrics.test/top1": 97.5, "curvature.encoder": 0.5}
    assert ("*", "epoch") in run.steps
    assert run.code == 0
    assert said == f"to upload: wandb sync {folder / 'wandb' / 'offline'}"


@pytest.mark.parametrize(("mode", "logged"), [("offline", [1, 2, 3]), ("online", [3])])
def test_a_resumed_offline_run_repeats_what_only_another_folder_holds(
    mode: str, logged: list[int], tmp_path: Path, started: list[FakeRun]
) -> None:
    (logger,) = build(tmp_path, rows=[{"epoch": 1}, {"epoch": 2}], wandb=True, mode=mode)
    logger.log({"epoch": 3})
    assert [row["epoch"] for row in started[0].rows] == logged


def test_an_online_run_resumes_under_its_id_and_a_failed_one_is_marked(tmp_path: Path, started: list[FakeRun]) -> None:
    (logger,) = build(tmp_path, wandb=True, mode="online")
    assert logger.finish({**RESULTS, "status": "failed"}) == "to look at: https://w/1"
    assert (started[0].arguments["resume"], started[0].code) == ("allow", 1)


def test_a_disabled_run_names_no_folder_to_upload(
    tmp_path: Path, started: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (logger,) = build(tmp_path, wandb=True)
    assert logger.finish(RESULTS) == "nothing went to Weights & Biases: WANDB_MODE=disabled"
    assert started[0].arguments["mode"] == "disabled"


def test_an_online_run_without_a_key_is_refused_before_it_begins(
    started: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"logger\.mode=online needs a key"):
        check_wandb_key(LoggerSettings(wandb=True, mode="online"))
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="WANDB_MODE=online needs a key"):
        check_wandb_key(LoggerSettings(wandb=True))
    check_wandb_key(LoggerSettings(wandb=False, mode="online"))
    check_wandb_key(LoggerSettings(wandb=True, mode="offline"))
    monkeypatch.setenv("WANDB_API_KEY", "key")
    check_wandb_key(LoggerSettings(wandb=True))
    assert not started


def test_the_mode_is_online_only_where_a_key_is(
    tmp_path: Path, started: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wandb_mode("auto") == "offline"
    (tmp_path / "netrc").write_text("machine other.host login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_mode("auto") == "offline"
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password key\n")
    assert wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert wandb_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert wandb_mode("auto") == "offline"
    assert wandb_mode("online") == "online"


def test_a_broken_netrc_counts_as_none(tmp_path: Path, started: list[FakeRun], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("nonsense here\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_mode("auto") == "offline"


def test_a_real_offline_run_asks_nothing_and_leaves_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda *args: pytest.fail("asked a question"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    logger = WandbRun(LoggerSettings(mode="offline"), folder=tmp_path, run_id="0a1b2c3d", config={"lr": 0.1})
    logger.log({"epoch": 1, "val/top1": 3.0})
    said = logger.finish(RESULTS)
    folder = Path(str(said).removeprefix("to upload: wandb sync "))
    assert (folder / "run-0a1b2c3d.wandb").stat().st_size > 0
    assert folder.parent == tmp_path / "wandb"
    assert capfd.readouterr() == ("", "")


def test_a_relative_folder_keeps_its_record_though_the_service_was_started_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        logger = WandbRun(LoggerSettings(mode="offline"), folder=Path("run"), run_id=name, config={})
        logger.log({"epoch": 1, "val/top1": 3.0})
        said = logger.finish(RESULTS)
        folder = Path(str(said).removeprefix("to upload: wandb sync "))
        assert not folder.is_absolute()
        assert (folder / f"run-{name}.wandb").stat().st_size > 0


CELL = {
    "paper": {"key": "bdeir_table3", "metric": "test/top1", "value": 80.86},
    "choices": {"experiment": "bdeir_table3_cifar100_hecnn_r50"},
    "seed": 2,
    "protocol": "code",
    "scale": "full",
}


def test_a_run_of_a_table_is_grouped_by_cell_and_tagged() -> None:
    assert group_of(LoggerSettings(), CELL) == "bdeir_table3_cifar100_hecnn_r50"
    assert tags_of(LoggerSettings(), CELL) == ["bdeir_table3", "seed-2", "protocol-code"]


def test_what_was_set_stays_and_no_tag_is_there_twice() -> None:
    settings = LoggerSettings(group="sweep", tags=["a", "seed-2"])
    assert group_of(settings, CELL) == "sweep"
    assert tags_of(settings, CELL) == ["a", "seed-2", "bdeir_table3", "protocol-code"]


def test_a_run_of_no_table_has_no_tags_but_smoke() -> None:
    plain = {**CELL, "paper": None}
    assert (group_of(LoggerSettings(), plain), tags_of(LoggerSettings(), plain)) == (None, [])
    assert tags_of(LoggerSettings(), {**plain, "scale": "smoke"}) == ["smoke"]


def test_the_summary_keeps_the_best_of_validation(tmp_path: Path, started: list[FakeRun]) -> None:
    (logger,) = build(tmp_path, wandb=True)
    logger.log({"epoch": 1, "lr/euclidean": 0.1, "val/top1": 3.0, "val/loss": 1.0, "val/queries": 5})
    logger.log({"epoch": 2, "val/top1": 4.0, "val/loss": 2.0})
    logger.finish(RESULTS)
    kept = {name: summary for name, summary in started[0].kept.items() if summary is not None}
    assert kept == {"val/top1": "max,last", "val/loss": "min,last", "test/top1": "last"}
    assert len(started[0].steps) == len(set(started[0].steps))


def test_every_figure_of_the_run_is_shown_once(tmp_path: Path, started: list[FakeRun]) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("gallery", "loss"):
        Image.new("RGB", (4, 4)).save(tmp_path / "figures" / f"{name}.png")
    (logger,) = build(tmp_path, wandb=True)
    logger.picture("test/gallery", tmp_path / "figures" / "gallery.png", 2)
    logger.finish(RESULTS)
    shown = [name for row in started[0].rows for name, value in row.items() if isinstance(value, wandb.Image)]
    assert shown == ["test/gallery", "figures/loss"]


def test_nested_results_become_one_level() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}
