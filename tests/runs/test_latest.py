"""The link to the newest run."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from hyplearn.runs.latest import followed, mark_latest


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
    return Path("outputs")


def test_the_link_leads_to_the_run_that_was_marked_last_and_is_relative(outputs: Path) -> None:
    for name in ("first", "second"):
        mark_latest(outputs / name, outputs)
        assert (outputs / "latest").readlink() == Path(name)
    assert sorted(path.name for path in outputs.iterdir()) == ["first", "latest", "second"]


def test_a_run_elsewhere_is_led_to_by_its_whole_path(outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    mark_latest(Path("elsewhere"), outputs)
    assert (outputs / "latest").readlink() == tmp_path / "elsewhere"


def test_a_run_that_is_named_by_the_link_is_not_made_to_lead_to_itself(outputs: Path) -> None:
    mark_latest(outputs / "first", outputs)
    mark_latest(outputs / "latest", outputs)
    assert (outputs / "latest").readlink() == Path("first")


def test_a_link_to_a_run_that_was_removed_is_replaced(outputs: Path) -> None:
    (outputs / "latest").symlink_to("gone")
    mark_latest(outputs / "first", outputs)
    assert (outputs / "latest").readlink() == Path("first")


def test_a_folder_of_that_name_is_left_alone(outputs: Path) -> None:
    (outputs / "latest").mkdir()
    mark_latest(outputs / "first", outputs)
    assert not (outputs / "latest").is_symlink()


def test_no_folder_is_made_for_the_link(tmp_path: Path) -> None:
    mark_latest(tmp_path, tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


def test_where_no_link_can_be_made_none_leads_to_another_run(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    mark_latest(outputs / "first", outputs)
    monkeypatch.setattr(os, "replace", refuse)
    with caplog.at_level(logging.WARNING, logger="hyplearn"):
        mark_latest(outputs / "second", outputs)
    assert not (outputs / "latest").is_symlink()
    assert "outputs/latest does not lead to this run: Operation not permitted" in caplog.text
    assert sorted(path.name for path in outputs.iterdir()) == ["first", "second"]


@pytest.mark.parametrize("rest", ["", "checkpoints/last.ckpt"])
def test_a_path_through_the_link_is_followed_once(outputs: Path, rest: str) -> None:
    mark_latest(outputs / "first", outputs)
    assert followed(outputs / "latest" / rest) == outputs / "first" / rest
    assert followed(outputs / "second" / rest) == outputs / "second" / rest
