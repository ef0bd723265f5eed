"""The documentation speaks of what exists: commands and options, settings, files, functions. Needs no Sphinx."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from hyplearn.cli.commands import COMMANDS
from hyplearn.cli.main import main
from hyplearn.cli.train import train_parser
from hyplearn.config.compose import compose, parse
from hyplearn.jobs.grid import expand
from hyplearn.jobs.tuning.under_hydra import searched

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "_generated"} & set(path.relative_to(DOCS).parts))
EXAMPLE = ROOT / "examples" / "own_parts"  # whose choices pages may show
FENCE = re.compile(r"(?ms)^```(\w*)\n(.*?)^```$")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
ROLE = re.compile(r"\{py:\w+\}`([^`]+)`")


def load(name: str) -> ModuleType:
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name.replace('/', '_')}", DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line that is shown, with the page it stands on: the words after `hyplearn`."""
    for page in [*PAGES, ROOT / "README.md", EXAMPLE / "README.md"]:
        for language, body in FENCE.findall(page.read_text()):
            if language not in ("", "console"):
                continue
            for line in body.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True) if is_command(line) else []
                if words:
                    yield page.name, ["train", *words[2:]] if words[0] == "python" else words[1:]


def is_command(line: str) -> bool:
    return line.removeprefix("$ ").startswith(("hyplearn ", "python train.py"))


SHOWN = [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, words in commands()]
TRAINED = [case for case in SHOWN if case.values[0][0] == "train" and "--help" not in case.values[0]]
OTHERS = [case for case in SHOWN if case.values[0][0] != "train"]


@cache
def help_of(*words: str) -> str:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([*words, "--help"]) == 0
    return out.getvalue()


def test_the_pages_show_commands() -> None:
    assert len(TRAINED) > 20 and len(OTHERS) > 20


@pytest.mark.parametrize("words", TRAINED)
def test_every_shown_training_composes(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    example = [EXAMPLE / "own_parts" / "configs"]
    typed = [word for word in words[1:] if not word.startswith("--config-dir=")]
    options = train_parser().parse_intermixed_args(typed)  # raises for an option that there is not
    overrides = options.overrides
    if options.multirun and "hydra/sweeper=hyplearn_optuna" in overrides:
        assert [searched(parse(text)) for text in overrides if parse(text).is_sweep_override()]
        overrides = [text for text in overrides if not parse(text).is_sweep_override()]
    elif options.multirun:
        jobs = expand([parse(text) for text in overrides if "=glob(" not in text])
        assert len(jobs) > 1
        overrides = list(jobs[0].overrides)
    compose(overrides, extra=example)


@pytest.mark.parametrize("words", OTHERS)
def test_every_shown_command_and_option_exists(words: list[str]) -> None:
    command, *rest = words
    if command == "--version":
        return
    assert command in COMMANDS
    kinds = rest[:1] if command == "plot" else []
    text = help_of(command, *kinds)
    assert [
        word for word in rest if word.startswith("--") and word.partition("=")[0] not in (*text.split(), "--help")
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    generated = {f"{name}.md" for name in ("configuration", "experiments", "commands")}
    targets = [target for target in LINK.findall(page.read_text()) if Path(target).name not in generated]
    assert [target for target in targets if not (page.parent / target).is_file()] == []


def test_every_page_has_its_place_in_the_index() -> None:
    trees = re.findall(r"(?ms)^```\{toctree\}(.*?)^```", (DOCS / "index.md").read_text())
    listed = {line.strip() for tree in trees for line in tree.splitlines()}
    assert {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES} - {"index"} <= listed


def test_every_function_of_the_index_of_equations_exists() -> None:
    names = ROLE.findall((DOCS / "reference/equations.md").read_text())
    assert len(names) > 80
    for name in names:
        pkgutil.resolve_name(name)


@pytest.mark.parametrize(
    ("paper", "entries"),
    [
        (
            "Bdeir",
            ["Eq. 1,", "Eq. 2,", "Eq. 3,", "Eq. 4,", "Eq. 5,", "Eq. 6,", "Algorithm 1,", "Algorithm 2,", "Figure 1,"],
        ),
        ("Yue", ["Eq. 1,", "Eq. 2,", "Eq. 3,", "Eq. 4,", "Eq. 5,", "Eq. 6,", "Eq. 7,", "Eqs. 8, 9 and 11,", "Eq. 10,"]),
        ("Tables", [*(f"Bdeir Table {n}," for n in range(1, 6)), "Yue Table 1,", "Yue Table 2,"]),
        ("Figures", [f"Yue Figure {n}," for n in range(1, 5)]),
    ],
)
def test_the_index_of_equations_is_complete(paper: str, entries: list[str]) -> None:
    sections = re.split(r"(?m)^## ", (DOCS / "reference/equations.md").read_text())
    text = "\n".join(section for section in sections if section.startswith(paper))
    assert [entry for entry in entries if f"| {entry}" not in text] == []


def test_the_list_of_differences_is_complete_and_stands_in_one_place() -> None:
    page = (DOCS / "reference/printed_vs_coded.md").read_text()
    assert page.count("\n|") >= 59
    assert "include}" not in "".join(page.read_text() for page in PAGES)
    assert "Printed vs coded\n" not in (ROOT / "README.md").read_text()


def test_figures_are_small_and_those_that_the_script_draws() -> None:
    figures = {path.stem: path.stat().st_size for path in (DOCS / "figures").glob("*.png")}
    drawn_by_a_command = {"digits"}  # the README says which
    assert set(figures) == set(load("figures/draw").FIGURES) | drawn_by_a_command
    assert max(figures.values()) < 100_000


@pytest.mark.slow
def test_the_script_draws_every_figure(tmp_path: Path) -> None:
    for name, draw in load("figures/draw").FIGURES.items():
        draw().savefig(tmp_path / f"{name}.png")


@pytest.mark.parametrize(
    ("plain", "shown"),
    [
        ("|x| and x_t, see `time`.", r"\|x\| and x\_t, see \ ``time``\ ."),
        ("a: one\n    more\nb: two", "a\\: one more\n\nb\\: two"),
        ("    x = 1", "::\n\n        x = 1"),
        ("1. not a list", "\\1. not a list"),
    ],
)
def test_docstrings_are_shown_as_they_are_written(plain: str, shown: str) -> None:
    assert "\n".join(load("plain_docstrings").restructured(plain.splitlines())).strip() == shown
