from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from hyplearn.errors import ConfigError
from hyplearn.runs.bounded import check_yaml, load_yaml, read_text
from hyplearn.runs.directory import RunDirectory

LEVELS = "abcdefghij"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{now}: &{now} [{','.join([f'*{before}'] * 9)}]\n" for before, now in pairwise(LEVELS)
)
MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{now}: &{now} {{{','.join(f'k{i}: *{before}' for i in range(40))}}}\n"
    for before, now in zip("abcde", "bcdef", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "comes to more than"),
        (MERGES, "comes to more than"),
        ("a: " + "[" * 5000 + "]" * 5000, "nest deeper"),
        ("a: " + "{b: " * 5000 + "1" + "}" * 5000, "nest deeper"),
        ("- " * 5000 + "1", "nest deeper"),
        ("a: &a [*a]", "stands inside of what it repeats"),
        ("a: [" + "1," * 30_000 + "1]", "comes to more than"),
        ("a: " + "1:1" * 200_000, "has more than"),
    ],
    ids=["aliases", "mappings", "brackets", "braces", "dashes", "circle", "long list", "long number"],
)
def test_a_text_that_grows_or_nests_is_refused_at_once(text: str, reason: str, tmp_path: Path) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=reason):
        load_yaml(text)
    assert time.process_time() - began < 1
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config.yaml is damaged"):
        _ = RunDirectory(tmp_path).config


def test_ordinary_aliases_are_read() -> None:
    assert load_yaml("a: &x {k: 1}\nb: [*x, *x]\nc: {<<: *x, l: 2}") == yaml.safe_load(
        "a: {k: 1}\nb: [{k: 1}, {k: 1}]\nc: {k: 1, l: 2}"
    )
    check_yaml("")


def test_no_more_of_a_file_is_read_than_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    with file.open("wb") as stream:
        stream.truncate(2**40)  # a hole, which takes no room on the disk
    with pytest.raises(ValueError, match="more than"):
        read_text(file, limit=1000)
    with pytest.raises(ConfigError, match=r"manifest.json is damaged \(it has more than"):
        _ = RunDirectory(tmp_path).manifest


def test_brackets_of_json_without_end_are_damage(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[" * 200_000)
    with pytest.raises(ConfigError, match=r"results.json is damaged"):
        _ = RunDirectory(tmp_path).results


def test_a_field_of_a_history_that_is_longer_than_csv_allows_is_damage(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch\n" + "1" * 200_000 + "\n")
    with pytest.raises(ConfigError, match=r"metrics.csv is damaged"):
        _ = RunDirectory(tmp_path).history
