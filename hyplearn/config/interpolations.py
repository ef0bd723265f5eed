"""What the interpolations of a typed configuration come to, bounded before OmegaConf writes them out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hyplearn.errors import ConfigError

LARGEST = 1_000_000  # characters and values of a resolved configuration; those of our experiments have 10,000
SECRET = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?(\w*(?:KEY|TOKEN|SECRET|PASSW|CREDENTIAL)\w*)", re.IGNORECASE)
_INNERMOST = re.compile(r"\$\{([^{}]*)\}")
Path = tuple[str, ...]


def check_interpolations(tree: Mapping[str, Any]) -> None:
    """Raise ConfigError for interpolations that would write out a secret, or multiply beyond every use.

    tree: the configuration as plain containers, unresolved.
    """
    leaves = [(path, text) for path, text in _leaves(tree, ()) if isinstance(text, str) and "${" in text]
    for path, text in leaves:
        secret = SECRET.search(text)
        if secret:
            raise ConfigError(
                f"{'.'.join(path)}={text}: {secret[1]} looks like a secret, and config.yaml, exports and loggers would "
                "hold its value: let the program that needs it read the environment itself."
            )
    try:
        largest = _Sizes(tree, leaves).whole()
    except RecursionError as error:
        raise ConfigError("the interpolations of the configuration follow each other without end.") from error
    if leaves and largest > LARGEST:
        raise ConfigError(
            f"the interpolations of the configuration multiply to more than {LARGEST:,} characters, for example in "
            f"{'.'.join(leaves[-1][0])}: write the value in their place."
        )


def _leaves(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, (*path, str(index)))
    else:
        yield path, node


class _Sizes:
    """Upper bounds of what nodes come to once resolved, each counted once."""

    def __init__(self, tree: Mapping[str, Any], leaves: list[tuple[Path, str]]) -> None:
        self.tree = tree
        self.known: dict[Path, int] = {}
        # An interpolation within another may name any key: it is counted as the whole, once for each level of them.
        self.nested = {path for path, text in leaves if "${" in _INNERMOST.sub("", text)}
        self.whole_of_nested = 0

    def whole(self) -> int:
        """Return the size of the whole configuration."""
        for _ in range(len(self.nested) + 1):
            self.known.clear()
            found = self._size((), self.tree)
            if found > LARGEST:
                return found
            self.whole_of_nested = found
        return found

    def _size(self, path: Path, node: Any) -> int:
        if path not in self.known:
            self.known[path] = 0  # of a circle, which OmegaConf tells
            self.known[path] = self._counted(path, node)
        return self.known[path]

    def _counted(self, path: Path, node: Any) -> int:
        if isinstance(node, Mapping):
            return 1 + sum(self._size((*path, str(key)), value) for key, value in node.items())
        if isinstance(node, list):
            return 1 + sum(self._size((*path, str(index)), value) for index, value in enumerate(node))
        if not isinstance(node, str) or "${" not in node:
            return len(node) if isinstance(node, str) else 1
        if path in self.nested:
            return len(node) + node.count("${") * self.whole_of_nested
        return len(node) + sum(self._referred(path, inner) for inner in _INNERMOST.findall(node))

    def _referred(self, path: Path, inner: str) -> int:
        """Return the size of what `${inner}` names: a key, or the arguments of a resolver that may be keys."""
        _, colon, arguments = inner.partition(":")
        names = arguments.split(",") if colon else [inner]
        return sum(self._named(path, name.strip(" '\"")) for name in names)

    def _named(self, path: Path, name: str) -> int:
        dots = len(name) - len(name.lstrip("."))
        base = path[: max(len(path) - dots, 0)] if dots else ()
        keys = [key for key in re.split(r"[.\[\]]+", name.lstrip(".")) if key]
        node: Any = self.tree
        for key in (*base, *keys):
            node = _child(node, key)
            if node is None:
                return 0
        return self._size((*base, *keys), node)


def _child(node: Any, key: str) -> Any:
    if isinstance(node, Mapping):
        return node.get(key)
    return node[int(key)] if isinstance(node, list) and key.isdecimal() and int(key) < len(node) else None
