"""The choices of the groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyplearn.config.compose import compose
from hyplearn.config.folders import BASE, config_dir, groups
from hyplearn.errors import ConfigError


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
