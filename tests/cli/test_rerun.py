from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hyplearn.errors import ConfigError
from hyplearn.inference.repetition import code_differences, machine_differences, number_differences
from hyplearn.runs.lock import occupant, occupied


@pytest.fixture
def run(classifier_run: Path) -> Path:
    shutil.copytree(classifier_run, "run")
    return Path("run")


def rewrite(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def clean(run: Path) -> None:
    """As if code and versions were those of the run: the tests may run on uncommitted changes."""
    from hyplearn.training.provenance import source, versions

    def change(manifest: dict) -> None:
        manifest["sessions"][0] |= {"source": {**source(), "dirty": False}, "versions": versions()}

    rewrite(run / "manifest.json", change)


def test_the_same_settings_give_the_same_bits(command, run: Path, tmp_path: Path) -> None:
    answer = command("rerun", "run", "--any-commit", "--exact", "output_dir=again")
    assert answer.status == 0, answer.out + answer.err
    assert "all weights are equal to the last bit" in answer.out
    content = json.loads(Path("again/rerun.json").read_text())
    assert content["equal"] is True
    assert content["numbers_compared"] > 5
    assert content["differences"] == []


def test_another_seed_gives_other_numbers_and_says_so(command, run: Path) -> None:
    answer = command("rerun", "run", "--any-commit", "seed=7", "output_dir=again")
    assert answer.status == 0
    assert "with seed=7" in answer.out
    assert "metrics and curvatures differ" in answer.out
    assert "weights differ by up to" in answer.out
    assert json.loads(Path("again/rerun.json").read_text())["equal"] is False
    assert command("rerun", "run", "--compare", "again", "--exact").status == 1
    assert command("rerun", "run", "--compare", "run", "--exact").status == 0


def test_another_commit_or_version_stops_it_unless_any_will_do(command, run: Path) -> None:
    clean(run)
    rewrite(run / "manifest.json", lambda manifest: manifest["sessions"][0]["versions"].update(torch="1.0"))
    answer = command("rerun", "run")
    assert answer.status == 2
    assert "torch: 1.0 then, " in answer.err
    assert "--any-commit" in answer.err
    assert not Path("outputs").exists()


def test_facts_of_every_session_are_compared() -> None:
    session = {"source": {"commit": "a", "dirty": False}, "versions": {"torch": "2"}, "hardware": {"threads": 1}}
    other = {"source": {"commit": "b", "dirty": True}, "versions": {"torch": "2"}, "hardware": {"threads": 2}}
    now = {"commit": "a", "dirty": False}
    assert code_differences({"sessions": [session]}, now, {"torch": "2"}) == []
    found = code_differences({"sessions": [session, other]}, now, {"torch": "3", "timm": "1"})
    assert sorted({fact.name for fact in found}) == ["commit", "timm", "torch", "uncommitted changes"]
    assert [str(fact) for fact in machine_differences({"sessions": [session, other]}, {"threads": 1})] == [
        "threads: 2 then, 1 now"
    ]


def test_one_bit_is_a_difference() -> None:
    results = {"metrics": {"test/top1": 0.1}, "curvature": {"encoder": 1.0}, "selection": {"epoch": 2}}
    assert number_differences(results, results) == (3, [])
    moved = {**results, "metrics": {"test/top1": 0.1 + 2**-56}}
    count, (fact,) = number_differences(results, moved)
    assert (count, fact.name) == (3, "test/top1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs a run directory"),
        (["seed=3"], "needs a run directory"),
        (["nowhere"], "nowhere does not exist"),
        (["run/checkpoints/last.ckpt"], "is a checkpoint: name its run directory"),
        (["run", "resume=auto"], "resume of a stored run stays as it is"),
        (["run", "seed=3", "--compare", "run"], "--compare trains nothing"),
        (["run", "modle.width=3"], "modle"),
        (["half"], "did not come to its end"),
    ],
)
def test_what_does_not_fit_is_told(command, run: Path, arguments: list[str], message: str) -> None:
    shutil.copytree("run", "half")
    rewrite(Path("half/results.json"), lambda results: results.update(status="interrupted"))
    answer = command("rerun", *arguments)
    assert answer.status == 2
    assert message in answer.err


def test_nobody_else_trains_in_the_directory_of_a_rerun(command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyplearn.training import fit

    trained: list[Path] = []

    def refused_while_training(spec, *arguments):
        with pytest.raises(ConfigError, match=r"again is being trained by process \d+ on "), occupied(spec.run_dir):
            pass
        trained.append(spec.run_dir)
        return original(spec, *arguments)

    original = fit.fit
    monkeypatch.setattr(fit, "fit", refused_while_training)
    answer = command("rerun", "run", "--any-commit", "output_dir=again")
    assert answer.status == 0, answer.out + answer.err
    assert trained == [Path("again")]
    assert occupant(Path("again")) is None


def test_a_comparison_is_not_written_into_a_run_that_is_being_trained(command, run: Path) -> None:
    shutil.copytree(run, "again")
    with occupied(Path("again")):
        answer = command("rerun", "run", "--compare", "again")
    assert answer.status == 2
    assert "again is being trained by process" in answer.err
    assert not Path("again/rerun.json").exists()
