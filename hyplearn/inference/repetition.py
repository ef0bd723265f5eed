"""A run beside its repetition: what differs in code, versions and machine before, in numbers and weights after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hyplearn.training.checkpoint import read_checkpoint

# Settings of the machine that may move the last bits; they stop nobody, as they cannot be undone.
MACHINE = ("platform", "processor", "threads", "gpus", "cuda")


class Difference(NamedTuple):
    """One fact, as it was and as it is."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: {self.before} then, {self.now} now"


def code_differences(
    manifest: Mapping[str, Any], source: Mapping[str, Any], versions: Mapping[str, str]
) -> list[Difference]:
    """Commit and versions that are others than those of any session of the run; changes that no commit holds."""
    found: list[Difference] = []
    for session in manifest["sessions"]:
        before = session["source"]
        facts = [Difference("commit", before.get("commit"), source.get("commit"))]
        names = {**session["versions"], **versions}
        facts += [Difference(name, session["versions"].get(name), versions.get(name)) for name in names]
        found += [fact for fact in facts if fact.before != fact.now]
        if before.get("dirty") or source.get("dirty"):  # nobody knows whether they are the same
            found.append(Difference("uncommitted changes", _yes(before.get("dirty")), _yes(source.get("dirty"))))
    return list(dict.fromkeys(found))


def _yes(dirty: bool | None) -> str:
    return "yes" if dirty else "no"


def machine_differences(manifest: Mapping[str, Any], hardware: Mapping[str, Any]) -> list[Difference]:
    """Processor, threads and GPUs that are others than those of any session of the run."""
    facts = [
        Difference(name, session["hardware"].get(name), hardware.get(name))
        for session in manifest["sessions"]
        for name in MACHINE
    ]
    differing = [fact for fact in facts if fact.before != fact.now]
    return [fact for index, fact in enumerate(differing) if fact not in differing[:index]]


def number_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[int, list[Difference]]:
    """How many numbers of two results.json were compared, and those that are not equal to the last bit."""
    found = []
    for group, prefix in (("metrics", ""), ("curvature", "curvature c of ")):
        names = {**before.get(group, {}), **now.get(group, {})}
        found += [Difference(prefix + name, before[group].get(name), now[group].get(name)) for name in names]
    found.append(Difference("chosen epoch", before["selection"]["epoch"], now["selection"]["epoch"]))
    return len(found), [fact for fact in found if fact.before != fact.now]


def data_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Checksums, counts and splits of two results.json that differ."""
    names = {**before["dataset"], **now["dataset"]}
    facts = [Difference(f"dataset {name}", before["dataset"].get(name), now["dataset"].get(name)) for name in names]
    return [fact for fact in facts if fact.before != fact.now]


def weight_difference(before: Path, now: Path) -> float | None:
    """The largest |difference| of the weights of two checkpoints, None where they are not of one model."""
    a, b = (read_checkpoint(path)["state_dict"] for path in (before, now))
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return None
    return max((_largest(a[name], b[name]) for name in a), default=0.0)


def _largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
