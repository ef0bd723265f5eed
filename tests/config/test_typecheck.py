from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from hyplearn.config.typecheck import accepts, arguments, checked, converted, describe
from hyplearn.errors import ConfigError


@dataclass
class Inner:
    size: int = 3


@dataclass
class Outer:
    ratio: float
    inner: Inner = field(default_factory=Inner)
    free: dict[str, Any] = field(default_factory=dict)


class Part:
    def __init__(self, width: int, *, name: str = "part", inner: Inner | None = None) -> None:
        self.width, self.name, self.inner = width, name, inner


class Inherited(Part):
    pass


class Open:
    def __init__(self, **anything: Any) -> None:
        self.anything = anything


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes of this file as parts of a module with a name that a configuration can give."""
    module = types.ModuleType("parts_for_signature")
    for kind in (Part, Inherited, Open, Inner):
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "parts_for_signature", module)


def target(name: str, **values: Any) -> dict[str, Any]:
    return {"_target_": f"parts_for_signature.{name}", **values}


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1.5, float, True),
        ("1", float, False),
        (1, bool, False),
        ("a", str, True),
        (None, int | None, True),
        (None, int, False),
        ("auto", int | str, True),
        ([0.1, 20], tuple[float, float], True),
        ([0.1], tuple[float, float], False),
        ([1, 2], Sequence[float], True),
        ([1, "a"], list[int], False),
        ([], list[int], True),
        ("ab", Sequence[str], False),
        ([1, 2], tuple[int, ...], True),
        ("K", Literal["K", "log_c"], True),
        ("k", Literal["K", "log_c"], False),
        ({"a": 1}, Mapping[str, int], True),
        ({"a": 1}, int, False),
        ({"_target_": "x"}, Part, True),
        (3, Part, False),
        ([1], object, True),
        ("a", object, True),
        ("a", Any, True),
    ],
)
def test_accepts(value: Any, annotation: Any, fits: bool) -> None:
    assert accepts(value, annotation) is fits


def test_describe() -> None:
    assert describe(int | str | None) == "an integer or a text or null"
    assert describe(Literal["a", "b"]) == "one of a, b"
    assert describe(list[int]) == "a list of integers"
    assert describe(Part) == "Part"


def test_arguments_of_a_target_and_of_a_dataclass() -> None:
    assert arguments(target("Part"), Any, "model").keys() == {"width", "name", "inner"}
    assert arguments(target("Inherited"), Any, "model").keys() == {"width", "name", "inner"}
    assert arguments({}, Outer, "").keys() == {"ratio", "inner", "free"}
    assert arguments(target("Open"), Any, "model") is None
    assert arguments({"a": 1}, dict[str, Any], "x") is None


def test_checked_converts_numbers_all_the_way_down() -> None:
    found = checked({"ratio": 1, "inner": {"size": 4}, "free": {"a": target("Part", width=2)}}, Outer, supplied={})
    assert type(found["ratio"]) is float
    assert found == {"ratio": 1.0, "inner": {"size": 4}, "free": {"a": target("Part", width=2)}}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({}, "ratio is missing"),
        ({"ratio": 1.0, "rato": 2}, "unknown key rato. Did you mean ratio?"),
        ({"ratio": 1.0, "inner": {"size": "x"}}, "inner.size=x: expected an integer, got a text."),
        ({"ratio": 1.0, "inner": {"sice": 1}}, "unknown key inner.sice. Did you mean inner.size?"),
        ({"ratio": 1.0, "free": {"a": target("Part")}}, "free.a.width is missing"),
        ({"ratio": 1.0, "free": {"a": target("Part", width=1, nam="x")}}, "Did you mean free.a.name?"),
        ({"ratio": 1.0, "free": {"a": target("Part", width=1, inner={"size": 1})}}, "free.a.inner needs a _target_"),
        ({"ratio": 1.0, "free": {"a": target("Par", width=1)}}, "free.a._target_=parts_for_signature.Par: "),
    ],
)
def test_checked_names_the_first_mistake(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(node, Outer, supplied={})
    assert message in str(caught.value)


def test_supplied_arguments_are_neither_missing_nor_settable() -> None:
    supplied = {"model": {"width"}}
    assert checked(target("Part"), Any, "model", supplied=supplied) == target("Part")
    with pytest.raises(ConfigError, match=r"model.width follows from other settings"):
        checked(target("Part", width=3), Any, "model", supplied=supplied)


def test_a_partial_target_may_lack_arguments() -> None:
    assert checked(target("Part", _partial_=True), Any, "x", supplied={}) == target("Part", _partial_=True)


@dataclass
class Slow:
    name: Literal["slow"] = "slow"
    every: int | float = 1


@dataclass
class Fast:
    name: Literal["fast"] = "fast"
    rate: float = 1.0


@dataclass
class Chooses:
    pace: Slow | Fast
    shares: dict[str, int | float]


def test_a_name_chooses_among_dataclasses() -> None:
    node = {"pace": {"name": "slow", "every": 3}, "shares": {"a": 1, "b": 0.5}}
    assert checked(node, Chooses, supplied={}) == node
    assert type(checked(node, Chooses, supplied={})["pace"]["every"]) is int


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"every": 3}, "pace.name is missing. (choose from: fast, slow)"),
        ({"name": "slo"}, "pace.name=slo is unknown. Did you mean slow? (choose from: fast, slow)"),
        ({"name": 3}, "pace.name=3 is unknown. (choose from: fast, slow)"),
        ({"name": "slow", "rate": 1.0}, "pace.rate is no key of pace.name=slow, which takes: every, name. Give the"),
        ({"name": "slow", "evry": 1}, "unknown key pace.evry. Did you mean pace.every?"),
        ({"name": "slow", "every": "x"}, "pace.every=x: expected a number, got a text."),
    ],
)
def test_a_choice_among_dataclasses_names_its_mistakes(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked({"pace": node, "shares": {}}, Chooses, supplied={})
    assert message in str(caught.value)


def test_values_of_a_mapping_have_its_type() -> None:
    with pytest.raises(ConfigError, match=r"^shares\.b=x: expected a number, got a text\.$"):
        checked({"pace": {"name": "fast"}, "shares": {"a": 1, "b": "x"}}, Chooses, supplied={})


def test_a_number_may_stand_for_the_text_of_a_literal() -> None:
    assert converted(32, Literal["32", "64"], "precision") == "32"
    with pytest.raises(ConfigError, match=r"^precision=16: expected one of 32, 64, got an integer\.$"):
        converted(16, Literal["32", "64"], "precision")
    with pytest.raises(ConfigError, match=r"^pace=fats: expected an integer or one of fast, slow\. Did you mean fast"):
        converted("fats", int | Literal["fast", "slow"], "pace")
