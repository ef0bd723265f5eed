"""Readings that layers give during a forward pass."""

from __future__ import annotations

import pytest
import torch

from hyplearn.nn import monitor


def test_values_of_one_name_are_averaged() -> None:
    with monitor.record() as readings:
        monitor.give("share", lambda: torch.tensor([True, False]))
        monitor.give("share", lambda: torch.tensor([True, True]))
        monitor.give("radius", lambda: torch.tensor(3.0, requires_grad=True))
    assert readings == {"share": 0.75, "radius": 3.0}


def test_nothing_is_computed_unless_somebody_records() -> None:
    monitor.give("share", lambda: pytest.fail("computed"))
    assert not monitor.active()


def test_an_inner_recording_leaves_the_outer_one_alone() -> None:
    with monitor.record() as outer:
        monitor.give("a", lambda: torch.ones(()))
        with monitor.record() as inner:
            monitor.give("b", lambda: torch.ones(()))
        monitor.give("c", lambda: torch.ones(()))
    assert (set(outer), set(inner)) == ({"a", "c"}, {"b"})


def test_a_failing_pass_ends_the_recording() -> None:
    with pytest.raises(RuntimeError, match="stop"), monitor.record():
        raise RuntimeError("stop")
    assert not monitor.active()
