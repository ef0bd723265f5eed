"""Ranges of numbers as annotations give them: `Annotated[float, "in (0, 1]"]`, or the bounds of annotated-types."""

from __future__ import annotations

import math
import operator
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Union

from hyplearn.errors import ConfigError

# The names by which annotated-types and pydantic give a bound, what it means, and when a number keeps it.
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": ("greater than", operator.gt),
    "ge": ("at least", operator.ge),
    "lt": ("less than", operator.lt),
    "le": ("at most", operator.le),
}


def plain_types(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, one by one, without what is noted beside them."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return plain_types(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(plain for member in typing.get_args(annotation) for plain in plain_types(member))
    return (annotation,)


def check_range(value: Any, annotation: Any, path: str) -> None:
    """Raise ConfigError for a number beyond the bounds that its annotation gives, or that is NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    notes = list(_notes(annotation))
    bounds = [(words, kept, bound) for note in notes for words, kept, bound in _bounds(note)]
    said = [note for note in notes if isinstance(note, str)] + [f"{words} {bound:g}" for words, _, bound in bounds]
    if said and not (math.isfinite(value) and all(kept(value, bound) for _, kept, bound in bounds)):
        raise ConfigError(f"{path}={value} must be a finite number, {' and '.join(said)}.")


def _notes(annotation: Any) -> Iterator[Any]:
    """What is noted beside a type, or beside a member of a union."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from annotation.__metadata__
        yield from _notes(typing.get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _notes(member)


def _bounds(note: Any) -> Iterator[tuple[str, Callable[[Any, Any], bool], Any]]:
    for name, (words, kept) in BOUNDS.items():
        bound = getattr(note, name, None)
        if isinstance(bound, (int, float)):
            yield words, kept, bound
