"""The whole configuration as typed settings, made once and in range."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyplearn.config.compose import compose
from hyplearn.config.schema import OptimConfig, PublishedCell, TrainConfig, check_finite, read
from hyplearn.errors import ConfigError
from hyplearn.optim.settings import MultiStepSchedule
from hyplearn.training.settings import EvaluationSettings, TrainerSettings


def test_a_checked_configuration_becomes_typed_settings() -> None:
    config = compose(["trainer.max_epochs=7", "seed=3"]).config
    settings = read(config)
    assert isinstance(settings, TrainConfig)
    assert settings.seed == 3
    assert settings.trainer == TrainerSettings(max_epochs=7, devices=1)
    assert isinstance(settings.optim, OptimConfig)
    assert settings.optim.optimizer == config["optim"]["optimizer"]
    assert settings.optim.schedule == MultiStepSchedule(
        milestones=[0.3, 0.6, 0.8], gamma=0.2, manifold_skips_first_drop=True
    )
    assert (settings.evaluation, settings.paper) == (None, None)


def test_what_retrieval_and_a_published_cell_set_is_typed_too() -> None:
    settings = read(compose(["experiment=yue_table1_cub_mix_vit_s"]).config)
    assert isinstance(settings.evaluation, EvaluationSettings)
    assert isinstance(settings.paper, PublishedCell)


def test_reading_leaves_the_configuration_as_it_is() -> None:
    composed = compose(["optim.schedule={name:step,every:5,gamma:0.5,hold:{euclidean:1}}"])
    read(composed.config)
    assert composed.config["optim"]["schedule"] == {"name": "step", "every": 5, "gamma": 0.5, "hold": {"euclidean": 1}}
    assert type(composed.config["optim"]["schedule"]["every"]) is int  # as it was typed: run ids hang on it


def test_a_setting_out_of_range_stops_a_command_before_it_writes(command, tmp_path: Path) -> None:
    for typed, said in {
        "optim.schedule.milestones=abc": "optim.schedule.milestones=abc: expected a list of numbers, got a text.",
        "optim.schedule.gamma=nan": "optim.schedule.gamma=nan must be in (0, 1]",
        "optim.curvature_lr=-1": "optim.curvature_lr=-1.0 must be at least 0 and finite",
    }.items():
        result = command("train", typed)
        assert (result.status, result.err) == (2, f"error: {said}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("nan")], {"b": {"c": float("-inf")}}])
def test_no_number_is_infinite_or_nan(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^a(\.b\.c)?=(nan|inf|-inf) must be a finite number\.$"):
        check_finite({"fine": [1.0, "nan", None], "a": value}, "")


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, [10**20]])
def test_no_integer_is_larger_than_those_of_tensors(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^a=-?\d+ must be in \[-2\^63, 2\^63\)\.$"):
        check_finite({"fine": [2**63 - 1, -(2**63)], "a": value}, "")
