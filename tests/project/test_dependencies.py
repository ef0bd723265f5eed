"""What is imported is declared, what is declared is pinned, and pins are names and versions only."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
PIN = re.compile(r'[a-z0-9-]+==[0-9][0-9a-z.]*(; python_version (<|>=) "3\.\d+")?')


def read_project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def read_pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins_for(python: str) -> list[Requirement]:
    pins = map(Requirement, read_pins())
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"python_version": python})]


def direct_requirements() -> Iterator[Requirement]:
    project = read_project()
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for text in chain.from_iterable(groups):
        requirement = Requirement(text)
        if requirement.name != project["name"]:
            yield requirement


def third_party_imports(path: Path) -> set[str]:
    """The top-level names of all absolute imports of one file, those inside functions too."""
    return third_party_imports_of(ast.parse(path.read_text()))


def third_party_imports_of(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"hyplearn"}


def test_pins_are_names_and_versions_only() -> None:
    assert [line for line in read_pins() if not PIN.fullmatch(line)] == []


@pytest.mark.parametrize("python", PYTHONS)
def test_no_name_is_pinned_twice(python: str) -> None:
    names = [pin.name for pin in pins_for(python)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("requirement", list(direct_requirements()), ids=lambda requirement: requirement.name)
def test_every_direct_dependency_is_pinned_within_its_range(requirement: Requirement, python: str) -> None:
    environment = {"python_version": python}
    if requirement.marker is not None and not requirement.marker.evaluate(environment):
        pytest.skip(f"not needed on Python {python}")
    pins = {
        pin.name: pin for pin in map(Requirement, read_pins()) if pin.marker is None or pin.marker.evaluate(environment)
    }
    (version,) = (specifier.version for specifier in pins[canonicalize_name(requirement.name)].specifier)
    assert version in requirement.specifier


# A module whose classes are those of an optional package, and which is itself imported when it is called for.
WHOLLY_OPTIONAL = {ROOT / "hyplearn/inference/http_service.py"}


def undeclared(names: dict[Path, set[str]], declared: set[str]) -> set[str]:
    providers = packages_distributions()
    return {
        f"{path.relative_to(ROOT)}: {name}"
        for path, found in names.items()
        for name in found
        if not declared & {canonicalize_name(provider) for provider in providers.get(name, [])}
    }


def imports_outside_functions(path: Path) -> set[str]:
    """What is imported when the module is; not what types alone need."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        types_alone = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if types_alone or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [ast.Pass()]
    return third_party_imports_of(tree)


def test_every_import_of_the_package_is_a_declared_dependency_and_optional_ones_wait_for_their_call() -> None:
    project = read_project()
    core = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    extras = {canonicalize_name(requirement.name) for requirement in direct_requirements()}
    files = [*ROOT.glob("hyplearn/**/*.py"), *ROOT.glob("*.py")]
    assert undeclared({path: third_party_imports(path) for path in files}, core | extras) == set()
    outside = {path: imports_outside_functions(path) for path in files if path not in WHOLLY_OPTIONAL}
    assert undeclared(outside, core) == set()
    names = ["from hyplearn.inference.http_service import", "import hyplearn.inference.http_service"]
    importing = [
        line for path in files for line in path.read_text().splitlines() if any(name in line for name in names)
    ]
    assert importing == ["    from hyplearn.inference.http_service import application"]  # when it is called for


def test_geometry_imports_torch_alone() -> None:
    files = list(ROOT.glob("hyplearn/geometry/*.py"))
    assert files
    assert set().union(*map(third_party_imports, files)) == {"torch"}
