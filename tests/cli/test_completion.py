from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import hyplearn
from hyplearn.cli.commands import COMMANDS, KINDS
from hyplearn.cli.completion import SHELLS, candidates, script
from hyplearn.config.compose import compose
from hyplearn.config.folders import config_dir, groups

SOURCE = str(Path(hyplearn.__file__).parents[1])
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_knows_every_command_option_and_choice(shell: str) -> None:
    text = script(shell)
    for word in (*COMMANDS, *KINDS, "multirun", "jobs-per-gpu", "submitit-local", "dataset-root", "yue_table2"):
        assert word in text, word


def test_choices_of_groups() -> None:
    models = groups([config_dir()])["model"]
    assert candidates("hyplearn train model=") == [f"model={name}" for name in models]
    assert candidates("hyplearn train model=hyp_vit_s,mix_v") == ["model=hyp_vit_s,mix_vit_s"]
    assert "manifold=" in candidates("hyplearn train mani")
    assert candidates("python train.py model=hcnn_r5") == ["model=hcnn_r50"]
    assert candidates("/usr/bin/python3 -m hyplearn train model=hcnn_r5") == ["model=hcnn_r50"]
    assert candidates("python other.py model=hcnn") == []


@pytest.mark.parametrize(
    "overrides",
    [[], ["model=hyp_vit_s"], ["model=lhier_r50"], ["model=hyp_vit_s", "dataset=cub"], ["dataset=image_folder_224"]],
)
def test_every_key_that_is_offered_exists(overrides: list[str]) -> None:
    """Judged by the composed configuration itself."""
    needed = [f"{key}=x" for key in ("dataset.root",) if any("image_folder" in text for text in overrides)]
    composed = compose([*overrides, *needed]).config
    line = f"hyplearn train {' '.join([*overrides, ''])}"
    nodes = [text for text in candidates(line) if text.endswith(".")]
    assert {"model.", "dataset.", "optim.", "trainer."} <= set(nodes)
    keys = [text.rstrip("=.") for node in nodes for text in candidates(line + node)]
    assert len(keys) > 60
    for key in keys:
        node: Any = composed
        for part in key.split("."):
            assert isinstance(node, dict) and part in node, key
            node = node[part]


def test_values_of_keys() -> None:
    assert candidates("hyplearn train manifold.learned=") == ["manifold.learned=false", "manifold.learned=true"]
    assert candidates("hyplearn train trainer.max_e") == ["trainer.max_epochs="]
    assert candidates("hyplearn train optim.lr=") == ["optim.lr=0.1"]
    assert candidates("hyplearn train model=no_such loss.") == []  # nothing is composed of it


def test_keys_of_a_stored_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("dataset: {batch_size: 64, _target_: x}\nseed: 3\n")
    line = f"hyplearn evaluate {tmp_path} "
    assert candidates(line) == ["dataset.", "seed="]
    assert candidates(f"{line}dataset.") == ["dataset.batch_size="]
    assert candidates(f"{line}dataset.batch_size=") == ["dataset.batch_size=64"]


def test_names_of_data_sets_and_tables() -> None:
    assert candidates("hyplearn data ") == ["shard", "verify"]
    assert set(candidates("hyplearn data verify c")) == {"cars", "cifar10", "cifar100", "csv_retrieval", "cub"}
    assert set(candidates("hyplearn data shard c")) == {"cars", "cifar10", "cifar100", "csv_retrieval", "cub"}
    assert "bdeir_table3" in candidates("hyplearn wandb-report b")
    assert "yue_table1" in candidates("hyplearn reproduce y")


def test_it_answers_at_once_without_torch() -> None:
    program = (
        f"import json, sys\nsys.path.insert(0, {SOURCE!r})\nfrom hyplearn.cli.main import main\n"
        "main(['completion', '--words', 'hyplearn train model=hyp_vit_s loss.'])\n"
        "print(json.dumps([name for name in ('torch', 'numpy') if name in sys.modules]))"
    )
    start = time.monotonic()
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 5  # 0.5 s on an idle machine
    *words, loaded = answer.stdout.splitlines()
    assert json.loads(loaded) == []
    assert "loss.tau=" in words


def bash_environment(folder: Path) -> dict[str, str]:
    """A `hyplearn` on the path that is this one."""
    program = folder / "bin" / "hyplearn"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m hyplearn "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": SOURCE, "TERM": "dumb", "PS1": "> "}


@needs_bash
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hyplearn rec", ["recall"]),
        ("hyplearn train model=hcnn_r", ["hcnn_r18", "hcnn_r50"]),  # bash has parted the word at =
        ("python train.py optim.lr=", ["0.1"]),
    ],
)
def test_bash_gets_what_it_replaces(tmp_path: Path, line: str, expected: list[str]) -> None:
    function = "_hyplearn_python" if line.startswith("python") else "_hyplearn"
    words = re.findall(r"=|[^\s=]+", line)  # as bash parts them
    words[0] = sys.executable if line.startswith("python") else "hyplearn"
    program = (
        f"{script('bash')}\nCOMP_WORDBREAKS=$' \\t\\n=:'\nCOMP_WORDS=({shlex.join(words)})\n"
        f"COMP_CWORD={len(words) - 1}\n"
        f"COMP_LINE='{line}'\nCOMP_POINT={len(line)}\n"
        f'{function}\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    answer = subprocess.run(
        ["bash", "--norc", "-c", program], env=bash_environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == expected


@needs_bash
def test_the_tab_key_completes_in_an_interactive_bash(tmp_path: Path) -> None:
    """A terminal, a keyboard: what is typed, and then read back by `echo`."""
    (tmp_path / "hyplearn.sh").write_text(script("bash"))
    with terminal(tmp_path, "bash", "--norc", "--noprofile", "-i") as master:
        os.write(master, f"source {tmp_path}/hyplearn.sh\n".encode())
        os.write(master, b"alias hyplearn='echo got'\n")
        _read_until(master, b"got'")
        os.write(master, b"hyplearn train model=hcnn_original\t ")
        seen = _read_until(master, b"model=hcnn_original_r18")
        assert b"hcnn_original_r18" in seen
        os.write(master, b"trainer.max_e\t7\n")
        assert b"got train model=hcnn_original_r18 trainer.max_epochs=7" in _read_until(master, b"max_epochs=7\r\n> ")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_the_tab_key_completes_in_an_interactive_zsh(tmp_path: Path) -> None:
    (tmp_path / "hyplearn.zsh").write_text(script("zsh"))
    with terminal(tmp_path, "zsh", "-f", "-i") as master:
        os.write(master, b"autoload -U compinit; compinit -D\n")
        os.write(master, f"eval \"$(< {tmp_path}/hyplearn.zsh)\"; echo rea''dy\n".encode())
        _read_until(master, b"ready")
        os.write(master, b"hyplearn reproduce --launcher submitit-l\t")
        assert b"submitit-local" in _read_until(master, b"submitit-local")
        os.write(master, b"model=hyp_vit_s loss.ta\t")  # the second of several words
        assert b"loss.tau=" in _read_until(master, b"loss.tau=")


@contextmanager
def terminal(folder: Path, *shell: str) -> Iterator[int]:
    """A shell that believes a person types into it: what is written is typed, what is read is seen."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        shell, stdin=slave, stdout=slave, stderr=slave, env=bash_environment(folder), start_new_session=True
    )
    try:
        yield master
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def _read_until(terminal: int, text: bytes, seconds: float = 20.0) -> bytes:
    seen, end = b"", time.monotonic() + seconds
    while text not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 4096)
    return seen


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_scripts_of_other_shells_are_of_their_language(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    (tmp_path / "script").write_text(script(shell))
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "needs a shell: bash, zsh, fish"), (["bsh"], "there is no script for 'bsh'. Did you mean bash?")],
)
def test_what_does_not_fit_is_told(command, arguments: list[str], message: str) -> None:
    answer = command("completion", *arguments)
    assert answer.status == 2
    assert message in answer.err
    assert command("completion", "--help").status == 0
