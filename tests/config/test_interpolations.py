from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from hyplearn.config.compose import compose
from hyplearn.config.interpolations import check_interpolations
from hyplearn.errors import ConfigError


def doubled(levels: int, reference: str) -> dict[str, Any]:
    tree: dict[str, Any] = {"z0": "x" * 10}
    return tree | {f"z{i}": reference.replace("@", f"z{i - 1}") * 10 for i in range(1, levels)}


@pytest.mark.parametrize("reference", ["${@}", "${oc.select:@}", "${oc.select:@,none}", "${.@}"])
def test_texts_that_multiply_are_refused_before_they_are_written_out(reference: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError, match="multiply to more than"):
        check_interpolations(doubled(12, reference))
    assert time.process_time() - began < 1


def test_lists_and_groups_that_multiply_are_refused() -> None:
    tree: dict[str, Any] = {"z0": [1] * 10}
    tree |= {f"z{i}": [f"${{z{i - 1}}}"] * 10 for i in range(1, 10)}
    with pytest.raises(ConfigError, match="multiply"):
        check_interpolations(tree)
    below = {"a": {f"z{i}": value for i, value in enumerate(doubled(12, "${a.@}").values())}}
    with pytest.raises(ConfigError, match="multiply"):
        check_interpolations(below)


def test_interpolations_inside_of_interpolations_are_counted_as_the_whole() -> None:
    tree = {"n": "z", **{f"z{i}": f"${{${{n}}{i - 1}}}" * 10 for i in range(1, 12)}, "z0": "x" * 10}
    with pytest.raises(ConfigError, match="multiply"):
        check_interpolations(tree)


def test_ordinary_interpolations_pass() -> None:
    check_interpolations({"a": 1, "b": "${a}", "c": ["${b}", "x ${a} y"], "d": "${oc.env:HOME}", "e": "${z${a}}"})
    check_interpolations({"a": "${b}", "b": "${a}"})  # a circle, which OmegaConf tells


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "HF_TOKEN", "my_secret", "DB_PASSWORD", "AWS_CREDENTIALS"])
def test_a_secret_of_the_environment_does_not_reach_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "s3cret")
    with pytest.raises(ConfigError, match=f"{name} looks like a secret") as told:
        compose(["model=euclidean_r18", "dataset=digits", f"dataset.root=${{oc.env:{name}}}"])
    assert "s3cret" not in str(told.value)


def test_other_variables_of_the_environment_are_resolved_where_they_are_typed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATA", "/data")
    config = compose(["model=euclidean_r18", "dataset=cifar10", "dataset.root=${oc.env:DATA}"]).config
    assert config["dataset"]["root"] == "/data"


def test_a_folder_of_configurations_is_looked_at_before_hydra_reads_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "deep.yaml").write_text("a: " + "[" * 5000 + "]" * 5000)
    began = time.process_time()
    with pytest.raises(ConfigError, match=r"deep.yaml is no configuration: its brackets nest deeper"):
        compose(["model=euclidean_r18"], extra=[tmp_path])
    assert time.process_time() - began < 2
