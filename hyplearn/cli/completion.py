"""`hyplearn completion`: what a shell offers when the tab key is pressed. Imports neither torch nor Hydra."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyplearn.cli.parser import Parser
from hyplearn.config.folders import ROOT, config_dir, groups
from hyplearn.errors import OK, ConfigError, nearest

HELP = """\
hyplearn completion <bash | zsh | fish>

Prints a script that makes the tab key complete commands, options, groups, their choices, and the keys of the
configuration that is being typed, with their values; of `hyplearn` and, in bash and zsh, of `python train.py`.

  bash    echo 'eval "$(hyplearn completion bash)"' >> ~/.bashrc
  zsh     echo 'eval "$(hyplearn completion zsh)"' >> ~/.zshrc        (after compinit)
  fish    hyplearn completion fish > ~/.config/fish/completions/hyplearn.fish

  hyplearn train model=h<tab>
  hyplearn train model=hyp_vit_s loss.<tab>
  hyplearn data verify <tab>"""

BASH = """\
_hyplearn_complete() {  # the command that answers stands in "$@"
    local line="${COMP_LINE:0:COMP_POINT}" word prefix
    local -a found
    mapfile -t found < <("$@" completion --words "$line" 2>/dev/null)
    word="${line##*[[:space:]]}"
    if [[ "$COMP_WORDBREAKS" == *=* ]]; then  # bash replaces what stands behind the last = alone
        prefix="${word%"${word##*=}"}"
        found=("${found[@]#"$prefix"}")
    fi
    COMPREPLY=("${found[@]}")
    if [[ ${#found[@]} -eq 1 && "${found[0]}" == *= ]]; then compopt -o nospace; fi
}
_hyplearn() { _hyplearn_complete hyplearn; }
_hyplearn_python() {
    case "${COMP_WORDS[1]}" in
        train.py | */train.py) _hyplearn_complete "${COMP_WORDS[0]}" -m hyplearn ;;
    esac
}
complete -o default -o bashdefault -F _hyplearn hyplearn
for _name in python python3; do  # a completion that is there stays
    complete -p "$_name" >/dev/null 2>&1 || complete -o default -o bashdefault -F _hyplearn_python "$_name"
done
unset _name"""

ZSH = """\
#compdef hyplearn
_hyplearn_complete() {  # the command that answers stands in "$@"
    local -a found open closed
    found=("${(@f)$("$@" completion --words "$LBUFFER" 2>/dev/null)}")
    found=(${found:#})
    open=(${(M)found:#*=}) closed=(${found:#*=})
    (( $#open )) && compadd -U -S '' -- $open
    (( $#closed )) && compadd -U -- $closed
    (( $#found )) || _files
}
_hyplearn() { _hyplearn_complete hyplearn }
_hyplearn_python() {
    if [[ "${words[2]}" == (train.py|*/train.py) ]]; then _hyplearn_complete "${words[1]}" -m hyplearn; else _files; fi
}
compdef _hyplearn hyplearn
for _name in python python3; do
    (( ${+_comps[$_name]} )) || compdef _hyplearn_python $_name
done
unset _name"""

FISH = """\
complete -c hyplearn -a '(hyplearn completion --words (commandline -cp | string collect) 2>/dev/null)'"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

# Words behind a command that are no options and no overrides.
PLACES: dict[str, tuple[str, ...]] = {
    "data": ("verify",),
    "bench": ("table4",),
    "plot": ("hard-negatives", "grid", "weights", "embeddings", "curvature", "convergence"),
    "completion": tuple(SCRIPTS),
}
# Commands that read overrides of a new configuration, and those that read them for a stored one.
COMPOSING = ("train", "tune", "reproduce")
CHANGING = ("evaluate", "rerun")
TRAIN_OPTIONS = ("--multirun", "--cfg", "--print-config", "--config-dir")


def completion(argv: Sequence[str]) -> int:
    """Print the script of a shell; --words <line> prints the candidates for the last word of the line instead."""
    parser = Parser("completion")
    parser.add_argument("shell", nargs="?")
    parser.add_argument("--words")
    options = parser.parse_args(_joined(argv))
    if options.help:
        print(HELP)
        return OK
    if options.words is not None:
        print("\n".join(candidates(options.words)))
        return OK
    if options.shell not in SCRIPTS:
        asked = "a shell" if options.shell is None else f"another shell than {options.shell!r}"
        close = "" if options.shell is None else nearest(options.shell, SCRIPTS)
        raise ConfigError(f"hyplearn completion needs {asked}: {', '.join(SCRIPTS)}.{close}")
    print(SCRIPTS[options.shell])
    return OK


def _joined(argv: Sequence[str]) -> list[str]:
    """A line that begins with a dash is a value all the same."""
    arguments = list(argv)
    if arguments[:1] == ["--words"] and len(arguments) == 2:
        return [f"--words={arguments[1]}"]
    return arguments


def candidates(line: str) -> list[str]:
    """Every word that may stand where the last one of `line` is being typed, sorted, each once."""
    *before, word = re.split(r"\s+", line.lstrip())
    before = _without_launcher(before)
    if not before:
        return []
    found = _commands() if len(before) == 1 else _arguments(before[1], before[2:], word)
    return sorted({text for text in found if text.startswith(word) and text != word})


def _without_launcher(words: list[str]) -> list[str]:
    """`python train.py x` and `python -m hyplearn x` as the `hyplearn train x` and `hyplearn x` they are."""
    if words[:1] and Path(words[0]).name.startswith("python"):
        if words[1:3] == ["-m", "hyplearn"]:
            return ["hyplearn", *words[3:]]
        if words[1:] and Path(words[1]).name in ("train.py", "evaluate.py"):
            return ["hyplearn", Path(words[1]).stem, *words[2:]]
        return []
    return words


def _commands() -> Iterator[str]:
    from hyplearn.cli.main import KNOWN

    yield from KNOWN
    yield from ("--help", "--version")


def _arguments(command: str, typed: Sequence[str], word: str) -> Iterator[str]:
    """What may stand behind a command: options, names, overrides."""
    if word.startswith("-"):
        yield from _options(command)
        return
    positional = [text for text in typed if not text.startswith("-") and "=" not in text]
    if not positional:
        yield from PLACES.get(command, ())
    yield from _names(command, positional)
    if command in COMPOSING:
        yield from _overrides(typed, word)
    elif command in CHANGING and positional:
        yield from _stored(Path(positional[0]), word)


def _options(command: str) -> Iterator[str]:
    """Those that its module adds to its parser, read from the source: to import it would take longer."""
    from hyplearn.cli.main import COMMANDS

    yield "--help"
    if command == "train":
        yield from TRAIN_OPTIONS
    if command not in COMMANDS:
        return
    source = Path(__file__).with_name(COMMANDS[command].partition(":")[0] + ".py")
    if source.is_file():
        yield from re.findall(r"add_argument\(\s*\"(--[a-z][a-z-]*)\"", source.read_text())


def _names(command: str, positional: Sequence[str]) -> Iterator[str]:
    """Data sets, experiments and tables, where a command takes them."""
    known = groups([config_dir()])
    if command == "delta" or (command == "data" and positional[:1] == ["verify"]):
        yield from known["dataset"]
    tables = {found[0] for name in known["experiment"] if (found := re.match(r"[a-z]+_table\d+", name))}
    if command in ("reproduce", "report", "wandb-report"):
        yield from tables
    if command == "reproduce":
        yield from known["experiment"]


def _overrides(typed: Sequence[str], word: str) -> Iterator[str]:
    """group=choice and key=value of the configuration that the typed words compose."""
    known = groups([config_dir()])
    group, sign, value = word.partition("=")
    if sign and group in known:
        earlier = "".join(f"{text}," for text in value.split(",")[:-1])  # a,b,c of a multirun
        yield from (f"{group}={earlier}{choice}" for choice in known[group])
        return
    yield from (f"{name}=" for name in known)
    tree = _composed(typed, known)
    yield from _leaves(tree, word)


def _stored(run: Path, word: str) -> Iterator[str]:
    """key=value of a run's configuration."""
    from hyplearn.runs.directory import RunDirectory

    found = RunDirectory.around(run)
    if found.begun:
        yield from _leaves(found.config, word)


def _leaves(tree: Mapping[str, Any], word: str) -> Iterator[str]:
    """`key=` of every value, and once the key is typed, `key=value` with the value it has, or either of two."""
    for key, value in _flat(tree):
        if not word.startswith(f"{key}="):
            yield f"{key}="
        elif isinstance(value, bool):
            yield from (f"{key}=true", f"{key}=false")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            if not re.search(r"[\s${}?]", text):
                yield f"{key}={text}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if key in ("defaults", "choices", "_target_", "_partial_"):
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _composed(typed: Sequence[str], known: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The keys of the chosen files, near enough for a list: later files win, nothing is interpolated."""
    chosen = {key: choice for key, _, choice in (text.partition("=") for text in typed) if key in known}
    root = _read(config_dir() / f"{ROOT}.yaml")
    tree: dict[str, Any] = {key: value for key, value in root.items() if key != "defaults"}
    choices = {key: value for entry in root["defaults"] if isinstance(entry, dict) for key, value in entry.items()}
    for group in ("dataset", "model", "experiment"):  # those that choose for other groups, the strongest last
        choices |= dict(_chosen_by(group, chosen.get(group, choices.get(group)), known))
    choices |= chosen
    for group, name in choices.items():
        if name in known.get(group, ()) and group != "experiment":
            package = _package(config_dir() / group / f"{name}.yaml") or group
            content = _with_bases(group, str(name))
            tree = _merged(tree, content if package == "_global_" else {package: content})
    return tree


def _package(path: Path) -> str | None:
    """Where the keys of a file belong, if not below the name of its group."""
    found = re.match(r"# @package (\w+)", path.read_text())
    return found[1] if found else None


def _merged(tree: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Trees laid over each other, the other one above."""
    both = {
        key: _merged(tree[key], value) if isinstance(value, Mapping) and isinstance(tree.get(key), Mapping) else value
        for key, value in other.items()
    }
    return {**tree, **both}


def _chosen_by(group: str, name: Any, known: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Any]]:
    """`override /other: choice` among the defaults of a file."""
    if name not in known.get(group, ()):
        return
    for entry in _read(config_dir() / group / f"{name}.yaml").get("defaults", []):
        for key, choice in entry.items() if isinstance(entry, dict) else ():
            if key.startswith("override /"):
                yield key.removeprefix("override /").partition("@")[0], choice


def _with_bases(group: str, name: str) -> dict[str, Any]:
    """A file and the files of its own group that it builds on."""
    content = _read(config_dir() / group / f"{name}.yaml")
    merged: dict[str, Any] = {}
    for entry in content.get("defaults", []):
        base = config_dir() / group / f"{entry}.yaml"
        if isinstance(entry, str) and base.is_file():
            merged = _merged(merged, _with_bases(group, entry))
    return _merged(merged, content)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(path.read_text(), Loader=loader)
    return content if isinstance(content, dict) else {}
