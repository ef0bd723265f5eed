from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from hyplearn.config.folders import config_dir

SMOKE = ("experiment=smoke", "trainer.limit_train_batches=2", "trainer.num_threads=1")


def only_run(parent: str = "outputs/smoke") -> Path:
    (run_dir,) = Path(parent).iterdir()
    return run_dir


def results(run_dir: Path) -> dict:
    return json.loads((run_dir / "results.json").read_text())


def test_a_run_leaves_a_directory_that_is_evaluated_and_continued(command) -> None:
    assert command("train", *SMOKE).status == 0
    run_dir = only_run()
    stored = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert stored["output_dir"] == str(run_dir)
    assert stored["choices"]["model"] == "hecnn_r18"
    assert stored["model"]["width"] == 8
    first = results(run_dir)
    assert first["status"] == "finished"

    evaluated = command("evaluate", str(run_dir), "dataset.eval_batch_size=100")
    assert evaluated.status == 0
    (written,) = (run_dir / "evaluations").iterdir()
    content = json.loads(written.read_text())
    assert content["overrides"] == ["dataset.eval_batch_size=100"]
    assert "test/top1" in evaluated.out
    assert str(written) in evaluated.out

    last = str(run_dir / "checkpoints" / "last.ckpt")
    assert command("evaluate", last, "manifold.c=2").status == 2
    assert command("train", f"resume={run_dir}", "manifold.c=2").err.startswith("error: manifold.c=2: ")
    shorter = command("train", f"resume={last}", "trainer.max_epochs=1")
    assert shorter.status == 2
    assert "trainer.max_epochs=1 must be at least 2" in shorter.err
    assert command("train", f"resume={last}", "trainer.max_epochs=3").status == 0
    assert results(run_dir)["epochs"] == 3
    assert results(run_dir)["run_id"] == first["run_id"]
    assert only_run() == run_dir


def test_auto_starts_a_run_and_goes_on_with_it_after_a_stop(command, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*SMOKE, "resume=auto")
    assert command("train", *overrides).status == 0
    run_dir = only_run()
    run_id = results(run_dir)["run_id"]
    (run_dir / "results.json").write_text(json.dumps({"status": "interrupted"}))
    assert command("train", *overrides).status == 0
    assert only_run() == run_dir
    assert results(run_dir)["run_id"] == run_id
    assert results(run_dir)["status"] == "finished"


def test_output_dir_names_the_directory(command) -> None:
    assert command("train", *SMOKE, "output_dir=my run").status == 0
    assert results(Path("my run"))["status"] == "finished"
    again = command("train", *SMOKE, "output_dir=my run")
    assert again.status == 2
    assert "output_dir=my run is not empty" in again.err


def test_print_config_prints_the_checked_configuration_and_writes_nothing(command, tmp_path: Path) -> None:
    shown = command("train", "seed=3", "--print-config", "model.width=4")
    assert shown.status == 0
    printed = yaml.safe_load(shown.out)
    assert (printed["seed"], printed["model"]["width"]) == (3, 4)
    assert command("train", "--print-config", "manifold.c=-1").status == 2
    assert not list(tmp_path.iterdir())


def test_a_path_in_an_experiment_does_not_continue_a_run(command, tmp_path: Path) -> None:
    (tmp_path / "more" / "experiment").mkdir(parents=True)
    (tmp_path / "more" / "experiment" / "mine.yaml").write_text("# @package _global_\nresume: outputs/old\n")
    refused = command("train", "--config-dir", "more", "experiment=mine")
    assert refused.status == 2
    assert "name the run to continue on the command line" in refused.err


def test_configs_are_found_from_anywhere(command, tmp_path: Path) -> None:
    assert Path.cwd() == tmp_path
    assert config_dir().is_absolute()
    assert (config_dir() / "train.yaml").is_file()


def test_the_newest_run_is_linked_also_where_it_fails_and_is_continued_by_the_link(command) -> None:
    latest = Path("outputs/latest")
    first = command("train", *SMOKE, "output_dir=outputs/first")
    assert first.status == 0
    assert latest.readlink() == Path("first")
    assert "look at:   outputs/first/figures/accuracy.png" in first.out
    assert re.search(r"\ntype next: \S*hyplearn evaluate outputs/first\n", first.out)

    assert command("train", *SMOKE, "output_dir=outputs/second", "optim.lr=1e30").status == 3
    assert latest.readlink() == Path("second")
    assert command("train", *SMOKE, "output_dir=outputs/third", "optim.lr=-1").status == 2
    assert latest.readlink() == Path("second")  # no run was begun

    assert command("train", "resume=outputs/first", "trainer.max_epochs=3").status == 0
    assert latest.readlink() == Path("first")
    assert command("train", "resume=outputs/latest", "trainer.max_epochs=4").status == 0
    assert results(Path("outputs/first"))["run_dir"] == "outputs/first"
    assert results(latest)["epochs"] == 4
