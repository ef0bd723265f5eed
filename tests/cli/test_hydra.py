"""What people who know Hydra type: its flags, its grammar, its directories, and its own way with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hyplearn
from tests.support.commands import Command

SOURCE = Path(hyplearn.__file__).parents[1]
SMOKE = ("experiment=smoke", "trainer.limit_train_batches=1", "trainer.max_epochs=1", "trainer.progress=none")
QUICK = (*SMOKE, "callbacks.figures=false", "trainer.num_threads=1")


def test_cfg_shows_what_hydra_composes_of_the_job_of_hydra_and_of_both(command: Command) -> None:
    shown = yaml.safe_load(command("train", "--cfg", "job", "seed=3", "model.width=4").out)
    assert (shown["seed"], shown["model"]["width"]) == (3, 4)
    assert "hydra" not in shown
    hydra = yaml.safe_load(command("train", "-c", "hydra").out)["hydra"]
    assert hydra["launcher"]["_target_"] == "hydra_plugins.hyplearn_hydra.launcher.LocalLauncher"
    assert hydra["job"]["name"] == "train"
    both = yaml.safe_load(command("train", "--cfg", "all").out)
    assert {"hydra", "model"} <= set(both)
    assert not list(Path().iterdir())


def test_package_and_resolve_say_how_a_configuration_is_shown(command: Command) -> None:
    shown = command("train", "--cfg", "job", "-p", "loss").out
    assert "# @package loss" in shown
    assert "label_smoothing" in shown
    assert "${" in command("train", "--cfg", "job", "dataset=cub").out
    assert "${" not in command("train", "--cfg", "job", "--resolve", "dataset=cub").out
    launcher = command("train", "--cfg", "hydra", "--package", "hydra.launcher").out
    assert "n_jobs: 1" in launcher


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--info", "searchpath"], "| main "),
        (["--info", "defaults", "experiment=smoke"], "experiment/smoke"),
        (["--info", "defaults-tree", "experiment=smoke"], "experiment: smoke"),
        (["--info", "plugins"], "GridSweeper"),
        (["--info", "config"], "model"),
        (["--hydra-help"], "--multirun"),
    ],
)
def test_hydra_tells_about_itself(tmp_path: Path, arguments: list[str], part: str) -> None:
    line = [sys.executable, str(SOURCE / "train.py"), *arguments]
    told = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert part in told.stdout
    assert not list(tmp_path.iterdir())


def test_keys_are_added_removed_and_packaged(command: Command) -> None:
    line = ("+trainer.limit_val_batches=2", "++seed=4", "~optim.schedule.milestones", "+model@trainer.other=hecnn_r18")
    shown = yaml.safe_load(command("train", "--cfg", "job", *line).out)
    assert shown["trainer"]["limit_val_batches"] == 2
    assert shown["seed"] == 4
    assert "milestones" not in shown["optim"]["schedule"]
    assert shown["trainer"]["other"]["_target_"] == "hyplearn.models.ResNet"


def test_an_interpolation_is_typed(command: Command) -> None:
    shown = yaml.safe_load(command("train", "--print-config", "seed=7", "dataset.split_seed=${seed}").out)
    assert shown["dataset"]["split_seed"] == 7


def test_another_root_and_another_folder_of_configurations(command: Command) -> None:
    Path("mine/model").mkdir(parents=True)
    Path("mine/mine.yaml").write_text("defaults:\n  - train\n  - override model: narrow\n  - _self_\nseed: 11\n")
    Path("mine/model/narrow.yaml").write_text("defaults: [hecnn_r18]\nwidth: 4\n")
    named = yaml.safe_load(command("train", "-cd", "mine", "-cn", "mine", "--cfg", "job").out)
    assert (named["seed"], named["model"]["width"]) == (11, 4)
    searched = yaml.safe_load(command("train", "hydra.searchpath=[file://mine]", "model=narrow", "--cfg", "job").out)
    assert searched["model"]["width"] == 4
    Path("more/model").mkdir(parents=True)
    Path("more/model/wide.yaml").write_text("defaults: [narrow]\nwidth: 6\n")
    several = command("train", "--config-dir", "mine", "--config-dir", "more", "model=wide", "--cfg", "job")
    assert yaml.safe_load(several.out)["model"]["width"] == 6
    unknown = command("train", "--config-dir", "mine", "model=narow")
    assert unknown.status == 2
    assert "Did you mean narrow?" in unknown.err


def test_a_run_directory_of_hydras_own_naming(command: Command) -> None:
    assert command("train", *QUICK, "hydra.run.dir=here/${seed}", "seed=5").status == 0
    run_dir = Path("here/5")
    assert json.loads((run_dir / "results.json").read_text())["run_dir"] == "here/5"
    assert yaml.safe_load((run_dir / ".hydra" / "overrides.yaml").read_text()) == [*QUICK, "seed=5"]
    assert yaml.safe_load((run_dir / ".hydra" / "hydra.yaml").read_text())["hydra"]["job"]["name"] == "train"
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["output_dir"] == "here/5"
    again = command("train", *QUICK, "hydra.run.dir=here/5")
    assert again.status == 2
    assert "here/5 is not empty" in again.err


def test_a_run_may_change_into_its_directory(command: Command) -> None:
    assert command("train", *QUICK, "hydra.job.chdir=true", "output_dir=there").status == 0
    assert json.loads(Path("there/results.json").read_text())["status"] == "finished"
    assert Path("there/checkpoints/last.ckpt").is_file()


def test_callbacks_and_logging_of_hydra_are_the_users(command: Command) -> None:
    Path("noted.py").write_text(
        "from pathlib import Path\n"
        "from hydra.experimental.callback import Callback\n"
        "class Noted(Callback):\n"
        "    def on_job_end(self, config, job_return, **kwargs):\n"
        "        Path('noted.txt').write_text(job_return.status.name)\n"
    )
    line = ("+hydra.callbacks.noted._target_=noted.Noted", "hydra/job_logging=stdout", "output_dir=out")
    assert command("train", *QUICK, *line).status == 0
    assert Path("noted.txt").read_text() == "COMPLETED"


def test_completion_of_hydra_completes_a_choice(tmp_path: Path) -> None:
    line = "train.py model=hecnn_r"
    found = subprocess.run(
        [sys.executable, str(SOURCE / "train.py"), "-sc", "query=bash"],
        env={"COMP_LINE": f"python {line}", "COMP_POINT": str(len(line) + 7), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["model=hecnn_r18", "model=hecnn_r50"]


def test_nobody_needs_hydra_full_error(tmp_path: Path) -> None:
    """A defect keeps its traceback, and neither the job nor its children see a variable that nobody set."""
    (tmp_path / "broken.py").write_text(
        "import os\ndef build(**settings):\n    raise RuntimeError(f\"defect {os.environ.get('HYDRA_FULL_ERROR')}\")\n"
    )
    ended = subprocess.run(
        [sys.executable, str(SOURCE / "train.py"), *QUICK, "model={_target_:broken.build}", "output_dir=out"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{SOURCE}:{tmp_path}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "RuntimeError: defect None" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_two_processes_share_one_directory(tmp_path: Path) -> None:
    """Lightning starts the typed command line once more, and names the directory to Hydra in the second process."""
    ddp = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp")
    ended = subprocess.run(
        [sys.executable, str(SOURCE / "train.py"), *QUICK, *ddp], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (run_dir,) = (tmp_path / "outputs" / "smoke").iterdir()
    assert json.loads((run_dir / "results.json").read_text())["status"] == "finished"
    assert yaml.safe_load((run_dir / ".hydra" / "overrides.yaml").read_text()) == [*QUICK, *ddp]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]
