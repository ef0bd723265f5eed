from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hyplearn.errors import ConfigError
from hyplearn.runs.creation import claim
from hyplearn.runs.lock import occupant, occupied
from hyplearn.runs.names import HOLDER

HOLD = "import sys, pathlib\nfrom hyplearn.runs.lock import occupied\nwith occupied(pathlib.Path(sys.argv[1])):\n"
WAIT = "    print('held', flush=True)\n    sys.stdin.read()\n"


def test_a_directory_has_one_process(tmp_path: Path) -> None:
    assert occupant(tmp_path) is None
    with occupied(tmp_path):
        assert "process" in str(occupant(tmp_path))
        with pytest.raises(ConfigError, match="is being trained by process"), occupied(tmp_path):
            pass
    assert occupant(tmp_path) is None
    assert not (tmp_path / HOLDER).exists()


def test_the_lock_of_a_killed_process_is_stale(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD + WAIT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert f"process {process.pid} on" in str(occupant(tmp_path))
        process.kill()
    assert (tmp_path / HOLDER).exists()
    assert occupant(tmp_path) is None
    assert claim(tmp_path) == tmp_path  # only what a lock leaves lies there
    with occupied(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\x00", b"[]", b"{}", b"null"])
def test_a_damaged_note_of_the_holder_does_not_hide_that_a_run_is_held(tmp_path: Path, content: bytes) -> None:
    with occupied(tmp_path):
        (tmp_path / HOLDER).write_bytes(content)
        assert occupant(tmp_path) == "another process"
