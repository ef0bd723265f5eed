"""The table of keys that do not name a run: each key stands in one group, and every group names real keys."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from hyplearn.config.compose import compose
from hyplearn.runs import keys
from hyplearn.runs.keys import within

GROUPS = (
    *(keys.PLACE, keys.NAMES, keys.SEED, keys.SHOWN, keys.WATCHED, keys.STOPPING),
    *(keys.MACHINE, keys.READING, keys.KEPT, keys.MEASURED),
)


def leaves(tree: Mapping[str, object], prefix: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found += leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return found


def test_each_key_stands_in_one_group() -> None:
    assert sorted(chain(*GROUPS)) == sorted(set(chain(*GROUPS))) == sorted(keys.NOT_THE_RUN)


def test_each_key_is_one_of_a_configuration() -> None:
    choices = ("model=hyp_vit_s", "model=hyp_vit_s dataset=cub", "dataset=tiny_imagenet")
    known = {key for line in choices for key in leaves(compose(line.split()).config)}
    assert [name for name in keys.NOT_THE_RUN if not any(within(key, [name]) for key in known)] == []


def test_a_name_stands_for_all_keys_below() -> None:
    assert within("logger", keys.SHOWN) and within("logger.wandb", keys.SHOWN)
    assert not within("logger_of_mine", keys.SHOWN)
    assert not within("callbacks", keys.SHOWN)
