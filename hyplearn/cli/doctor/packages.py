"""Packages that do not go together, and processors that they do not go with, by names and versions alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
# torchvision 0.(N + 15) is built for torch 2.N
TORCHVISION_AHEAD = 15


class Check(NamedTuple):
    """What was looked at. way_out: what to do about a warning or problem."""

    status: str
    name: str
    detail: str
    way_out: str | None = None


def installed() -> dict[str, str]:
    """Version of every distribution by its canonical name."""
    found = {dist.metadata["Name"]: dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
    return {canonicalize_name(name): version for name, version in found.items()}


def requirements() -> list[Requirement]:
    """What the installed hyplearn asks for, extras included; nothing for a checkout that is not installed."""
    try:
        return [Requirement(text) for text in metadata.requires("hyplearn") or ()]
    except metadata.PackageNotFoundError:
        return []


def out_of_range(versions: Mapping[str, str], wanted: Iterable[Requirement]) -> list[Check]:
    """Required packages that are missing, or of a version that hyplearn does not allow."""
    found = []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = versions.get(canonicalize_name(requirement.name))
        if version is None:
            found.append(Check(PROBLEM, requirement.name, "is not installed", f"pip install '{_asked(requirement)}'"))
        elif not requirement.specifier.contains(version, prereleases=True):
            detail = f"{version} is installed, hyplearn needs {requirement.specifier}"
            found.append(Check(PROBLEM, requirement.name, detail, f"pip install '{_asked(requirement)}'"))
    return found


def _asked(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def extras(versions: Mapping[str, str], wanted: Iterable[Requirement]) -> dict[str, list[str]]:
    """Name of every extra to the packages of it that are missing."""
    missing: dict[str, list[str]] = {}
    for requirement in wanted:
        for name in re.findall(r"extra == ['\"]([\w-]+)", str(requirement.marker or "")):
            lacking = missing.setdefault(name, [])
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": name})
            if applies and canonicalize_name(requirement.name) not in versions:
                lacking.append(requirement.name)
    return missing


def bad_combinations(versions: Mapping[str, str]) -> list[Check]:
    """List the known bad combinations among installed packages (canonical name to version)."""
    return [check for find in (_hydra, _lightning, _faiss, _torch, _optuna) for check in find(versions)]


def _hydra(versions: Mapping[str, str]) -> list[Check]:
    found = []
    hydra, omegaconf = (_version(versions, name) for name in ("hydra-core", "omegaconf"))
    if hydra and omegaconf and omegaconf >= Version("2.4") and hydra < Version("1.4"):
        detail = f"omegaconf {omegaconf} does not work with hydra-core {hydra}"
        found.append(Check(PROBLEM, "omegaconf", detail, "pip install 'omegaconf>=2.3,<2.4'"))
    antlr = _version(versions, "antlr4-python3-runtime")
    if hydra and antlr and hydra < Version("1.4") and antlr.release[:2] != (4, 9):
        detail = f"{antlr} is installed, hydra-core {hydra} reads overrides with 4.9"
        found.append(Check(PROBLEM, "antlr4-python3-runtime", detail, "pip install 'antlr4-python3-runtime==4.9.*'"))
    return found


def _lightning(versions: Mapping[str, str]) -> list[Check]:
    found = []
    if versions.get("pytorch-lightning") in ("2.6.2", "2.6.3"):
        found.append(
            Check(
                PROBLEM,
                "pytorch-lightning",
                f"{versions['pytorch-lightning']} was withdrawn because it carried malicious code",
                "pip install 'pytorch-lightning>=2.6.4,<2.7', and replace every secret that lay on this machine",
            )
        )
    if "lightning" in versions and "pytorch-lightning" in versions:
        detail = "is installed beside pytorch-lightning; objects of one are not recognised by the other"
        found.append(
            Check(WARNING, "lightning", detail, "never import both in one program, or pip uninstall lightning")
        )
    return found


def _faiss(versions: Mapping[str, str]) -> list[Check]:
    gpu = sorted(name for name in versions if name.startswith("faiss-gpu"))
    if "faiss-cpu" not in versions or not gpu:
        return []
    way_out = f"pip uninstall faiss-cpu {' '.join(gpu)}, then install one of them"
    return [Check(PROBLEM, "faiss-cpu", f"is installed beside {gpu[0]}: both are the module faiss", way_out)]


def _torch(versions: Mapping[str, str]) -> list[Check]:
    torch, torchvision = (_version(versions, name) for name in ("torch", "torchvision"))
    if not torch or not torchvision or torch.major != 2 or torchvision.major != 0:
        return []
    if torchvision.minor == torch.minor + TORCHVISION_AHEAD:
        return []
    fitting = f"0.{torch.minor + TORCHVISION_AHEAD}.*"
    detail = f"{torchvision} is not built for torch {torch}, which needs {fitting} (error: torchvision::nms)"
    return [Check(PROBLEM, "torchvision", detail, f"pip install 'torchvision=={fitting}'")]


def _optuna(versions: Mapping[str, str]) -> list[Check]:
    sweeper, alchemy = (_version(versions, name) for name in ("hydra-optuna-sweeper", "sqlalchemy"))
    if not sweeper or not alchemy or sweeper >= Version("1.4") or alchemy < Version("2"):
        return []
    detail = f"{sweeper} cannot store a study with SQLAlchemy {alchemy}"
    way_out = "use hyplearn tune, which does not need it, or pip install 'sqlalchemy<2'"
    return [Check(WARNING, "hydra-optuna-sweeper", detail, way_out)]


def _version(versions: Mapping[str, str], name: str) -> Version | None:
    return Version(versions[name]) if name in versions else None


def processor(flags: frozenset[str], environment: Mapping[str, str]) -> Check:
    """Say which instructions the processor has, and whether oneDNN may use them: kept to AVX it is a third slower.

    flags: of the processor, as Linux names them; empty where they are not known.
    """
    level = next((name for name in ("avx512f", "avx2", "avx", "asimd") if name in flags), "unknown instructions")
    kept = environment.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if kept in ("AVX", "SSE41") and "avx2" in flags:
        detail = f"has {level}, oneDNN is kept to {kept}: slower, and no longer needed"
        return Check(WARNING, "processor", detail, "unset ONEDNN_MAX_CPU_ISA")
    return Check(OK, "processor", level + (f", oneDNN kept to {kept}" if kept else ""))
