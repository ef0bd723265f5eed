from __future__ import annotations

import copy
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from hyplearn.cli.main import main
from hyplearn.cli.tune import tune
from hyplearn.config import compose as compose_module
from hyplearn.config.compose import compose
from hyplearn.errors import ConfigError
from hyplearn.jobs.launcher import Job
from hyplearn.jobs.tuning import search as search_module
from hyplearn.jobs.tuning.space import Dimension, read
from hyplearn.runs.identity import run_id
from hyplearn.runs.lock import occupied

HYP = ("model=hyp_vit_s", "trainer.max_epochs=3")
LOADED: dict[tuple[str, ...], Any] = {}
TAU = ("--space", "loss.tau=log(0.02,1)")
# The value of each epoch by the settings of a run, or how it fails instead.
Course = Callable[[Mapping[str, Any]], Sequence[float] | tuple[int, str]]


def good(config: Mapping[str, Any]) -> list[float]:
    """Best at tau = 0.2 and for small c."""
    value = 90 - 20 * abs(config["loss"]["tau"] - 0.2) - config["manifold"].get("c", 0.0)
    return [value - 2, value - 1, value]


class Pretended:
    """Runs nothing: writes what a run would write, one epoch a look, and ends as told."""

    def __init__(self, job: Job, course: Course) -> None:
        self.config = compose([text for text in job.arguments[1:] if "=" in text]).config
        self.run_dir = Path(self.config["output_dir"])
        self.course = course(self.config)
        self.epochs = self.course if isinstance(self.course, list) else []
        self.done, self.signum = 0, 0

    def poll(self) -> int | None:
        if self.signum:
            return 128 + self.signum
        if isinstance(self.course, tuple):
            return self.course[0]
        if self.done == len(self.epochs):
            self._finish()
            return 0
        self.done += 1
        self.run_dir.mkdir(parents=True, exist_ok=True)
        rows = [f"{epoch},{value}" for epoch, value in enumerate(self.epochs[: self.done], start=1)]
        (self.run_dir / "metrics.csv").write_text("\n".join(["epoch,val/recall@1", *rows, ""]))
        return None

    def _finish(self) -> None:
        value = self.epochs[-1]
        metrics = {"val/recall@1": value, "test/recall@1": value - 30}
        (self.run_dir / "results.json").write_text(json.dumps({"status": "finished", "metrics": metrics}))
        (self.run_dir / "config.yaml").write_text(yaml.safe_dump(self.config))

    def send_signal(self, signum: int) -> None:
        self.signum = signum

    def reason(self) -> str:
        return self.course[1] if isinstance(self.course, tuple) else ""


class Starter:
    """Starts pretended runs and keeps their command lines. stop: of which one, counted from 1, a signal arrives."""

    def __init__(self, course: Course = good, stop: int | None = None) -> None:
        self.course, self.stop = course, stop
        self.lines: list[list[str]] = []

    def __call__(self, job: Job, variables: Mapping[str, str], shown: bool) -> Pretended:
        self.lines.append(list(job.arguments))
        process = Pretended(job, self.course)
        if len(self.lines) == self.stop:
            os.kill(os.getpid(), signal.SIGINT)
        return process

    def typed(self, key: str) -> list[str]:
        """The value of a key in every command line."""
        return [text.partition("=")[2] for line in self.lines for text in line if text.startswith(f"{key}=")]


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hyplearn.jobs.tuning.scheduler.POLL", 0.0)
    monkeypatch.setattr(search_module, "_check_runs", lambda found, extra: None)  # tested apart, it makes networks


@pytest.fixture(autouse=True)
def _composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra composes the same choices of groups again and again, most of the time of these tests."""
    load = compose_module._hydra_config

    def remembered(choices: Sequence[str], extra: Sequence[Path]) -> Any:
        if extra:
            return load(choices, extra)
        key = tuple(choices)
        if key not in LOADED:
            LOADED[key] = load(choices, extra)
        return copy.deepcopy(LOADED[key])

    monkeypatch.setattr(compose_module, "_hydra_config", remembered)


def study(name: str = "mine") -> Path:
    return Path("outputs/tune") / name


def trials(name: str = "mine") -> list[dict[str, str]]:
    return list(csv.DictReader((study(name) / "trials.csv").read_text().splitlines()))


def summary(name: str = "mine") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((study(name) / "summary.json").read_text())["contenders"]
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("loss.tau=log(0.02, 1)", Dimension("loss.tau", "log", "", low=0.02, high=1.0)),
        ("loss.lam = uniform(0,1)", Dimension("loss.lam", "uniform", "", low=0.0, high=1.0)),
        ("model.depth=int(18,50)", Dimension("model.depth", "int", "", low=18, high=50)),
        ("optim=choice(rsgd,radamw)", Dimension("optim", "choice", "", ("rsgd", "radamw"))),
        ("a.b=choice([1,2],[3])", Dimension("a.b", "choice", "", ("[1,2]", "[3]"))),
        ("mix_vit_s:a.b=choice(1,2)", Dimension("a.b", "choice", "", ("1", "2"), scope="mix_vit_s")),
    ],
)
def test_the_grammar(text: str, found: Dimension) -> None:
    dimension = read(text)
    assert dimension == Dimension(**{**vars(found), "text": text})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss.tau", "must be key=values with values such as choice(a,b,c), log(low,high)"),
        ("loss.tau=0.1", "must be key=values"),
        ("loss.tau=logs(0.1,1)", "unknown logs(...). Did you mean log?"),
        ("loss.tau=log(0,1)", "log(low,high) needs low > 0. Use uniform(0,1)"),
        ("loss.tau=log(1,0.1)", "needs low < high"),
        ("loss.tau=uniform(1)", "uniform(low,high) needs two numbers"),
        ("loss.tau=uniform(0,inf)", "both finite"),
        ("a.b=int(1,2.5)", "needs two whole numbers"),
        ("a.b=choice(1)", "a choice needs two values or more"),
        ("a.b=choice(1,1)", "the same value stands there twice"),
        ("seed=int(1,5)", "seed cannot be searched: a seed that happens to do well is no setting"),
        ("evaluation.k=choice([1],[2])", "evaluation.k cannot be searched"),
        ("dataset.val_fraction=uniform(0.1,0.5)", "measured on different images"),
    ],
)
def test_what_the_grammar_refuses(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "needs a key to search"),
        ((*TAU, "loss.tau=0.1"), "loss.tau is searched by --space, and set as well"),
        ((*TAU, *TAU), "loss.tau is searched twice"),
        ((*TAU, "seed=1,2"), "--compare seed=1,2"),
        ((*TAU, "output_dir=here"), "every trial has a directory of its own"),
        ((*TAU, "--trials", "0"), "must be a whole number from 1 on"),
        ((*TAU, "--name", "a/b"), "it names a folder"),
        ((*TAU, "--metric", "test/recall@1"), "would choose by the test data"),
        ((*TAU, "--metric", "val/top1"), "val/top1 is not measured here"),
        ((*TAU, "--metric", "val/map@r", "callbacks.monitor=val/r_precision"), "choose differently"),
        ((*TAU, "dataset.val_fraction=0"), "no validation data to choose by: add dataset.val_fraction=0.2"),
        ((*TAU, "dataset.select_on_test=true", "dataset.val_fraction=0"), "would choose by the test"),
        ((*TAU, "trainer.limit_val_batches=0"), "validates nothing"),
        ((*TAU, "--compare", "model=sph_vit_s"), "needs two values or more"),
        ((*TAU, "--compare", "seed=1,2"), "seed cannot be compared"),
        ((*TAU, "--compare", "loss=pairwise,nothing"), "unknown choice loss=nothing"),
        ((*TAU, "--sampler", "grid"), "a grid needs single values"),
        (("--space", "loss.tua=log(0.02,1)"), "unknown key loss.tua. Did you mean loss.tau?"),
        (("--space", "loss.tau=choice(warm,cold)"), "loss.tau=warm"),
        (("--space", "mix:loss.tau=log(0.02,1)"), "'mix' is none of what is compared"),
        (("--space", "logger.wandb=choice(true,false)"), "logger.wandb decides nothing"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "model=hyp_vit_s", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_settings_that_cannot_be_built_are_told_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    assert main(["tune", "model=hyp_vit_s", "--space", "loss.tau=uniform(-1,1)", "--name", "never"]) == 2
    message = capsys.readouterr().err
    assert "model=hyp_vit_s loss.tau=-1.0: " in message
    assert not study("never").exists()


def test_the_best_by_validation(capsys: pytest.CaptureFixture[str]) -> None:
    starter = Starter()
    assert tune([*HYP, *TAU, "--trials", "4", "--name", "mine", "--pruner", "none"], start=starter) == 0
    rows = trials()
    assert [row["state"] for row in rows] == ["complete"] * 4
    best = max(rows, key=lambda row: float(row["val/recall@1"]))
    (found,) = summary()
    assert found["trials"]["complete"] == 4
    assert found["best"]["settings"] == {"loss.tau": best["loss.tau"]}
    assert found["best"]["test"] == pytest.approx(found["best"]["validation"] - 30)
    assert all(0.02 <= float(value) <= 1 for value in starter.typed("loss.tau"))
    assert starter.typed("logger.group") == ["'tune/mine/hyp_vit_s'"] * 4
    assert "experiment=best_hyp_vit_s seed=2,3,4" in capsys.readouterr().out


def test_the_best_settings_are_an_experiment_that_is_the_same_run() -> None:
    line = ("experiment=evidence/retrieval_sph_tau02", "model=hyp_vit_s", "seed=3", "optim.schedule.warmup=0.2")
    space = ("--space", "optim=choice(radamw_retrieval,radamw_hier)", "--space", "optim.lr=log(1e-4,1e-2)")
    course: Course = lambda config: [config["optim"]["lr"]]  # noqa: E731
    assert tune([*line, *space, "--trials", "3", "--name", "mine"], start=Starter(course)) == 0
    (found,) = summary()
    again = compose(["experiment=best_hyp_vit_s"], extra=[study() / "best"]).config
    assert run_id(again) == found["best"]["run_id"]
    assert again["model"]["head"]["branches"].keys() == {"hyperbolic"}


def test_a_group_of_keys_that_is_replaced_fits_no_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["experiment=evidence/retrieval_sph_tau02", "model=hyp_vit_s", "optim.schedule={name: constant}"]
    assert tune([*line, *TAU, "--trials", "1", "--name", "mine"], start=Starter()) == 0
    assert summary()[0]["best"]["experiment"] is None
    assert not list((study() / "best").rglob("*.yaml"))
    assert "fit no experiment" in capsys.readouterr().out


def test_contenders_take_turns_with_the_same_budget_and_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    starter = Starter()
    space = (*TAU, "--space", "manifold.c=choice(0.1,1)", "--space", "mix_vit_s:model.head.size=int(8,16)")
    compared = ("--compare", "model=sph_vit_s,hyp_vit_s,mix_vit_s")
    assert tune(["trainer.max_epochs=2", *compared, *space, "--trials", "2", "--name", "mine"], start=starter) == 0
    assert starter.typed("model") == ["sph_vit_s", "hyp_vit_s", "mix_vit_s"] * 2
    first = starter.typed("loss.tau")[:3]
    assert first[0] == first[1] == first[2]
    assert len(starter.typed("manifold.c")) == 4
    assert len(starter.typed("model.head.size")) == 2
    assert [found["not_searched"] for found in summary()] == [["manifold.c"], [], []]
    assert [found["trials"]["complete"] for found in summary()] == [2, 2, 2]
    assert "sph_vit_s: manifold.c decides nothing here and was not searched" in capsys.readouterr().out


def test_a_grid_runs_every_combination_once() -> None:
    starter = Starter()
    space = ("--space", "loss.tau=choice(0.1,0.2)", "--space", "manifold.c=choice(0.1,1)")
    line = [*HYP, *space, "--sampler", "grid", "--name", "mine"]
    assert tune(line, start=starter) == 0
    settings = sorted(zip(starter.typed("loss.tau"), starter.typed("manifold.c"), strict=True))
    assert settings == [("0.1", "0.1"), ("0.1", "1"), ("0.2", "0.1"), ("0.2", "1")]
    assert tune(line, start=starter) == 0
    assert len(starter.lines) == 4
    with pytest.raises(ConfigError, match="the grid has 4 combinations"):
        tune([*line, "--trials", "3"], start=starter)


def test_settings_that_come_up_again_are_not_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    starter = Starter()
    space = ("--space", "loss.tau=choice(0.1,0.2)")
    assert tune([*HYP, *space, "--trials", "6", "--sampler", "random", "--name", "mine"], start=starter) == 0
    assert sorted(starter.typed("loss.tau")) == ["0.1", "0.2"]
    rows = trials()
    assert len(rows) == 6
    assert len({(row["loss.tau"], row["val/recall@1"]) for row in rows}) == 2
    assert ", as trial 0" in capsys.readouterr().out


def test_hopeless_trials_are_stopped() -> None:
    def course(config: Mapping[str, Any]) -> list[float]:
        return [config["seed"] * 10.0 - len(seen), 80.0 - len(seen), 90.0 - len(seen)]

    seen: list[int] = []

    class Counting(Starter):
        def __call__(self, job: Job, variables: Mapping[str, str], shown: bool) -> Pretended:
            seen.append(1)
            return super().__call__(job, variables, shown)

    starter = Counting(course)  # each run is worse than all before
    assert tune([*HYP, *TAU, "--trials", "8", "--name", "mine"], start=starter) == 0
    assert [row["state"] for row in trials()] == ["complete"] * 5 + ["pruned"] * 3
    assert [row["epochs"] for row in trials()][5:] == ["1"] * 3
    assert summary()[0]["trials"] == {"complete": 5, "pruned": 3, "diverged": 0, "failed": 0, "interrupted": 0}
    assert summary()[0]["best"]["trial"] == 0


def test_a_signal_stops_and_the_same_command_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    line = [*HYP, *TAU, "--trials", "3", "--name", "mine"]
    stopped = Starter(stop=2)
    assert tune(line, start=stopped) == 130
    assert [row["state"] for row in trials()] == ["complete", "interrupted"]
    assert "1 trial was stopped; the same command goes on" in capsys.readouterr().out
    again = Starter()
    assert tune(line, start=again) == 0
    assert len(again.lines) == 2
    assert again.typed("output_dir")[0] == stopped.typed("output_dir")[1]
    assert again.typed("loss.tau")[0] == stopped.typed("loss.tau")[1]
    assert [row["state"] for row in trials()] == ["complete", "interrupted", "complete", "complete"]
    more = Starter()
    assert tune([*line[:-4], "--trials", "5", "--name", "mine"], start=more) == 0
    assert len(more.lines) == 2
    assert tune(line, start=more) == 0
    assert len(more.lines) == 2


def test_a_stopped_search_proposes_what_it_would_have_proposed() -> None:
    line = [*HYP, *TAU, "--trials", "3", "--sampler", "random"]
    at_once = Starter()
    assert tune([*line, "--name", "mine"], start=at_once) == 0
    first, second = Starter(stop=1), Starter()
    assert tune([*line, "--name", "stopped"], start=first) == 130
    assert tune([*line, "--name", "stopped"], start=second) == 0
    assert second.typed("loss.tau") == at_once.typed("loss.tau")


def test_failures_are_tried_again_and_a_diverged_loss_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    def course(config: Mapping[str, Any]) -> list[float] | tuple[int, str]:
        count = len(starter.lines)
        return (1, "out of memory") if count == 2 else (3, "non-finite") if count == 3 else good(config)

    line = [*HYP, *TAU, "--trials", "4", "--name", "mine"]
    starter = Starter(course)
    assert tune(line, start=starter) == 1
    assert [row["state"] for row in trials()] == ["complete", "failed", "diverged", "complete"]
    assert "trial 1 failed: out of memory (see outputs/tune/mine/hyp_vit_s/0001_" in capsys.readouterr().out
    again = Starter()
    assert tune(line, start=again) == 0
    assert again.typed("loss.tau") == [starter.typed("loss.tau")[1]]


def test_what_diverged_is_not_run_again_and_stays_diverged() -> None:
    starter = Starter(lambda config: (3, "non-finite") if config["loss"]["tau"] == 0.2 else good(config))
    space = ("--space", "loss.tau=choice(0.1,0.2)")
    assert tune([*HYP, *space, "--trials", "6", "--sampler", "random", "--name", "mine"], start=starter) == 0
    assert sorted(starter.typed("loss.tau")) == ["0.1", "0.2"]
    assert {(row["loss.tau"], row["state"]) for row in trials()} == {("0.1", "complete"), ("0.2", "diverged")}
    assert summary()[0]["best"]["settings"] == {"loss.tau": "0.1"}


def test_a_search_in_which_nothing_works_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    starter = Starter(lambda config: (1, "no such folder"))
    assert tune([*HYP, *TAU, "--trials", "9", "--name", "mine"], start=starter) == 1
    assert len(starter.lines) == 3
    assert "hyp_vit_s is given up: 3 trials failed and none ended well" in capsys.readouterr().out
    assert summary()[0]["best"] is None


def test_a_name_belongs_to_one_search() -> None:
    assert tune([*HYP, *TAU, "--trials", "1", "--name", "mine"], start=Starter()) == 0
    with pytest.raises(ConfigError, match="holds a study that differs in pruner"):
        tune([*HYP, *TAU, "--trials", "1", "--name", "mine", "--pruner", "none"], start=Starter())
    with pytest.raises(ConfigError, match="differs in contenders"):
        tune([*HYP, *TAU, "seed=2", "--trials", "1", "--name", "mine"], start=Starter())
    with occupied(study()), pytest.raises(ConfigError, match=f"process {os.getpid()}"):
        tune([*HYP, *TAU, "--trials", "1", "--name", "mine"], start=Starter())


def test_the_epoch_is_chosen_by_the_metric_that_chooses() -> None:
    def course(config: Mapping[str, Any]) -> list[float]:
        assert config["callbacks"]["monitor"] == "val/map@r"
        return [50.0]

    arguments = [*HYP, *TAU, "--trials", "1", "--metric", "val/map@r", "--name", "mine"]
    assert tune(arguments, start=Starter(course)) == 1
    assert "it ended without val/map@r" in trials()[0]["reason"]


def test_without_optuna(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(search_module.importlib.util, "find_spec", lambda name: None)
    assert main(["tune", *HYP, *TAU]) == 2
    assert "hyplearn tune needs optuna: pip install 'hyplearn[tune]'" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--help"]) == 0
    assert "--compare K=a,b,c" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_search_goes_on() -> None:
    """With real runs: SIGKILL reaches the search alone, the trial it started writes its checkpoint and ends."""
    small = ("model.small.width=12", "model.head.size=8", "trainer.num_threads=1", "callbacks.figures=false")
    line = ["tune", *HYP, *small, *TAU, "--trials", "2", "--name", "mine"]
    search = subprocess.Popen([sys.executable, "-m", "hyplearn", *line])
    holder = study() / "hyp_vit_s"
    deadline = time.monotonic() + 120
    while not list(holder.glob("0000_*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.2)
    (run_dir,) = holder.glob("0000_*/")
    trial = json.loads((run_dir / ".lock.json").read_text())["pid"]
    os.kill(trial, signal.SIGSTOP)  # or it could end while the command still looks at what was typed
    search.kill()
    search.wait()
    try:
        with pytest.raises(ConfigError, match="trial 0 of hyp_vit_s is still being trained by process"):
            tune(line[1:])
    finally:
        os.kill(trial, signal.SIGCONT)
    while (run_dir / ".lock.json").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert main(line) == 0
    assert [row["state"] for row in trials()] == ["interrupted", "complete", "complete"]
    assert trials()[1]["run_dir"] == str(run_dir)
