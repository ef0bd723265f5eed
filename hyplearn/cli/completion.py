"""`hyplearn completion`: what a shell offers when the tab key is pressed.

The script of a shell is made by shtab of the parsers of all commands. Where names, groups and keys are typed it asks
`hyplearn completion --words <line>`, which answers from the configuration files.
"""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyplearn.cli.commands import overview
from hyplearn.cli.parser import Parser, name_of
from hyplearn.config.folders import ROOT, config_dir, config_folders, groups
from hyplearn.errors import OK

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What answers in each shell where an argument says complete="words".
WORDS = {
    "bash": "_hyplearn_words",
    "zsh": "_hyplearn_words",
    "fish": "(hyplearn completion --words (commandline -cp | string collect) 2>/dev/null)",
}
PREAMBLES = {
    "bash": """
_hyplearn_words() {  # bash has parted the word at =, and replaces what stands behind the last one alone
    local line="${COMP_LINE:0:COMP_POINT}" word found
    word="${line##*[[:space:]]}"
    while IFS= read -r found; do
        [[ "$COMP_WORDBREAKS" == *=* ]] && found="${found#"${word%"${word##*=}"}"}"
        [[ -z "$found" ]] || printf '%s\\n' "$found"
    done < <("${_hyplearn_program[@]:-hyplearn}" completion --words "$line" 2>/dev/null)
}""",
    "zsh": """
_hyplearn_words() {
    local -a found open closed
    found=("${(@f)$("${_hyplearn_program[@]:-hyplearn}" completion --words "$LBUFFER" 2>/dev/null)}")
    found=(${found:#})
    open=(${(M)found:#*[=.]}) closed=(${found:#*[=.]})
    (( $#open )) && compadd -U -S '' -- $open
    (( $#closed )) && compadd -U -- $closed
    (( $#found )) || _files
}""",
    "fish": "",
}
# Behind the script of shtab: no space after `key=`; and `python train.py` is `hyplearn train`, where python has no
# completion of its own.
ENDINGS = {
    "bash": """
_hyplearn() {
    _shtab_hyplearn
    if [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *[=.] ]]; then compopt -o nospace 2>/dev/null; fi
    return 0
}
_hyplearn_python() {
    local -a _hyplearn_program=("${COMP_WORDS[0]}" -m hyplearn)
    case "${COMP_WORDS[1]##*/}" in
        train.py | evaluate.py) ;;
        *) return 0 ;;
    esac
    COMP_WORDS[1]="${COMP_WORDS[1]##*/}" COMP_WORDS[0]=hyplearn
    COMP_WORDS[1]="${COMP_WORDS[1]%.py}"
    _hyplearn
}
complete -o default -o bashdefault -F _hyplearn hyplearn
for _name in python python3; do
    complete -p "$_name" >/dev/null 2>&1 || complete -o default -o bashdefault -F _hyplearn_python "$_name"
done
unset _name""",
    "zsh": """
_hyplearn_python() {
    local -a _hyplearn_program=("${words[1]}" -m hyplearn)
    case "${words[2]:t}" in
        (train.py|evaluate.py) words[1]=hyplearn words[2]="${words[2]:t:r}"; _shtab_hyplearn ;;
        (*) _files ;;
    esac
}
for _name in python python3; do
    (( ${+_comps[$_name]} )) || compdef _hyplearn_python $_name
done
unset _name""",
    "fish": "",
}
SHELLS = tuple(WORDS)
# Commands that read overrides of a new configuration, and those that read them for a stored one.
COMPOSING, CHANGING = ("train", "tune", "reproduce"), ("evaluate", "rerun")

DESCRIPTION = """
Print a script that makes the tab key complete commands, options, groups, their choices, and the keys of the
configuration that is being typed; of `hyplearn` and, in bash and zsh, of `python train.py`.
  bash    echo 'eval "$(hyplearn completion bash)"' >> ~/.bashrc
  zsh     echo 'eval "$(hyplearn completion zsh)"' >> ~/.zshrc        (after compinit)
  fish    hyplearn completion fish > ~/.config/fish/completions/hyplearn.fish"""


def completion_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "completion",
        DESCRIPTION,
        needs=f"a shell: {', '.join(SHELLS)}",
        examples="""
hyplearn train model=h<tab>
hyplearn train model=hyp_vit_s loss.<tab>
hyplearn data verify <tab>""",
    )
    shell = parser.add_mutually_exclusive_group(required=True)
    shell.add_argument("shell", nargs="?", type=name_of("script for", SHELLS), choices=SHELLS, help="whose script")
    shell.add_argument("--words", metavar="LINE", help=argparse.SUPPRESS)  # what a script asks
    return parser


def completion(argv: Sequence[str]) -> int:
    """Print the script of a shell, or the words that may end a line."""
    options = completion_parser().parse_args(list(argv))
    print(script(options.shell) if options.words is None else "\n".join(candidates(options.words)))
    return OK


def script(shell: str) -> str:
    """Return the script of a shell, by the parsers of all commands."""
    import shtab

    made: str = shtab.complete(
        overview(complete=True),
        shell,
        preamble=PREAMBLES[shell],
        choice_functions={
            **{kind: places[shell] for kind, places in shtab.CHOICE_FUNCTIONS.items()},
            "words": WORDS[shell],
        },
    )
    if shell == "zsh":  # shtab completes the first of several words alone
        made = re.sub(r'"\(\*\)::?', '"*:', made)
    return made + ENDINGS[shell]


def candidates(line: str) -> list[str]:
    """Return every name, group, choice and key that may stand where the last word of `line` is typed, sorted."""
    *before, word = re.split(r"\s+", line.lstrip())
    command, *typed = _without_launcher(before) or [""]
    positional = [text for text in typed if not text.startswith("-") and "=" not in text]
    found = _names(command, positional, _config_dirs(typed))
    return sorted({text for text in (*found, *_overrides(command, typed, word)) if text.startswith(word)} - {word})


def _config_dirs(typed: Sequence[str]) -> list[Path]:
    """Return the folders of further configurations that the line names."""
    pairs = itertools.pairwise(typed)
    return [Path(value) for flag, value in pairs if flag in ("--config-dir", "-cd") and Path(value).is_dir()]


def _without_launcher(words: list[str]) -> list[str]:
    """The command and what stands behind it, of `hyplearn x`, `python -m hyplearn x` and `python train.py`."""
    if words[1:3] == ["-m", "hyplearn"]:
        return words[3:]
    if words[1:] and Path(words[1]).name in ("train.py", "evaluate.py"):
        return [Path(words[1]).stem, *words[2:]]
    return words[1:]


def _names(command: str, positional: Sequence[str], extra: Sequence[Path]) -> Iterator[str]:
    """Data sets, experiments and tables, where a command takes them."""
    known = groups(config_folders(extra))
    if command == "data" and not positional:
        yield from ("verify", "shard")
    if command == "delta" or (command == "data" and positional in (["verify"], ["shard"])):
        yield from known["dataset"]
    if command in ("reproduce", "wandb-report"):
        yield from (found[0] for name in known["experiment"] if (found := re.match(r"[a-z]+_table\d+", name)))
    if command == "reproduce":
        yield from known["experiment"]


def _overrides(command: str, typed: Sequence[str], word: str) -> Iterator[str]:
    """group=choice and key=value, of the configuration that the typed words compose or of a stored run."""
    if command in CHANGING and typed:
        yield from _keys(_stored(Path(typed[0])), word)
    if command not in COMPOSING:
        return
    extra = _config_dirs(typed)
    known = groups(config_folders(extra))
    group, sign, value = word.partition("=")
    if sign and group in known:
        earlier = "".join(f"{text}," for text in value.split(",")[:-1])  # a,b,c of a multirun
        yield from (f"{group}={earlier}{choice}" for choice in known[group])
        return
    yield from (f"{name}=" for name in known)
    yield from _keys(_composed([text for text in typed if "=" in text], extra), word)


def _keys(config: DictConfig | None, word: str) -> Iterator[str]:
    """`key.` and `key=` of a configuration, and the value behind a whole key, as Hydra completes them."""
    if config is None:
        return
    from hydra.plugins.completion_plugin import CompletionPlugin
    from omegaconf import OmegaConf

    key, sign, _ = word.partition("=")
    if sign and isinstance(OmegaConf.select(config, key), bool):
        yield from (f"{key}=false", f"{key}=true")
    found = CompletionPlugin._get_matches(config, f"{key}=" if sign else word)
    yield from (text for text in found if not re.search(r"(^|\.)_(target|partial)_=", text))


def _stored(path: Path) -> DictConfig | None:
    """The configuration of a run, or of the run of a checkpoint; None where there is none."""
    from omegaconf import OmegaConf

    from hyplearn.config.stored import check_plain
    from hyplearn.errors import ConfigError
    from hyplearn.runs.directory import RunDirectory

    run = RunDirectory.around(path)
    if not run.begun:
        return None
    try:
        check_plain(run.config, run.config_file)  # the tab key resolves no interpolation of a foreign file
    except ConfigError:
        return None
    return OmegaConf.create(run.config)


def _composed(overrides: Sequence[str], extra: Sequence[Path]) -> DictConfig | None:
    """What Hydra composes of whole words; None where they do not fit together yet."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    from hyplearn.config.compose import searching

    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose(ROOT, [*overrides, *searching(extra)])
    except HydraException:
        return None
