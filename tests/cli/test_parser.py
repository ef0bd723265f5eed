"""What the parsers of all commands have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from hyplearn.cli.parser import Parser, at_least, file_ending_in, folder, list_of, name_of
from hyplearn.errors import ConfigError


def parser() -> Parser:
    made = Parser(
        "weigh",
        """
A sentence that is
broken in its source.
  kept.png   as it
             is written""",
        needs="a thing",
        examples="""
hyplearn weigh x
hyplearn weigh y --twice""",
        more="The end.",
    )
    made.add_argument("thing", type=Path, help="what to weigh")
    made.add_argument("--twice", action="store_true", help="once more")
    return made


def test_paragraphs_are_filled_and_indented_lines_kept() -> None:
    text = parser().format_help()
    assert "\nA sentence that is broken in its source.\n  kept.png   as it\n             is written\n" in text
    assert "\nexamples:\n  hyplearn weigh x\n  hyplearn weigh y --twice\n\nThe end.\n" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "hyplearn weigh needs a thing (see hyplearn weigh --help)"),
        (["x", "--twic"], "unrecognized arguments: --twic (see hyplearn weigh --help)"),
    ],
)
def test_mistakes_are_config_errors(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as told:
        parser().parse_intermixed_args(words)
    assert str(told.value) == message


def test_files_and_folders_are_completed_by_their_types() -> None:
    made = Parser("weigh", "")
    assert made.add_argument("--file", type=Path).complete == "file"  # type: ignore[attr-defined]
    assert made.add_argument("--folder", type=folder).complete == "directory"  # type: ignore[attr-defined]
    assert made.add_argument("--key", complete="words").complete == "words"  # type: ignore[attr-defined]
    assert not hasattr(made.add_argument("--count", type=int), "complete")


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (at_least(2), "1", "'1' must be a whole number from 2 on"),
        (at_least(1), "-3", "'-3' must be a whole number from 1 on"),
        (file_ending_in(".png", ".pdf"), "a.txt", "'a.txt' must end in .png or .pdf"),
        (
            name_of("table", ["one", "three"]),
            "thre",
            "there is no table 'thre'. Did you mean three? (known: one, three)",
        ),
        (list_of(["one", "two"]), "one,four", "'four' must be of one, two"),
        (folder, "nowhere", "nowhere is no folder"),
    ],
)
def test_types_name_the_value_and_what_they_take(read, text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as told:
        read(text)
    assert str(told.value) == message


def test_lists_hold_each_name_once() -> None:
    assert list_of(["one", "two"])("two,one,two") == ["two", "one"]
    assert at_least(2)("2") == 2
