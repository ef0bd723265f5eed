"""The mathematical packages are usable without the tools that only the program around them needs."""

from __future__ import annotations

import subprocess
import sys

LIGHT = ["geometry", "manifolds", "nn", "losses", "optim"]
HEAVY = {"hydra", "omegaconf", "pytorch_lightning", "lightning", "wandb"}
# Every module of every package, because an __init__ alone need not import them all.
CODE = f"""
import importlib, pkgutil, sys
for package in {LIGHT!r}:
    module = importlib.import_module("hyplearn." + package)
    for found in pkgutil.walk_packages(module.__path__, module.__name__ + "."):
        importlib.import_module(found.name)
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""


def test_mathematics_imports_without_hydra_lightning_and_wandb() -> None:
    answer = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    loaded = set(answer.stdout.split())
    assert {"torch", "hyplearn"} <= loaded
    assert loaded & HEAVY == set()
