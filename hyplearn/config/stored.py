"""What a stored configuration may say. It may come from somebody else: it names registered parts and no resolvers.

`check` is the one gate between the file of a run or of an export and whatever is made of it, and it imports nothing
that the file names unless the user has said `--trust <package>`. A configuration that was typed is free.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyplearn.config.registered import REGISTERED
from hyplearn.config.typecheck import join
from hyplearn.errors import ConfigError, UntrustedPart


def check(config: Mapping[str, Any], file: Path, *, trust: Sequence[str] = ()) -> None:
    """Raise ConfigError for what a stored configuration may not say. trust: packages whose code may run.

    Raises UntrustedPart for a part of a package that is not trusted. All names are looked at before one is imported.
    """
    for package in trust:
        _check_trusted(package)
    check_plain(config, file)
    named = list(_targets(config, ""))
    for path, target in named:
        _check_name(path, target, file, trust)
    for path, target in named:
        if target not in REGISTERED:
            _check_object(path, target, file, trust)


def check_plain(config: Mapping[str, Any], file: Path) -> None:
    """Raise ConfigError for an interpolation: what a run stores is resolved, and a foreign one could read secrets."""
    for path, text in _texts(config, ""):
        if "${" in text:
            raise ConfigError(
                f"{file}: {path}={text[:80]} is an interpolation, which hyplearn never stores and does not resolve "
                "in a stored configuration: write the value in its place."
            )


def _targets(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield each `_target_` with the place of its node, at any depth of mappings and lists."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node["_target_"]
        for key, value in node.items():
            yield from _targets(value, join(path, str(key)))
    if isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _targets(value, join(path, str(index)))


def _texts(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield each text, keys as well, with its place."""
    if isinstance(node, str):
        yield path, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _texts(key, path)
            yield from _texts(value, join(path, str(key)))
    if isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _texts(value, join(path, str(index)))


def _check_trusted(package: str) -> None:
    """Raise ConfigError for a package that cannot be trusted as a whole, or is not there. Imports nothing of it."""
    top = package.partition(".")[0]
    if top in sys.stdlib_module_names or not top.isidentifier():
        raise ConfigError(f"--trust {package}: name the installed package of your own parts; Python itself is none.")
    if top in {name.partition(".")[0] for name in REGISTERED}:
        raise ConfigError(
            f"--trust {package}: what a stored configuration may name of {top} is settled; name a package of your own."
        )
    if importlib.util.find_spec(top) is None:
        raise ConfigError(f"--trust {package}: there is no such package here: install it, or leave it out.")


def _check_name(path: str, target: Any, file: Path, trust: Sequence[str]) -> None:
    """Raise ConfigError for a name that is neither registered nor below a trusted package, by its text alone."""
    if not isinstance(target, str):
        raise ConfigError(f"{file}: {join(path, '_target_')}={str(target)[:80]} is no name of a class.")
    if target in REGISTERED or _below(target, trust):
        return
    top = target.partition(".")[0]
    place = f"{file}: {join(path, '_target_')}={target[:80]}"
    words = target.split(".")
    ours_or_python = top == "hyplearn" or top in sys.stdlib_module_names
    if ours_or_python or len(words) < 2 or not all(map(str.isidentifier, words)):
        raise ConfigError(
            f"{place} is no part that a stored configuration may name: it was changed, or is not a run's."
        )
    raise UntrustedPart(
        f"{place} is no registered part, and to make it runs code of the package {top}. If the file is yours, or you "
        f"trust who wrote it and the package, add --trust {top}.",
        top,
    )


def _below(target: str, trust: Sequence[str]) -> bool:
    return all(map(str.isidentifier, target.split("."))) and any(target.startswith(f"{name}.") for name in trust)


def _check_object(path: str, target: str, file: Path, trust: Sequence[str]) -> None:
    """Raise ConfigError for what a trusted package only imports from elsewhere, such as `own.models.os.system`."""
    place = f"{file}: {join(path, '_target_')}={target}"
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{place}: {error}") from error
    home = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', None)}"
    if not callable(found) or not (_below(home, trust) or home in REGISTERED):
        raise ConfigError(
            f"{place} is {home[:80]}, which is no part of {', '.join(trust)}: name a class of the package."
        )
