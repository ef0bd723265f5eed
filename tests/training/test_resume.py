"""A run that was stopped and resumed ends exactly as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from hyplearn.errors import Interrupted
from hyplearn.optim.settings import ConstantSchedule, CosineSchedule
from hyplearn.training.fit import fit
from hyplearn.training.module import TrainingModule
from tests.support import runs
from tests.support.resuming import assert_same_end, at_step, stop_in


def interrupted_and_resumed(folder: Path, **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train until the signal, then to the end; the first part's checkpoint and results."""
    with pytest.raises(Interrupted):
        fit(runs.spec(folder, **changes))
    stopped = runs.checkpoint(folder), runs.results(folder)
    fit(runs.spec(folder, resume=folder, **changes))
    return stopped


def test_a_process_that_gets_sigterm_in_mid_epoch_resumes_bit_for_bit(tmp_path: Path, finished_run: Path) -> None:
    command = [sys.executable, runs.__file__, str(tmp_path), json.dumps({"meet_at": 12})]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line == "ready\n":
                process.send_signal(signal.SIGTERM)
                (tmp_path / "go").touch()
        assert process.wait(timeout=60) == 143, said
    assert runs.checkpoint(tmp_path)["global_step"] == 12  # the batch was finished: 8 of epoch 1, 4 of epoch 2
    assert runs.results(tmp_path)["status"] == "interrupted"
    fit(runs.spec(tmp_path, resume=tmp_path))
    assert_same_end(tmp_path, finished_run)


@pytest.mark.parametrize("step", [0, 1, 6, 8, 22])
def test_every_position_in_an_epoch_resumes_bit_for_bit(
    step: int, tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in(monkeypatch, "on_after_backward", at_step(step), signal.SIGTERM)
    checkpoint, results = interrupted_and_resumed(tmp_path)
    assert checkpoint["global_step"] == step + 1
    assert "resume=" in results["error"]
    assert_same_end(tmp_path, finished_run)


@pytest.mark.parametrize("hook", ["on_after_backward", "on_validation_batch_end"])
def test_a_signal_at_the_end_of_an_epoch_lets_it_complete(
    hook: str, tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in(monkeypatch, hook, at_step(15 if hook == "on_after_backward" else 16), signal.SIGINT)
    checkpoint, results = interrupted_and_resumed(tmp_path)
    assert checkpoint["global_step"] == 16
    assert results["epochs"] == 2
    assert_same_end(tmp_path, finished_run)


def test_a_signal_in_the_last_epoch_leaves_only_the_test_to_the_resumed_run(
    tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_in(monkeypatch, "on_validation_batch_end", at_step(24), signal.SIGTERM)
    _, results = interrupted_and_resumed(tmp_path)
    assert "test/top1" not in results["metrics"]
    assert_same_end(tmp_path, finished_run)


def test_a_signal_during_the_test_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_in(monkeypatch, "on_test_batch_start", lambda trainer: True, signal.SIGTERM)
    with pytest.raises(Interrupted, match="resume="):
        fit(runs.spec(tmp_path))


def test_accumulated_gradients_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal between two batches of one optimizer step waits for the step; 8 batches make 3 + 3 + 2."""
    changes: dict[str, Any] = {"trainer": {"accumulate_grad_batches": 3, "max_epochs": 2, "gradient_clip": 0.5}}
    fit(runs.spec(tmp_path / "undisturbed", **changes))

    def due(trainer: pl.Trainer) -> bool:
        return trainer.global_step == 4 and trainer.fit_loop.batch_idx == 3

    stop_in(monkeypatch, "on_after_backward", due, signal.SIGTERM)
    checkpoint, _ = interrupted_and_resumed(tmp_path / "disturbed", **changes)
    assert checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"] == 6
    assert_same_end(tmp_path / "disturbed", tmp_path / "undisturbed")


def test_without_validation_and_with_another_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyplearn.optim import RiemannianAdamW

    changes: dict[str, Any] = {
        "data": {"val_fraction": 0.0},
        "build_optimizer": RiemannianAdamW,
        "optim": {"lr": 0.01, "schedule": CosineSchedule(warmup=0.2)},
        "trainer": {"max_epochs": 2},
    }
    fit(runs.spec(tmp_path / "undisturbed", **changes))
    stop_in(monkeypatch, "on_after_backward", at_step(13), signal.SIGTERM)
    interrupted_and_resumed(tmp_path / "disturbed", **changes)
    assert_same_end(tmp_path / "disturbed", tmp_path / "undisturbed")
    assert runs.results(tmp_path / "disturbed")["selection"]["rule"] == "last epoch"


def test_a_finished_run_can_be_given_more_epochs(tmp_path: Path) -> None:
    constant = {"optim": {"schedule": ConstantSchedule()}}
    fit(runs.spec(tmp_path / "whole", **constant))
    fit(runs.spec(tmp_path / "parts", trainer={"max_epochs": 1}, **constant))
    fit(runs.spec(tmp_path / "parts", resume=tmp_path / "parts", **constant))
    assert_same_end(tmp_path / "parts", tmp_path / "whole")


def test_a_resumed_run_keeps_its_id_and_says_when_it_was_resumed(tmp_path: Path) -> None:
    before = fit(runs.spec(tmp_path, trainer={"max_epochs": 1}))
    after = fit(runs.spec(tmp_path, resume=tmp_path / "checkpoints" / "last.ckpt"))
    other = fit(runs.spec(tmp_path / "other", resume=tmp_path / "checkpoints" / "last.ckpt", trainer={"max_epochs": 3}))
    assert after["run_id"] == before["run_id"] != other["run_id"]
    assert len(json.loads((tmp_path / "manifest.json").read_text())["sessions"]) == 2
    assert "resumed in epoch" in (tmp_path / "train.log").read_text()


def test_the_randomness_of_a_step_depends_on_its_position_alone(finished_run: Path) -> None:
    module = runs.spec(finished_run).build_module()
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert isinstance(module, TrainingModule)
    draws = []
    for batch_idx in (3, 4, 3):
        torch.rand(17)
        module.seed_step(batch_idx)
        draws.append(torch.rand(2).tolist())
    assert draws[0] == draws[2] != draws[1]


def test_resume_from_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a checkpoint or a run directory with one.*does not exist"):
        fit(runs.spec(tmp_path, resume=tmp_path))


def test_resume_with_fewer_epochs_than_done_is_named(tmp_path: Path) -> None:
    fit(runs.spec(tmp_path, trainer={"max_epochs": 2}))
    with pytest.raises(ValueError, match=r"trainer.max_epochs=1 must be at least 2, the epochs"):
        fit(runs.spec(tmp_path, resume=tmp_path, trainer={"max_epochs": 1}))
