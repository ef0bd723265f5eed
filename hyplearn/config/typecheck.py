"""What a node of the configuration may hold: the arguments of its `_target_`, or the fields of its dataclass.

Neither pydantic nor hydra-zen does it: the schema of a node is the signature of whatever class its `_target_` names, a
user's own included, a node with a `_target_` stands where its object is annotated, and the message names the dotted key
with the nearest valid one. pydantic's adapters would need a model beside each of these signatures.
"""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import pkgutil
import sys
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hyplearn.config.ranges import check_range, plain_types
from hyplearn.config.typed_keys import meant_key
from hyplearn.errors import ConfigError, listing, nearest, offered

# Hydra's own keys of a node that an object is made of, with their types.
RESERVED: dict[str, Any] = {
    "_target_": str,
    "_partial_": bool,
    "_args_": list,
    "_convert_": Literal["none", "partial", "object", "all"],
    "_recursive_": bool,
}
PLAIN = (bool, int, float, str, None, type(None))
Node = Mapping[str, Any]


@dataclass(frozen=True)
class Argument:
    """One key: what type it takes and whether it can be left out."""

    annotation: Any
    required: bool


def target(node: Node, path: str) -> Any:
    """The class or function named by `_target_` of the node at `path`."""
    name = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(f"{join(path, '_target_')} is missing: give it the dotted name of a class.")
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}._target_={name}: {error}") from error
    if not callable(found):
        raise ConfigError(f"{path}._target_={name} is a {type(found).__name__}: name a class or a function.")
    return found


def arguments(node: Any, annotation: Any, path: str) -> dict[str, Argument] | None:
    """The keys `node` may hold, or None where any key goes: a plain mapping, or a target that takes **kwargs."""
    if isinstance(node, Mapping) and "_target_" in node:
        made = target(node, path)
        try:
            return _parameters(made)
        except ValueError as error:  # of a type that is written in C, such as int
            raise ConfigError(f"{join(path, '_target_')}={node['_target_']} takes no keys: {error}.") from error
    schemas = [option for option in plain_types(annotation) if dataclasses.is_dataclass(option)]
    if len(schemas) > 1:
        return _parameters(chosen(node, schemas, path))
    return _parameters(schemas[0]) if schemas else None


def chosen(node: Any, schemas: Sequence[Any], path: str) -> Any:
    """The dataclass that `name` of the node chooses: each of the `schemas` has one name, a Literal, as its default.

    Raises ConfigError for no name or an unknown one, and for a key that belongs to another name.
    """
    named = {schema.name: schema for schema in schemas}
    given = node.get("name") if isinstance(node, Mapping) else None
    if not isinstance(given, str) or given not in named:
        near = nearest(given, named) if isinstance(given, str) else ""
        shown = "is missing" if given is None else f"={_shown(given)} is unknown"
        raise ConfigError(f"{join(path, 'name')}{' ' * (given is None)}{shown}.{near} (choose from: {listing(named)})")
    fields = [field.name for field in dataclasses.fields(named[given])]
    foreign = [key for key in node if key not in fields and any(_has(schema, key) for schema in schemas)]
    if foreign:
        raise ConfigError(
            f"{join(path, foreign[0])} is no key of {join(path, 'name')}={given}, which takes: {listing(fields)}. Give "
            f"the whole group in its place, {path}={{name:{given},...}}."
        )
    return named[given]


def _has(schema: Any, key: str) -> bool:
    return any(field.name == key for field in dataclasses.fields(schema))


def checked(
    node: Node,
    annotation: Any,
    path: str = "",
    *,
    supplied: Mapping[str, Collection[str]],
    targets: bool = True,
    in_object: bool = False,
) -> dict[str, Any]:
    """`node` with its numbers in the types asked for (1 for a float is 1.0, 32 for a text is "32"), and all below it.

    `path` is the dotted place of `node`; `supplied` names, by path, the arguments that the program itself passes.
    targets: False leaves nodes with a `_target_` as they are: to look at their classes imports what defines them.
    in_object: whether an object is made of a node above, so that every group of keys below is one, too.
    Raises ConfigError for the first key that is unknown, missing, or of a wrong type.
    """
    check_reserved(node, path)
    known = arguments(node, annotation, path)
    if known is not None:
        for key in filter(lambda key: key not in RESERVED, node):
            check_known(key, known, path, supplied=supplied)
        _check_complete(node, known, path, supplied.get(path, ()))
    found, of_values, in_object = {}, _value_type(annotation), in_object or "_target_" in node
    for key, value in node.items():
        place, expected = join(path, key), known[key].annotation if known and key in known else of_values
        found[key] = converted(value, expected, place)
        check_range(found[key], expected, place)
        if isinstance(value, Mapping):
            if "_target_" in value and "_target_" not in node and known is not None and not _takes_mapping(expected):
                raise ConfigError(f"{place}._target_: {place} holds settings, not an object that a class makes.")
            if in_object and "_target_" not in value and not _takes_mapping(expected):
                raise ConfigError(f"{place} needs a _target_, the class to make of it: {describe(expected)}.")
            if targets or "_target_" not in value:
                found[key] = checked(value, expected, place, supplied=supplied, targets=targets, in_object=in_object)
    return found


def check_reserved(node: Node, path: str) -> None:
    """Raise ConfigError for a key of Hydra's own, such as _partial_, whose value does not have its type."""
    for key in RESERVED.keys() & node.keys():
        if not accepts(node[key], RESERVED[key]):
            place = join(path, key)
            raise ConfigError(
                f"{place}={_shown(node[key])}: expected {describe(RESERVED[key])}, got {_kind(node[key])}."
            )
    if "_target_" in node and not node["_target_"]:
        raise ConfigError(f"{join(path, '_target_')} is empty: give it the dotted name of a class.")


def converted(value: Any, annotation: Any, path: str) -> Any:
    """`value` where it fits `annotation`, or the same number as a float or text. Raises ConfigError otherwise."""
    if accepts(value, annotation):
        return _without_sign(value)
    options = plain_types(annotation)
    if isinstance(value, int) and not isinstance(value, bool):
        if float in options:
            return float(value)
        if str in options or str(value) in _literals(options):
            return str(value)
    expected = describe(annotation)
    names = [str(name) for name in _literals(options)]
    if names and isinstance(value, str):
        raise ConfigError(f"{path}={value}: expected {expected}.{nearest(value, names)}")
    got = "another list" if isinstance(value, list) and "a list" in expected else _kind(value)
    raise ConfigError(f"{path}={_shown(value)}: expected {expected}, got {got}.")


def _without_sign(value: Any) -> Any:
    """`value` with 0.0 for -0.0, which would name another run of the same numbers."""
    if isinstance(value, float) and value == 0:
        return 0.0
    return [_without_sign(item) for item in value] if isinstance(value, list) else value


def check_known(key: str, known: Collection[str], path: str, *, supplied: Mapping[str, Collection[str]]) -> None:
    """Raise ConfigError if `key` is none of the `known` keys at `path`, or is one that the program itself sets."""
    own = supplied.get(path, ())
    if key in own:
        raise ConfigError(f"{join(path, key)} follows from other settings and cannot be set.")
    if key not in known:
        valid = [name for name in known if name not in own and name not in RESERVED]
        where = f"{path} takes" if path else "the top level has"
        near = meant_key(join(path, key)) or nearest(key, valid, prefix=join(path, ""))
        listed = offered(valid, "hyplearn train --print-config")
        raise ConfigError(f"unknown key {join(path, key)}.{near} ({where}: {listed})")


def join(path: str, key: str) -> str:
    """The dotted place of `key` below `path`."""
    return f"{path}.{key}" if path else key


def accepts(value: Any, annotation: Any) -> bool:
    """Whether `value`, read from YAML or typed, fits `annotation`.

    A list is any sequence, and a node with a `_target_` is taken for what its target makes.
    """
    return any(_fits(value, option) for option in plain_types(annotation))


def describe(annotation: Any) -> str:
    """`annotation` in words, for messages."""
    options = [option for option in plain_types(annotation) if not (option is int and float in plain_types(annotation))]
    plain = [option for option in options if typing.get_origin(option) is not Literal]
    names = _literals(options)
    words = [*map(_word, plain), *([_word(Literal[tuple(names)])] if names else [])]
    return " or ".join(dict.fromkeys(words))


def _parameters(callable_: Any) -> dict[str, Argument] | None:
    """The named parameters of a callable; None if it takes any keyword."""
    found: dict[str, Argument] = {}
    hints = _field_types(callable_)
    for name, parameter in inspect.signature(callable_).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return None
        if parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            annotation = hints[name] if name in hints else _evaluated(parameter.annotation, callable_)
            found[name] = Argument(annotation, parameter.default is parameter.empty)
    return found


def _field_types(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields, each read where it was written: a field may come from a base class."""
    if not dataclasses.is_dataclass(kind):
        return {}
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except NameError:  # a name imported for type checkers only
        return {}


def _evaluated(annotation: Any, callable_: Any) -> Any:
    """A postponed annotation as an object; Any for none, and for a name imported for type checkers only."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    kinds = callable_.__mro__ if isinstance(callable_, type) else (callable_,)
    owner = next((kind for kind in kinds if "__init__" in vars(kind)), callable_)
    names = vars(sys.modules[owner.__module__])
    try:
        return eval(annotation, {**vars(builtins), **names})
    except NameError:
        return Any


def _check_complete(node: Node, known: Mapping[str, Argument], path: str, supplied: Iterable[str]) -> None:
    if node.get("_partial_"):
        return
    missing = [name for name, argument in known.items() if argument.required and name not in node]
    missing = [name for name in missing if name not in supplied]
    if missing:
        raise ConfigError(f"{join(path, missing[0])} is missing: give it a value.")


def _literals(options: Iterable[Any]) -> list[Any]:
    """The values that the Literals among `options` allow."""
    return [value for option in options if typing.get_origin(option) is Literal for value in typing.get_args(option)]


def _fits(value: Any, option: Any) -> bool:
    origin = typing.get_origin(option) or option
    if option is Any or isinstance(option, typing.TypeVar):
        return True
    if option in (None, type(None)):
        return value is None
    if origin is Literal:
        return value in typing.get_args(option)
    if isinstance(value, Mapping):
        return (
            ("_target_" in value and origin not in PLAIN)
            or dataclasses.is_dataclass(origin)
            or _is_subclass(dict, origin)
        )
    if isinstance(value, list):
        return _sequence_fits(value, option, origin)
    return origin is type(value) or origin is object  # True is no integer, a text no sequence of letters


def _takes_mapping(annotation: Any) -> bool:
    origins = [typing.get_origin(option) or option for option in plain_types(annotation)]
    return any(origin is Any or _is_subclass(dict, origin) for origin in origins)


def _value_type(annotation: Any) -> Any:
    """What a mapping of any keys holds: float for dict[str, float], Any where nothing is said."""
    for option in plain_types(annotation):
        if _is_subclass(dict, typing.get_origin(option)) and len(typing.get_args(option)) == 2:
            return typing.get_args(option)[1]
    return Any


def _sequence_fits(value: list[Any], option: Any, origin: Any) -> bool:
    """A YAML list for a list, a tuple of known length, or any sequence or iterable of one type."""
    if not (_is_subclass(list, origin) or _is_subclass(tuple, origin)):
        return False
    items = typing.get_args(option)
    if origin is tuple and items and items[-1] is not Ellipsis:
        return len(value) == len(items) and all(map(_item_fits, value, items))
    return not items or all(_item_fits(item, items[0]) for item in value)


def _item_fits(item: Any, annotation: Any) -> bool:
    """In a list an int is a float: lists are passed on as they are."""
    return accepts(item, annotation) or (type(item) is int and float in plain_types(annotation))


def _is_subclass(candidate: type, option: Any) -> bool:
    """Whether `option` is a class that a `candidate` is of; a protocol is none unless Python can ask for it."""
    asks = not getattr(option, "_is_protocol", False) or getattr(option, "_is_runtime_protocol", False)
    return isinstance(option, type) and asks and issubclass(candidate, option)


_MANY = {"an integer": "integers", "a number": "numbers", "a text": "texts"}
_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text", None: "null", type(None): "null"}


def _word(option: Any) -> str:
    origin = typing.get_origin(option) or option
    if origin in _WORDS:
        return _WORDS[origin]
    if origin is Literal:
        names = [str(name) for name in typing.get_args(option)]
        return names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    if _is_subclass(list, origin) or _is_subclass(tuple, origin):
        items = [item for item in typing.get_args(option) if item is not Ellipsis]
        words = [describe(item) for item in items]
        if len(words) == 1 and words[0] in _MANY:
            return f"a list of {_MANY[words[0]]}"
        return f"a list of {', '.join(words)}" if words else "a list"
    return "a group of keys" if _is_subclass(dict, origin) else getattr(origin, "__name__", str(origin))


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict) and "_target_" not in value:
        return "a group of keys without _target_"  # one that merges into a group of another choice
    names = {int: "an integer", float: "a number with decimals", str: "a text", list: "a list", dict: "a group of keys"}
    return names.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
