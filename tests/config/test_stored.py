"""What a stored configuration may name, and that nothing else is imported, called or resolved on its way to parts."""

from __future__ import annotations

import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import hyplearn
from hyplearn.config import stored
from hyplearn.config.compose import change, compose
from hyplearn.config.folders import config_dir
from hyplearn.config.registered import OTHERS, OURS, REGISTERED
from hyplearn.errors import ConfigError, UntrustedPart
from hyplearn.runs.renamed import present_target

FILE = Path("run/config.yaml")
NAMES_OF_HARM = (
    "sympy.sympify",
    "numpy.load",
    "torch.hub.load",
    "torch.load",
    "torchvision.transforms.v2.Lambda",
    "pytorch_lightning.callbacks.ModelCheckpoint",
    "timm.create_model",
    "hydra.utils.instantiate",
    "hydra.utils.get_method",
)
NAMES_OF_PYTHON = (
    "builtins.open",
    "builtins.eval",
    "os.system",
    "subprocess.Popen",
    "importlib.import_module",
    "functools.partial",
    "operator.methodcaller",
    "pickle.loads",
    "hyplearn.config.folders.sys.modules.clear",
    "hyplearn.runs.lock.os.system",
    "hyplearn.losses.base.torch.hub.load",
    "hyplearn.runs.atomic.write_text",
    "hyplearn.cli.main.main",
    "hyplearn.losses:CrossEntropy",
    "hyplearn.losses.CrossEntropy.__init__",
    "",
    "open",
    "os:system",
)


def check(node: Any, **given: Any) -> None:
    stored.check({"seed": 1, "model": node}, FILE, **given)


@pytest.mark.parametrize("name", NAMES_OF_HARM)
def test_a_part_of_a_package_that_is_not_registered_needs_trust(name: str) -> None:
    with pytest.raises(UntrustedPart, match=rf"run/config.yaml: model._target_={name} .*--trust {name.split('.')[0]}"):
        check({"_target_": name})


@pytest.mark.parametrize("name", NAMES_OF_PYTHON)
def test_no_flag_allows_python_itself_or_what_is_reachable_from_ours(name: str) -> None:
    with pytest.raises(ConfigError, match=r"run/config.yaml: model._target_=") as told:
        check({"_target_": name})
    assert not isinstance(told.value, UntrustedPart)


@pytest.mark.parametrize("target", [["os", "system"], {"_target_": "os.system"}, 3, None, True])
def test_a_target_is_a_text(target: Any) -> None:
    with pytest.raises(ConfigError, match="is no name of a class"):
        check({"_target_": target})


@pytest.mark.parametrize(
    "hidden",
    [
        {"a": {"b": [{"c": [[{"_target_": "os.system", "command": "true"}]]}]}},
        {"_target_": "torch.nn.Identity", "_args_": [{"_target_": "os.system"}]},
        {"_target_": "torch.nn.Identity", "_partial_": True, "x": {"_target_": "os.system", "_partial_": True}},
        {"_target_": "hyplearn.losses.CrossEntropy", "_recursive_": False, "x": {"_target_": "os.system"}},
    ],
    ids=["lists", "args", "partial", "not recursive"],
)
def test_targets_are_found_at_any_depth(hidden: Any) -> None:
    with pytest.raises(ConfigError, match=r"_target_=os\.system"):
        check(hidden)


def test_nothing_is_imported_before_every_name_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good_parts.py").write_text("class Net: pass\n")
    (tmp_path / "bad_parts.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"model": {"_target_": "good_parts.Net"}, "loss": {"_target_": "bad_parts.Net"}}
    with pytest.raises(UntrustedPart):
        stored.check(config, FILE, trust=["good_parts"])
    assert "good_parts" not in sys.modules and "bad_parts" not in sys.modules


def test_a_trusted_package_offers_its_own_objects_and_those_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_to_trust.py").write_text(
        "import os\nfrom os import system\nfrom hyplearn.losses import CrossEntropy\nclass Net: pass\nNUMBER = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("Net", "CrossEntropy"):
        check({"_target_": f"mine_to_trust.{name}"}, trust=["mine_to_trust"])
    for name in ("os.system", "system", "NUMBER", "os.path.join"):
        with pytest.raises(ConfigError, match="is no part of mine_to_trust"):
            check({"_target_": f"mine_to_trust.{name}"}, trust=["mine_to_trust"])
    with pytest.raises(ConfigError, match="no attribute"):
        check({"_target_": "mine_to_trust.Missing"}, trust=["mine_to_trust"])


@pytest.mark.parametrize("package", ["os", "builtins", "sys", "importlib.util", "../evil", "", "a_package_that_is_not"])
def test_only_an_installed_package_can_be_trusted(package: str) -> None:
    with pytest.raises(ConfigError, match=f"--trust {re.escape(package)}"):
        check({}, trust=[package])


def test_trust_of_one_package_is_none_of_another_whose_name_begins_alike() -> None:
    with pytest.raises(UntrustedPart):
        check({"_target_": "PIL_evil.Net"}, trust=["PIL"])


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "a ${oc.decode:x}", "${seed}", r"\${seed}", "${oc.create:{}}"])
def test_interpolations_are_not_resolved(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for node in ({"a": text}, {"a": [[text]]}, {text: 1}):
        with pytest.raises(ConfigError, match="is an interpolation"):
            check(node)


def test_every_choice_of_ours_names_registered_parts_alone() -> None:
    text = "\n".join(path.read_text() for path in config_dir().rglob("*.yaml"))
    named = set(re.findall(r"_target_: ([\w.]+)", text)) - {"hyplearn.cli.under_hydra.SingleRun"}  # of Hydra's own node
    assert named and named <= REGISTERED


def test_what_moved_is_registered_where_it_lies_now() -> None:
    assert present_target("hyplearn.data.cub.CUB") in REGISTERED


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_registered_part_is_a_public_class_that_we_define(name: str) -> None:
    found = pkgutil.resolve_name(name)
    assert isinstance(found, type) and found.__module__.startswith(f"{hyplearn.__name__}.")
    assert found.__qualname__ == name.rpartition(".")[2] and not found.__qualname__.startswith("_")


def test_the_listed_parts_of_other_packages_exist() -> None:
    missing = [name for name in sorted(OTHERS) if not callable(pkgutil.resolve_name(name))]
    assert missing == []


def test_a_stored_configuration_passes_one_gate_and_a_typed_one_none() -> None:
    config = compose(["model=euclidean_r18", "dataset=digits"]).config
    assert change(config, [], allowed=lambda _: False, file=FILE, trust=()).config == config
    evil = {**config, "model": {"_target_": "sympy.sympify", "a": "1"}}
    with pytest.raises(UntrustedPart):
        change(evil, [], allowed=lambda _: False, file=FILE, trust=())


def test_no_module_makes_parts_of_names_but_those_behind_the_gate() -> None:
    """A second way from names to objects would go around `stored.check`."""
    ways = re.compile(r"\binstantiate\(|resolve_name\(|get_class\(|get_method\(|get_object\(|_locate\(|\b__import__\(")
    root = Path(hyplearn.__file__).parent
    found = {str(path.relative_to(root)) for path in root.rglob("*.py") if ways.search(path.read_text())}
    assert found - {"jobs/plan.py"} == {"config/build.py", "config/typecheck.py", "config/stored.py"}


@pytest.mark.parametrize("package", ["torch", "torch.hub", "hyplearn", "timm.models"])
def test_a_package_with_registered_parts_is_not_trusted_as_a_whole(package: str) -> None:
    config = {"model": {"_target_": "torch.hub.load"}}
    with pytest.raises(ConfigError, match=f"--trust {package}: what a stored configuration may name of"):
        stored.check(config, Path("config.yaml"), trust=[package])
