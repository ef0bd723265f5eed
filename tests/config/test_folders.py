"""The choices of the groups."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from hyplearn.cli.completion import candidates
from hyplearn.config.compose import compose
from hyplearn.config.explain import searched
from hyplearn.config.folders import BASE, config_dir, config_folders, groups, installed
from hyplearn.errors import ConfigError
from tests.support.commands import Command


def test_bases_are_no_choices() -> None:
    bases = sorted(path.stem for path in (config_dir() / "model" / BASE).glob("*.yaml"))
    assert bases == ["hier", "hyp", "lhier", "mix", "sph"]
    assert not any(name.startswith(f"{BASE}/") for choices in groups([config_dir()]).values() for name in choices)
    with pytest.raises(ConfigError, match="unknown choice model=base/hyp"):
        compose(["model=base/hyp"])


def test_a_further_folder_may_have_bases_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "model" / BASE).mkdir(parents=True)
    (tmp_path / "model" / BASE / "hyp.yaml").write_text("head: {size: 3}\n")
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [hyp_vit_s, _self_]\nhead: {size: 4}\n")
    assert "mine" in groups([config_dir(), tmp_path])["model"]


# Installed packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of configurations of a package that looks installed to Python."""
    site = tmp_path / "site"
    (site / "others_parts" / "conf" / "model").mkdir(parents=True)
    (site / "others_parts" / "__init__.py").touch()
    (site / "others_parts" / "conf" / "__init__.py").touch()
    (site / "others_parts" / "conf" / "model" / "narrow.yaml").write_text("defaults: [hecnn_r18, _self_]\nwidth: 4\n")
    information = site / "others_parts-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: others-parts\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[hyplearn.configs]\nothers = others_parts.conf\n")
    monkeypatch.syspath_prepend(site)
    for name in [name for name in sys.modules if name.startswith("others_parts")]:  # that of another test
        monkeypatch.delitem(sys.modules, name)
    return site / "others_parts" / "conf"


def test_an_installed_package_offers_choices(package: Path) -> None:
    assert installed()["others"] == "others_parts.conf"
    assert package in config_folders()
    assert compose(["model=narrow"]).config["model"]["width"] == 4
    with pytest.raises(ConfigError, match="Did you mean narrow"):
        compose(["model=narow"])
    assert candidates("hyplearn train model=narr") == ["model=narrow"]


def test_a_folder_that_is_named_and_installed_is_one_folder(package: Path) -> None:
    assert config_folders([package]) == config_folders()
    assert compose(["model=narrow"], extra=[package]).choices["model"] == "narrow"


def test_an_installed_package_cannot_take_a_name_that_is_given(package: Path, command: Command) -> None:
    (package / "model" / "hecnn_r18.yaml").write_text("width: 4\n")
    refused = command("train", "--cfg", "job")
    assert refused.status == 2
    assert f"{package / 'model' / 'hecnn_r18.yaml'}: model offers hecnn_r18 already" in refused.err
    with pytest.raises(ConfigError, match="model offers hecnn_r18 already"):
        compose([])


def test_a_package_without_its_folder_is_named(package: Path) -> None:
    (package / "__init__.py").unlink()
    with pytest.raises(ConfigError, match=r"entry point others of hyplearn.configs names others_parts.conf, but"):
        config_folders()


def test_completion_sees_the_folder_of_the_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "slim.yaml").write_text("defaults: [hecnn_r18, _self_]\nwidth: 4\n")
    assert candidates(f"hyplearn train --config-dir {tmp_path} model=sl") == ["model=slim"]
    assert candidates(f"hyplearn train --config-dir {tmp_path} model=slim model.wid") == ["model.width="]


def test_the_search_path_that_was_typed(package: Path, command: Command) -> None:
    typed = ["seed=1", "hydra.searchpath=[file://more,pkg://others_parts.conf]"]
    assert searched(typed) == [Path("more"), package]
    assert searched(["seed=1"]) == []
    with pytest.raises(ConfigError, match=r"hydra.searchpath names no_such.conf"):
        searched(["hydra.searchpath=[pkg://no_such.conf]"])
    Path("more/loss").mkdir(parents=True)
    Path("more/loss/mine.yaml").write_text("defaults: [cross_entropy]\n")
    unknown = command("train", "hydra.searchpath=[file://more]", "loss=mne")
    assert unknown.status == 2
    assert "Did you mean mine?" in unknown.err
    Path("more/loss/cross_entropy.yaml").write_text("label_smoothing: 0.1\n")
    refused = command("train", "hydra.searchpath=[file://more]", "--cfg", "job")
    assert refused.status == 2
    assert "loss offers cross_entropy already" in refused.err


@pytest.mark.parametrize("key", ["output_dir", "dataset.root"])
@pytest.mark.parametrize(
    "path",
    [
        "runs/a=b",
        "runs/a,b",
        "runs/a(1)",
        "~/runs",
        "runs/Vögel",
        "runs/鳥",
        "runs/a b(2)",
        "runs/it's",
        "runs/[1]",
        "a&b",
    ],
)
def test_a_path_works_as_it_is_typed_or_in_the_quotes_that_the_message_shows(key: str, path: str) -> None:
    group = ["dataset=image_folder", "dataset.image_size=64"] if key == "dataset.root" else []
    told = ""
    try:
        config = compose([*group, f"{key}={path}"]).config
    except ConfigError as error:
        told = str(error).partition("quote it: ")[2] or f"no way out: {error}"
    if told:
        config = compose([*group, *shlex.split(told)]).config  # as a shell hands it over
    *parents, last = key.split(".")
    for name in parents:
        config = config[name]
    assert config[last] == str(Path(path).expanduser())
