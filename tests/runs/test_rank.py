from __future__ import annotations

import pytest

from hyplearn.runs.rank import RANKS, first_process


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)


def test_a_process_alone_is_the_first() -> None:
    assert first_process()


def test_the_process_of_rank_0_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RANKS:
        monkeypatch.setenv(name, "0")
    assert first_process()


@pytest.mark.parametrize("name", RANKS)
def test_any_other_rank_is_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not first_process()
