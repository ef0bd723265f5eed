"""The pages of the reference that are made from the code: configuration, experiments, command line, modules."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sphinx.util import logging

from hyplearn.cli.commands import COMMANDS, KINDS
from hyplearn.cli.help import KEYS, RETRIEVAL, RETRIEVAL_KEYS
from hyplearn.cli.main import main
from hyplearn.config.compose import compose, defaults
from hyplearn.config.folders import BASE, config_dir, groups
from hyplearn.config.schema import TrainConfig
from hyplearn.config.typecheck import arguments, describe

LOG = logging.getLogger(__name__)
PACKAGE = Path(__file__).resolve().parents[1] / "hyplearn"

# Packages documented module by module, each with a sentence on what it is.
PACKAGES = ("geometry", "manifolds", "nn", "optim", "losses", "models", "data", "evaluation", "papers", "plots")
# Of the rest only what a user meets; the other modules are listed with their first line.
BRIEFLY = {
    "training": ("training.settings", "training.fit"),
    "inference": ("inference.open", "inference.export", "inference.prediction"),
    "config": ("config.schema", "config.compose"),
    "runs": ("runs.directory", "runs.identity"),
    "jobs": ("jobs.launcher", "jobs.processes", "jobs.slurm", "jobs.sweep", "jobs.tuning.search"),
    "cli": ("cli.main",),
}
GROUPS = {
    "model": "What is trained. A model may choose manifold, loss, optimizer and data set that go with it.",
    "manifold": "Where points live, and whether the curvature is learned.",
    "optim": "Optimizer, rates of the three kinds of parameters, schedule.",
    "loss": "What is minimised. `cross_entropy` is for classifiers, the others are for retrieval.",
    "dataset": "Images, splits, batches and augmentation.",
    "backbone": "The encoder of a retrieval model; its model chooses one.",
    "evaluation": "What is measured after and during a retrieval run; its data set chooses one.",
    "trainer": "Length, device, precision.",
    "logger": "Where the curves go besides `metrics.csv`.",
    "callbacks": "Checkpoints, early stopping, what is drawn.",
    "protocol": "Which side of a difference between print and code an experiment takes.",
    "recipe": "What several experiments share; experiments choose theirs.",
}


def write_pages(folder: Path) -> None:
    """Write every page below `folder`; pages that have not changed are left alone, so that they are not built again."""
    pages = {
        "configuration.md": _configuration(),
        "experiments.md": _experiments(),
        "commands.md": _commands(),
        **{f"api/{name}.md": _package(name) for name in PACKAGES},
        **{f"api/{name}.md": _briefly(name, shown) for name, shown in BRIEFLY.items()},
    }
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


# Configuration


def _configuration() -> str:
    classifier, retrieval = compose([]).config, compose([f"model={RETRIEVAL}"]).config
    parts = [
        "# Configuration",
        "A run is one choice from each group (`group=choice`) and values of single keys (`group.key=value`). "
        "`python train.py --print-config` checks and prints the configuration of what you typed and runs nothing. "
        "This page is made from `configs/` and from the classes that the keys are arguments of.",
        "## Keys of a classifier",
        "Defaults of `python train.py`.",
        _key_table(classifier, {**_remarks(classifier), **KEYS}),
        "## Keys of retrieval",
        f"Where `python train.py model={RETRIEVAL}` has other keys or other values.",
        _key_table(retrieval, {**_remarks(retrieval), **KEYS, **RETRIEVAL_KEYS}, beside=classifier),
    ]
    found = groups([config_dir()])
    for group in [*GROUPS, *(group for group in found if group not in {*GROUPS, "experiment"})]:
        if group in found:
            parts += [f"## Group `{group}`", GROUPS.get(group, ""), *_choices(group, found[group])]
    return "\n\n".join(parts) + "\n"


def _key_table(config: Mapping[str, Any], meanings: Mapping[str, str], beside: Mapping[str, Any] | None = None) -> str:
    known = {} if beside is None else {key: (shown, kind) for key, shown, kind, _ in _keys(beside)}
    rows = []
    for key, shown, kind, owner in _keys(config):
        if known.get(key) == (shown, kind):
            continue
        meaning = "; ".join(filter(None, [_cell(meanings.get(key, "")), f"{{py:obj}}`{owner}`"]))
        rows.append(f"| `{key}` | {_code(shown)} | {_cell(kind)} | {meaning} |")
    return "\n".join(["| key | default | takes | meaning; where it is explained |", "|---|---|---|---|", *rows])


def _remarks(config: Mapping[str, Any]) -> dict[str, str]:
    """The comment behind each key in the files that were chosen, by dotted key."""
    files = [("", config_dir() / "train.yaml")]
    for group, choice in config["choices"].items():
        if choice:
            files += [(f"{group}.", path) for path in (*_bases(group, choice), config_dir() / group / f"{choice}.yaml")]
    return {f"{prefix}{key}": remark for prefix, path in files for key, remark in _commented(path)}


def _bases(group: str, choice: str) -> list[Path]:
    """The files of the folder `base` that a choice builds on."""
    named = re.findall(rf"^  - ({BASE}/\w+)", _source(group, choice), flags=re.MULTILINE)
    return [config_dir() / group / f"{name}.yaml" for name in named]


def _commented(path: Path) -> Iterator[tuple[str, str]]:
    above: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r"( *)([\w@]+):(?: .*?)?(?:\s# (.*))?$", line)
        if match is None:
            continue
        indent, key, remark = len(match[1]), match[2], match[3]
        above = [(depth, name) for depth, name in above if depth < indent] + [(indent, key)]
        if remark:
            yield ".".join(name for _, name in above), remark


def _keys(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Key, default, type and the class that explains it, of every leaf but the `_target_`s."""
    return _leaves(config, TrainConfig, "hyplearn.config.schema.TrainConfig", "")


def _leaves(node: Mapping[str, Any], annotation: Any, owner: str, path: str) -> Iterator[tuple[str, str, str, str]]:
    known = arguments(node, annotation, path) or {}
    owner = _documented(node["_target_"]) if "_target_" in node else owner
    for key, value in node.items():
        place = f"{path}.{key}" if path else key
        expected = known[key].annotation if key in known else Any
        if key in ("_target_", "_partial_", "choices"):
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, expected, _owner(expected, owner), place)
        else:
            yield place, json.dumps(value, ensure_ascii=False), "" if expected is Any else describe(expected), owner


def _owner(annotation: Any, default: str) -> str:
    name = getattr(annotation, "__name__", "")
    module = getattr(annotation, "__module__", "")
    return f"{module}.{name}" if module.startswith("hyplearn.") else default


def _documented(target: str) -> str:
    """The name under which a `_target_` has its documentation: that of the module that defines it."""
    module, _, name = target.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    return f"{found.__module__}.{found.__qualname__}"


def _choices(group: str, choices: Sequence[str]) -> Iterator[str]:
    default = defaults().choices.get(group)
    rows = [
        f"| `{choice}`{' (default)' if choice == default else ''} | {_comment(group, choice)} |" for choice in choices
    ]
    yield "\n".join([f"| `{group}=` | |", "|---|---|", *rows])
    for choice in choices:
        yield _details(f"{group}/{choice}")
    for path in sorted((config_dir() / group / BASE).glob("*.yaml")):
        yield _details(f"{group}/{BASE}/{path.stem}")


def _details(name: str) -> str:
    """A file of configs/, folded."""
    text = (config_dir() / f"{name}.yaml").read_text(encoding="utf-8").rstrip()
    return f"<details><summary>configs/{name}.yaml</summary>\n\n```yaml\n{text}\n```\n\n</details>"


def _source(group: str, choice: str) -> str:
    return (config_dir() / group / f"{choice}.yaml").read_text(encoding="utf-8")


def _comment(group: str, choice: str) -> str:
    """The comment at the head of a configuration file, as one cell of a table."""
    lines: list[str] = []
    for line in _source(group, choice).splitlines():
        if line.startswith("# ") and not line.startswith(("# @package", "# Generated by ")):
            lines.append(line[2:])
        elif lines or not line.startswith("#"):
            break
    return _cell(" ".join(lines))


def _experiments() -> str:
    found = groups([config_dir()])["experiment"]
    tables: dict[str, list[str]] = {}
    for name in found:
        match = re.match(r"[a-z]+_table\d+|\w+(?=/)", name)
        tables.setdefault(match[0] if match else "others", []).append(name)
    parts = [
        "# Experiments",
        "`python train.py experiment=<name>` runs one, `hyplearn reproduce <name>` plans, runs and continues it. The "
        "comment of a cell of a table names the published value.",
    ]
    for table, names in tables.items():
        rows = [f"| `{name}` | {_comment('experiment', name)} |" for name in names]
        parts += [f"## {table} ({len(names)})", "\n".join(["| `experiment=` | |", "|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("_", "\\_")


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`" if text else ""


# Command line


def _commands() -> str:
    parts = [
        "# Command line",
        "What `--help` of each command prints.",
        "## hyplearn",
        _help([]),
    ]
    for command in COMMANDS:
        parts += [f"## hyplearn {command}", _help([command])]
        for kind in KINDS if command == "plot" else ():
            parts += [f"### hyplearn {command} {kind}", _help([command, kind])]
    return "\n\n".join(parts) + "\n"


def _help(words: Sequence[str]) -> str:
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            status = main([*words, "--help"])
    except ImportError as error:
        LOG.warning("hyplearn %s --help: %s", " ".join(words), error)
        status = 0
    if status != 0 or not out.getvalue().strip():
        LOG.warning("hyplearn %s --help: exit status %d, %d letters", " ".join(words), status, len(out.getvalue()))
    return f"```text\n{out.getvalue().rstrip()}\n```"


# Modules


def _package(name: str) -> str:
    return (
        "\n\n".join([f"# hyplearn.{name}", _summary(PACKAGE / name / "__init__.py"), *map(_module, _modules(name))])
        + "\n"
    )


def _briefly(name: str, shown: Sequence[str]) -> str:
    rows = [f"| `{module}` | {_cell(_summary(_file(module)))} |" for module in _modules(name)]
    return (
        "\n\n".join(
            [
                f"# hyplearn.{name}",
                _summary(PACKAGE / name / "__init__.py"),
                "\n".join(["| module | |", "|---|---|", *rows]),
                *(_module(f"hyplearn.{module}") for module in shown),
            ]
        )
        + "\n"
    )


def _modules(package: str) -> list[str]:
    files = sorted((PACKAGE / package).rglob("[!_]*.py"))
    return [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in files]


def _module(name: str) -> str:
    return f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```"


def _file(module: str) -> Path:
    return PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")


def _summary(path: Path) -> str:
    """The first paragraph of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())
