from __future__ import annotations

import pytest

from hyplearn.config.compose import load
from hyplearn.errors import ConfigError
from hyplearn.jobs.grid import checked_all, composed_all, expand, mistakes_of
from tests.support.jobs import parsed


@pytest.mark.parametrize(
    ("overrides", "varied"),
    [
        (
            ["manifold.c=0.1,1", "seed=1,2"],
            [
                {"manifold.c": "0.1", "seed": "1"},
                {"manifold.c": "0.1", "seed": "2"},
                {"manifold.c": "1", "seed": "1"},
                {"manifold.c": "1", "seed": "2"},
            ],
        ),
        (["seed=range(1,4)"], [{"seed": "1"}, {"seed": "2"}, {"seed": "3"}]),
        (["optim=choice(rsgd,radamw)"], [{"optim": "rsgd"}, {"optim": "radamw"}]),
        (
            ["model.stages=[euclidean,lorentz],[lorentz]"],
            [{"model.stages": "[euclidean,lorentz]"}, {"model.stages": "[lorentz]"}],
        ),
        (["+trainer.limit_val_batches=1,2"], [{"trainer.limit_val_batches": "1"}, {"trainer.limit_val_batches": "2"}]),
        (["seed=3"], [{}]),
        ([], [{}]),
    ],
)
def test_expand(overrides: list[str], varied: list[dict[str, str]]) -> None:
    assert [dict(found.varied) for found in expand(parsed(overrides))] == varied


def test_expand_keeps_what_does_not_vary_as_it_was_typed() -> None:
    found = expand(parsed(["seed=1,2", "optim.lr=0.5", "~optim.schedule.milestones", "++trainer.max_steps=4"]))
    fixed = ("optim.lr=0.5", "~optim.schedule.milestones", "++trainer.max_steps=4")
    assert [one.overrides for one in found] == [("seed=1", *fixed), ("seed=2", *fixed)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resume=auto", "seed=1,2"], "resume continues one run"),
        (["output_dir=a,b"], "a multirun has one directory"),
        (["seed=interval(1,2)"], "needs single values"),
        (["seed=1,2", "seed=3"], "seed is typed twice"),
    ],
)
def test_what_names_no_jobs(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(parsed(overrides))


def test_folders_sort_by_number_and_need_no_quoting() -> None:
    found = expand(parsed(["manifold.c=0.5,1", "model.stages=[lorentz],[euclidean,lorentz]"]))
    assert found[3].folder_name(3, 12) == "03_manifold.c-1_model.stages-_euclidean_lorentz"


def test_every_mistake_is_found_and_named_with_its_jobs() -> None:
    line = parsed(["model=hecnn_r18,foo", "optim.lr=0.1,abc", "loss=cross_entropy,pairwise"])
    found = checked_all(composed_all(expand(line), lambda overrides: load(overrides, ())))
    assert [one.mistake is None for one in found] == [True, *[False] * 7]
    told = mistakes_of(found)
    assert "model=foo optim.lr=0.1 loss=cross_entropy" in told
    assert "unknown choice model=foo." in told
    assert "optim.lr=abc: expected a number, got a text." in told
    assert "loss=pairwise is computed from embeddings" in told


def test_a_sign_that_hydra_needs_is_added() -> None:
    (one,) = composed_all(expand(parsed(["trainer.limit_val_batches=3"])), lambda overrides: load(overrides, ()))
    assert one.mistake is None
    assert one.composed is not None
    assert one.composed.config["trainer"]["limit_val_batches"] == 3


def test_a_grid_over_curvatures_meets_a_sphere_once() -> None:
    line = parsed(["model=sph_vit_s,hyp_vit_s", "manifold.c=0.1,1"])
    found = composed_all(expand(line), lambda overrides: load(overrides, ()))
    assert [one.same_as for one in found] == [None, 0, None, None]
