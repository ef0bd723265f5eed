"""Random command lines end with exit status 0 or 2, and what passes the check also trains."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyplearn.config.compatibility import checked_specification
from hyplearn.config.compose import Composed, compose
from hyplearn.config.folders import config_folders, groups
from hyplearn.config.keys import paths
from hyplearn.config.schema import SUPPLIED, TrainConfig, validate
from hyplearn.config.typecheck import checked
from hyplearn.errors import ConfigError, NonFiniteLoss
from hyplearn.training.fit import fit

SEED, LINES = 20261201, 1000
STARTED = 8  # of the lines that pass: each trains one step
RETRIEVAL = ["model.pretrained=false", "dataset=digits_retrieval", "evaluation=default"]
BASES = [
    ["model=hecnn_r18", "model.width=4"],
    ["model=hcnn_original_r18", "model.width=4", "manifold=lorentz_fixed"],
    ["model=poincare_resnet_r18", "model.width=4", "dataset=synthetic"],
    ["model=euclidean_r18", "model.width=4", "optim=sgd"],
    ["model=mix_vit_s", *RETRIEVAL, "loss=pairwise"],
    ["model=hyp_vit_s", *RETRIEVAL, "loss=hier", "optim=radamw_hier"],
    ["model=lhier_r50", *RETRIEVAL, "loss=lhier"],
    ["model=sph_vit_s", *RETRIEVAL, "loss=proxy_anchor", "optim=adamw"],
]
LARGE = ("experiment", "recipe", "trainer", "runtime")  # bring more data or devices than a test has: checked, not begun
NOT_DRAWN = ("output_dir", "resume", "trainer.num_nodes")  # a run of several nodes waits for the others
ONE_STEP = ["trainer=cpu", "trainer.max_epochs=1", "trainer.max_steps=1", "trainer.num_threads=1"]
NUMBERS = ["0", "1", "2", "3", "7", "-1", "0.5", "0.1", "-0.5", "1.5", "1e-3", "-0.0", "1e400", "nan", "inf", "-inf"]
NUMBERS += ["100000000000000000000"]
OTHERS = ["true", "false", "null", "''", "abc", "auto", ".nan", ".inf", "'a b'", "[]", "[1]", "[1,2]", "[0.1,0.5]"]
OTHERS += ["[nan]", "[null]", "[true]", "[[1]]", "{}", "{a:1}", "{name:cosine}", "{name:1}", "{_target_:1}"]
OTHERS += ["{_target_:os.system,command:ls}", "{_target_:builtins.int}"]
NOT_NUMBERS = [float("nan"), float("inf"), float("-inf"), True, "nan", ".inf"]


def leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def with_value(tree: Mapping[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    key, *rest = path
    return {**tree, key: with_value(tree[key], tuple(rest), value) if rest else value}


def choices_of_each_group() -> Iterator[list[str]]:
    """Every choice of the groups that parts of a run come from, each in a command line that composes."""
    known = groups(config_folders())
    for group in ("dataset", "loss", "manifold", "model", "optim", "trainer", "callbacks", "evaluation", "logger"):
        for choice in known[group]:
            yield [f"{group}={choice}"]


@pytest.fixture(scope="module")
def numeric() -> dict[str, tuple[dict[str, Any], tuple[str, ...], Any]]:
    """Every key that holds a number, or a list of them, in some choice of some group: its configuration and place."""
    found: dict[str, tuple[dict[str, Any], tuple[str, ...], Any]] = {}
    for line in choices_of_each_group():
        try:
            config = compose(line).config
        except ConfigError:  # needs other choices beside it
            continue
        tree = {key: value for key, value in config.items() if key not in SUPPLIED[""]}
        for path, value in leaves(tree):
            if is_number(value) or (isinstance(value, list) and value and all(map(is_number, value))):
                found.setdefault(".".join(path), (tree, path, value))
    return found


def check(tree: dict[str, Any]) -> None:
    """What `compose` does with what Hydra has composed."""
    tree = checked(tree, TrainConfig, supplied=SUPPLIED, targets=False)
    validate(tree)
    checked(tree, TrainConfig, supplied=SUPPLIED)


def refusal(tree: dict[str, Any]) -> str | None:
    """What the check says against a configuration."""
    try:
        check(tree)
    except ConfigError as error:
        return str(error)
    return None


def test_no_numeric_key_takes_what_is_no_finite_number(numeric: dict[str, Any]) -> None:
    assert len(numeric) > 60
    passed = []
    for key, (tree, path, value) in numeric.items():
        check(tree)
        for bad in NOT_NUMBERS:
            given = [bad, *value[1:]] if isinstance(value, list) else bad
            said = refusal(with_value(tree, path, given))
            if said is None or path[-1] not in said:
                passed.append(f"{key}={given}: {said}")
    assert not passed


def test_a_negative_zero_is_zero(numeric: dict[str, Any]) -> None:
    shown = compose(["optim.weight_decay=-0.0", "dataset.mean=[-0.0]"]).config
    assert str(shown["optim"]["weight_decay"]) == "0.0"
    assert str(shown["dataset"]["mean"]) == "[0.0]"


def random_line(draw: random.Random, keys: Mapping[int, list[tuple[str, Any]]]) -> list[str]:
    number = draw.randrange(len(BASES))
    line = [*BASES[number], *ONE_STEP]
    known = groups(config_folders())
    chosen = draw.sample(sorted(known), draw.choice([0, 0, 0, 0, 1]))
    line += [f"{group}={draw.choice(known[group])}" for group in chosen]
    for key, value in draw.sample(keys[number], draw.choice([1, 1, 1, 2])):
        sign = draw.choice(["", "", "", "", "", "++", "+", "~"])
        if sign == "~":
            line.append(f"~{key}")
            continue
        likely = draw.random() < 0.7
        if likely and isinstance(value, bool):
            text = draw.choice(["true", "false"])
        else:
            text = draw.choice(NUMBERS if likely and is_number(value) else [*NUMBERS, *OTHERS])
        line.append(f"{sign}{key}={text}")
    return line


def lines() -> list[list[str]]:
    draw = random.Random(SEED)
    keys: dict[int, list[tuple[str, Any]]] = {}
    for number, base in enumerate(BASES):
        tree = {key: value for key, value in compose([*base, *ONE_STEP]).config.items() if key != "choices"}
        plain = {".".join(path): value for path, value in leaves(tree)}
        keys[number] = [(key, plain.get(key)) for key in paths(tree) if key not in NOT_DRAWN]
    return [random_line(draw, keys) for _ in range(LINES)]


def outcome(line: list[str]) -> Composed | None:
    """The configuration of a command line that passes, None for one that is refused in words."""
    try:
        composed = compose(line)
        checked_specification(composed, restores=True)
    except ConfigError:
        return None
    return composed


@pytest.fixture(scope="module")
def passed() -> list[list[str]]:
    """The lines that pass; the others are refused, and nothing else is raised."""
    logger = logging.getLogger("hyplearn")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what a thousand lines remark
    good, failures = [], []
    for line in lines():
        try:
            if outcome(line) is not None:
                good.append(line)
        except Exception as error:  # noqa: BLE001, PERF203 - every other one is a finding
            failures.append(f"{' '.join(line)}: {type(error).__name__}: {error}")
    logger.setLevel(level)
    assert not failures, "\n".join(failures)
    return good


def test_random_lines_pass_or_are_refused_in_words(passed: list[list[str]]) -> None:
    assert LINES / 20 < len(passed) < LINES  # else the lines say nothing


def test_what_passes_the_check_also_starts(passed: list[list[str]], tmp_path: Path) -> None:
    """One step of training; what is then not finite is the number's doing, and told."""
    small = [line for line in passed if sum(word.partition("=")[0] in LARGE for word in line) == 1]  # trainer=cpu alone
    sample = random.Random(SEED).sample(small, STARTED)
    for number, line in enumerate(sample):
        spec = checked_specification(compose(line), restores=True)
        if spec.datamodule.root is not None or spec.datamodule.source.in_files:
            continue
        try:
            results = fit(replace(spec, run_dir=tmp_path / str(number)))
            assert results["status"] == "finished", line
        except NonFiniteLoss:
            pass
        except Exception as error:
            raise AssertionError(" ".join(line)) from error
