from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyplearn.config.compose import compose
from hyplearn.errors import ConfigError
from hyplearn.jobs.processes import Local
from hyplearn.jobs.tuning import search as module
from hyplearn.jobs.tuning.search import SearchSettings, search
from tests.support.jobs import at_once

SPACE = ("loss.tau=choice(0.1,0.2)",)


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hyplearn.jobs.tuning.scheduler.POLL", 0.0)
    monkeypatch.setattr(module, "_check_runs", lambda found, extra: None)  # it makes networks


def trained(arguments: Sequence[str]) -> tuple[int, str]:
    """Leave what a run leaves, better for a higher temperature."""
    config = compose(arguments[1:]).config
    run_dir = Path(config["output_dir"])
    run_dir.mkdir(parents=True)
    metrics = {"val/recall@1": 100 * config["loss"]["tau"], "test/recall@1": 50.0}
    (run_dir / "results.json").write_text(json.dumps({"status": "finished", "metrics": metrics}))
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    return 0, ""


def test_a_search_without_a_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What a sweeper of Hydra calls: with a folder and a launcher of its own."""
    folder = Path("elsewhere/study")
    settings = SearchSettings(SPACE, ["model=hyp_vit_s"], sampler="grid", pruner="none", folder=folder)
    assert search(settings, Local(2, start_process=at_once(trained))) == 0
    (found,) = json.loads((folder / "summary.json").read_text())["contenders"]
    assert found["best"]["settings"] == {"loss.tau": "0.2"}
    trials = json.loads((folder / "trials.json").read_text())
    assert (trials["study"], trials["metric"]) == ("study", "val/recall@1")
    assert [trial["settings"]["loss.tau"] for trial in trials["trials"]] == ["0.1", "0.2"]
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert [(row["state"], row["loss.tau"]) for row in rows] == [("complete", "0.1"), ("complete", "0.2")]
    assert "experiment=best_hyp_vit_s" in capsys.readouterr().out
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"space": ()}, "needs a key to search"),
        ({"sampler": "tpee"}, "sampler=tpee: expected one of tpe, random, grid. Did you mean tpe?"),
        ({"pruner": "mean"}, "pruner=mean: expected one of median, none."),
        ({"n_trials": 0}, "n_trials=0: expected a whole number from 1 on"),
        ({"jobs": -1}, "jobs=-1: expected a whole number from 1 on"),
    ],
)
def test_settings_that_name_nothing_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchSettings(**{"space": SPACE, **wrong})
    assert message in str(caught.value)
