from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from packaging.requirements import Requirement

import hyplearn
from hyplearn.cli.doctor import questions as probe
from hyplearn.cli.doctor.command import _answers, _ask, _data, _self_test, _wandb, _weights
from hyplearn.cli.doctor.packages import bad_combinations, extras, out_of_range, processor
from hyplearn.inference import selftest

SOURCE = str(Path(hyplearn.__file__).parents[1])


class Found(NamedTuple):
    indices: torch.Tensor


TESTED = {"torch": "2.12.1", "torchvision": "0.27.1", "hydra-core": "1.3.8", "omegaconf": "2.3.1"}


@pytest.mark.parametrize(
    ("versions", "status", "name", "way_out"),
    [
        ({"omegaconf": "2.4.0"}, "problem", "omegaconf", "omegaconf>=2.3,<2.4"),
        ({"antlr4-python3-runtime": "4.13.2"}, "problem", "antlr4-python3-runtime", "4.9.*"),
        ({"pytorch-lightning": "2.6.6", "lightning": "2.6.0"}, "warning", "lightning", "pip uninstall lightning"),
        ({"pytorch-lightning": "2.6.3"}, "problem", "pytorch-lightning", "replace every secret"),
        ({"faiss-cpu": "1.15.1", "faiss-gpu-cu12": "1.14.1"}, "problem", "faiss-cpu", "faiss-gpu-cu12"),
        ({"torchvision": "0.26.0"}, "problem", "torchvision", "torchvision==0.27.*"),
        ({"hydra-optuna-sweeper": "1.3.0", "sqlalchemy": "2.0.1"}, "warning", "hydra-optuna-sweeper", "hyplearn tune"),
    ],
)
def test_known_bad_combinations_are_found_and_have_a_way_out(
    versions: dict[str, str], status: str, name: str, way_out: str
) -> None:
    assert bad_combinations(TESTED) == []
    (found,) = bad_combinations({**TESTED, **versions})
    assert (found.status, found.name) == (status, name)
    assert way_out in found.way_out


def test_versions_out_of_range_and_missing_packages_are_problems() -> None:
    wanted = [Requirement(text) for text in ("torch>=2.11,<2.13", "timm", "optuna; extra == 'tune'")]
    found = out_of_range({"torch": "2.14.0"}, wanted)
    assert [(check.status, check.name) for check in found] == [("problem", "torch"), ("problem", "timm")]
    assert out_of_range({"torch": "2.12.0+cpu", "timm": "1"}, wanted) == []
    assert extras({"torch": "2.12.0"}, wanted) == {"tune": ["optuna"]}


@pytest.mark.parametrize(
    ("flags", "kept", "status"),
    [
        ("avx2", None, "ok"),
        ("avx2", "AVX", "warning"),
        ("avx2 avx512f", "AVX2", "ok"),
        ("avx2 avx512f", None, "ok"),
        ("avx", "AVX", "ok"),
    ],
)
def test_a_processor_that_onednn_may_not_use(flags: str, kept: str | None, status: str) -> None:
    environment = {} if kept is None else {"ONEDNN_MAX_CPU_ISA": kept}
    assert processor(frozenset(flags.split()), environment).status == status


def test_broken_packages_do_not_break_the_doctor(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (broken / "wandb.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    answer = subprocess.run(
        [sys.executable, "-m", "hyplearn", "doctor", "--json", "--no-self-test"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(broken), SOURCE])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    found = json.loads(answer.stdout)
    problems = {check["name"]: check for check in found["checks"] if check["status"] == "problem"}
    assert found["problem"] == len(problems)
    assert "torchvision::nms" in problems["torchvision"]["detail"]
    assert problems["torchvision"]["way_out"] == "torchvision is not built for this torch: install the two together"
    assert "SIGSEGV" in problems["wandb"]["detail"]
    assert {check["name"]: check["status"] for check in found["checks"]}["torch"] == "ok"


def test_data_sets_are_found_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "val/images"):
        (tmp_path / "tiny-imagenet-200" / part).mkdir(parents=True)
    for name in ("wnids.txt", "val/val_annotations.txt"):
        (tmp_path / "tiny-imagenet-200" / name).touch()
    probe.data("nowhere", str(tmp_path))
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    roots = {answer["name"]: answer["roots"] for answer in answers}
    assert roots.pop("tiny_imagenet") == [str(tmp_path)]
    assert set(roots) >= {"cifar10", "cifar100", "cub", "cars", "sop", "inshop", "fashion_mnist"}
    assert not any(roots.values())
    below = {check.name: check for check in _data(answers, tmp_path)}
    assert below["data: tiny_imagenet"].detail == f"found below {tmp_path}"
    assert "cifar10, cifar100" in below["data: not found"].detail
    beside = {check.name: check for check in _data(answers, Path("nowhere"))}
    assert beside["data: tiny_imagenet"].way_out == f"dataset.root={tmp_path}"


def test_offline_runs_that_wait_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("offline-run-1-a", "offline-run-2-b"):
        (tmp_path / "outputs/run/wandb/wandb" / name).mkdir(parents=True)
    (tmp_path / "outputs/run/wandb/wandb/offline-run-2-b/run-b.wandb.synced").touch()
    check = _wandb("offline")
    assert "1 offline run below outputs/ not uploaded" in check.detail
    assert check.way_out == "wandb sync outputs/run/wandb/wandb/offline-run-*"


def test_every_step_of_the_self_test_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    probe.selftest()
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ended = [answer for answer in answers if "name" in answer]
    assert len(ended) >= 4
    assert [answer["error"] for answer in ended] == [None] * len(ended)


@pytest.mark.slow
def test_all_of_it_from_end_to_end(command, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = command("doctor", "--json")
    found = {check["name"]: check["status"] for check in json.loads(answer.out)["checks"]}
    assert answer.status == 0, answer.out
    assert {found[name] for name in found if name.startswith("self test: ")} == {"ok"}
    assert {found[name] for name in ("torch", "faiss-cpu", "timm", "disk", "wandb")} == {"ok"}


def test_a_wrong_result_of_a_step_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest.PoincareBall, "logmap0", lambda self, x: 1.01 * x)
    with pytest.raises(selftest.WrongResultError, match="lose"):
        selftest.geometry()
    found = iter([torch.tensor([1]), torch.tensor([2])])
    monkeypatch.setattr(selftest, "neighbours", lambda *args, **options: Found(next(found)))
    with pytest.raises(selftest.WrongResultError, match="other neighbours"):
        selftest.search()


def test_failed_and_crashed_steps_are_problems() -> None:
    lines = [
        {"begun": "geometry"},
        {"name": "geometry", "found": None, "error": "exp loses", "seconds": 0.1},
        {"begun": "training step, cpu"},
    ]
    program = f"import os, signal\nfor line in {[json.dumps(line) for line in lines]!r}: print(line, flush=True)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", program + "os.kill(os.getpid(), signal.SIGILL)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    failed, crashed = _self_test(process)
    assert (failed.status, failed.detail) == ("problem", "exp loses")
    assert (crashed.name, crashed.detail) == ("self test: training step, cpu", "crashed (SIGILL)")


def test_an_error_in_the_process_is_told_by_its_last_line() -> None:
    answers, end = _answers(_ask("nonsense"))
    assert answers == []
    assert end == "KeyError: 'nonsense'"


def test_weights_in_the_cache_and_not() -> None:
    both = [{"backbone": "a", "cached": True}, {"backbone": "b", "cached": False}]
    cached, absent = _weights(both)
    assert (cached.status, cached.detail) == ("ok", "in the cache: a")
    assert (absent.status, absent.detail) == ("note", "not in the cache: b")


def test_help_needs_nothing(command) -> None:
    answer = command("doctor", "--help")
    assert answer.status == 0
    assert "--no-self-test" in answer.out
    assert command("doctor", "--jsn").status == 2
