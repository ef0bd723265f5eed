"""`hyplearn doctor`: what is installed, what does not go together, what is found, and whether it computes right.

Nothing heavy is imported here: packages are imported, and work is done, in processes whose end is only a finding.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hyplearn
from hyplearn.cli.doctor.gpu import gpu
from hyplearn.cli.doctor.packages import (
    NOTE,
    OK,
    PROBLEM,
    WARNING,
    Check,
    bad_combinations,
    extras,
    installed,
    out_of_range,
    processor,
    requirements,
)
from hyplearn.cli.parser import Parser
from hyplearn.errors import FAILED
from hyplearn.errors import OK as DONE
from hyplearn.runs.names import WANDB

MODULES = {
    "numpy": "numpy",
    "torch": "torch",
    "torchvision": "torchvision",
    "pytorch_lightning": "pytorch-lightning",
    "geoopt": "geoopt",
    "timm": "timm",
    "faiss": "faiss-cpu",
    "sklearn": "scikit-learn",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "pytorch_metric_learning": "pytorch-metric-learning",
    "wandb": "wandb",
    "matplotlib": "matplotlib",
    "safetensors": "safetensors",
    "PIL": "pillow",
}
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
SECONDS = 120.0  # until a process that does not answer is ended
LITTLE_SPACE, TOO_LITTLE_SPACE = 5 * 2**30, 2**28
EXTRAS_OF_OTHERS = ("dev", "docs")
PYTHON = (3, 10)


DESCRIPTION = """
Look at this installation and say, line by line, what is fine, what is worth a look, and what will not work, each with
the way out: versions and known bad combinations of packages, whether each can be imported, processor and GPU, data sets
and pretrained weights found on this machine, Weights & Biases, optional packages, disk space, and a self test of a few
seconds (geometry, a training step, the optimizer, both searches; with a GPU also there). Nothing is downloaded."""


def doctor_parser() -> Parser:
    """Make the parser of the command."""
    ends = "Exit status: 0 nothing stands in the way of a run, 1 there is a problem."
    parser = Parser("doctor", DESCRIPTION, more=ends)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--no-self-test", action="store_true", help="leave the self test out")
    parser.add_argument("--gpu", action="store_true", help="what holds on the GPU, in at most eight minutes, instead")
    return parser


def doctor(argv: Sequence[str]) -> int:
    """Print what was found; 1 if there is a problem."""
    if "--gpu" in argv:
        return gpu([word for word in argv if word != "--gpu"])
    options = doctor_parser().parse_args(list(argv))
    checks = []
    for check in examine(self_test=not options.no_self_test):
        checks.append(check)
        if not options.json:
            print(_line(check), flush=True)
    count = {status: sum(check.status == status for check in checks) for status in (PROBLEM, WARNING)}
    if options.json:
        print(json.dumps({**count, "checks": [check._asdict() for check in checks]}, indent=2))
    else:
        print(f"\n{_plural(count[PROBLEM], 'problem')}, {_plural(count[WARNING], 'warning')}")
    return FAILED if count[PROBLEM] else DONE


def _line(check: Check) -> str:
    line = f"{check.status:<8} {check.name:<34} {check.detail}"
    return line if check.way_out is None else f"{line}\n{'':<44}-> {check.way_out}"


def _plural(count: int, word: str) -> str:
    return f"{count or 'no'} {word}" + ("" if count == 1 else "s")


def examine(*, self_test: bool) -> Iterator[Check]:
    """Every check, in a fixed order. The processes work at the same time."""
    versions, wanted = installed(), requirements()
    roots = [_data_root(), *([DEBIAN_FASHION] if DEBIAN_FASHION.is_dir() else [])]
    importing = _ask("imports", *MODULES)
    answering = _ask("machine", *map(str, roots))
    yield from _python(versions)
    yield from out_of_range(versions, wanted)
    yield from bad_combinations(versions)
    yield processor(_processor_flags(), os.environ)
    yield from _imports(importing, versions)
    answers, end = _answers(answering)
    yield from _machine(answers, end, roots[0])
    yield from _extras(versions, wanted)
    yield _space()
    if self_test:
        yield from _self_test(_ask("selftest"))


def _python(versions: Mapping[str, str]) -> Iterator[Check]:
    version = platform.python_version()
    if sys.version_info < PYTHON:
        yield Check(PROBLEM, "python", f"{version}: hyplearn needs 3.10 or later", "make an environment of a later one")
    else:
        yield Check(OK, "python", f"{version}, {sys.executable}")
    where = Path(hyplearn.__file__).parent
    yield Check(OK, "hyplearn", f"{hyplearn.__version__}, {where}")
    if "hyplearn" not in versions:
        yield Check(NOTE, "hyplearn", "runs from its folder and is not installed", "pip install -e . in the checkout")


# Processes


def _ask(question: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that answers in JSON lines. It finds hyplearn where this one did."""
    found = str(Path(hyplearn.__file__).parents[1])
    path = os.pathsep.join(filter(None, [found, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "hyplearn.cli.doctor.questions", question, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def _answers(process: subprocess.Popen[str]) -> tuple[list[dict[str, Any]], str | None]:
    """What it answered, and how it ended where it did not end well."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        return _read(out), f"no answer within {SECONDS:.0f} s"
    if process.returncode == 0:
        return _read(out), None
    if process.returncode < 0:
        return _read(out), f"crashed ({signal.Signals(-process.returncode).name})"
    return _read(out), next((line for line in reversed(err.splitlines()) if line.strip()), "failed")


def _read(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def _unanswered(answers: Sequence[Mapping[str, Any]]) -> str:
    """What was begun last."""
    return str(next((answer["begun"] for answer in reversed(answers) if "begun" in answer), "the start"))


# What the processes found


def _imports(process: subprocess.Popen[str], versions: Mapping[str, str]) -> Iterator[Check]:
    answers, end = _answers(process)
    named = {answer["name"]: answer["error"] for answer in answers if "name" in answer}
    for module, error in named.items():
        package = MODULES[module]
        if error is None:
            yield Check(OK, package, f"{versions.get(package, 'of an unknown version')}, can be imported")
        else:
            yield Check(PROBLEM, package, f"cannot be imported: {error}", _repair(package, error))
    if end is not None:
        package = MODULES.get(_unanswered(answers), "imports")
        yield Check(PROBLEM, package, f"import {end}; what comes after it was not tried", _repair(package, end))


def _repair(package: str, error: str) -> str:
    if "torchvision::nms" in error:
        return "torchvision is not built for this torch: install the two together"
    if "Warning" in error.partition(":")[0]:
        return "a warning was made an error: unset PYTHONWARNINGS, or leave out python -W error"
    return f"pip install --force-reinstall --no-deps {package}"


def _machine(answers: Sequence[Mapping[str, Any]], end: str | None, root: Path) -> Iterator[Check]:
    about = {name: [a for a in answers if a.get("about") == name] for name in ("gpu", "wandb", "data", "weights")}
    for name, found in about.items():
        failed = next((answer["error"] for answer in found if "error" in answer), None)
        if failed is not None:
            yield Check(WARNING, name, f"cannot be looked at: {failed}", "see the packages above")
    if end is not None:
        yield Check(WARNING, _unanswered(answers), f"cannot be looked at: {end}", "see the packages above")
    good = {name: [answer for answer in found if "error" not in answer] for name, found in about.items()}
    yield from (check for answer in good["gpu"] for check in _gpu(answer))
    yield from _data(good["data"], root)
    yield from _weights(good["weights"])
    yield from (_wandb(answer["mode"]) for answer in good["wandb"])


def _gpu(answer: Mapping[str, Any]) -> Iterator[Check]:
    threads, cores = answer["threads"], _usable_cpus()
    if threads > cores:
        way_out = f"trainer.num_threads={cores}, or export OMP_NUM_THREADS={cores}"
        yield Check(WARNING, "threads", f"torch takes {threads} on {cores} usable cores", way_out)
    else:
        yield Check(OK, "threads", f"torch takes {threads} of {cores} usable cores")
    for index, device in enumerate(answer["devices"]):
        precisions = "32, fp16, bf16" if answer["bf16"] else "32, fp16 (no bf16)"
        free = f"{device['free'] / 2**30:.0f} of {device['total'] / 2**30:.0f} GiB free"
        capability = f"capability {device['capability']}, precisions {precisions}"
        yield Check(OK, f"gpu {index}", f"{device['name']}, {free}, {capability}, CUDA {answer['built_for']}")
    if answer["devices"]:
        return
    if answer["built_for"] and shutil.which("nvidia-smi"):
        way_out = "nvidia-smi tells the driver's own CUDA version: install a torch built for it or an older one"
        detail = f"there is an NVIDIA driver, but torch (built for CUDA {answer['built_for']}) sees no device"
        yield Check(WARNING, "gpu", detail, way_out)
    else:
        yield Check(NOTE, "gpu", "none: runs use the CPU, in precisions 32, bf16 and 64")


def _data(answers: Sequence[Mapping[str, Any]], root: Path) -> Iterator[Check]:
    named = "$HYPLEARN_DATA" if os.environ.get("HYPLEARN_DATA") else "no HYPLEARN_DATA, so data/ here"
    yield Check(
        OK if root.is_dir() else NOTE, "data folder", f"{root} ({named})" + ("" if root.is_dir() else ": absent")
    )
    yield Check(OK, "data: digits, synthetic", "need no files")
    absent = []
    for answer in answers:
        if not answer["roots"]:
            absent.append(answer["name"])
        elif str(root) in answer["roots"]:
            yield Check(OK, f"data: {answer['name']}", f"found below {root}")
        else:
            way_out = f"dataset.root={answer['roots'][0]}"
            yield Check(OK, f"data: {answer['name']}", f"found in {answer['roots'][0]}, not below {root}", way_out)
    if absent:
        way_out = "hyplearn data verify <dataset> says where to get a set and what to place where"
        yield Check(NOTE, "data: not found", f"{', '.join(absent)}; looked for below {root}", way_out)


def _weights(answers: Sequence[Mapping[str, Any]]) -> Iterator[Check]:
    for cached in (True, False):
        names = [answer["backbone"] for answer in answers if answer["cached"] is cached]
        if names and cached:
            yield Check(OK, "pretrained weights", f"in the cache: {', '.join(names)}")
        elif names:
            way_out = "downloaded at first use; without network, model.weights=<file> or model.pretrained=false"
            yield Check(NOTE, "pretrained weights", f"not in the cache: {', '.join(names)}", way_out)


def _wandb(mode: str) -> Check:
    found = sorted(Path("outputs").glob(f"**/{WANDB}/offline-run-*"))
    waiting = [folder for folder in found if not list(folder.glob("*.synced"))]
    why = {"online": "a key was found", "offline": "no key was found"}.get(mode, "WANDB_MODE")
    detail = f"runs would be {mode} ({why}); {_plural(len(waiting), 'offline run')} below outputs/ not uploaded"
    return Check(OK, "wandb", detail, f"wandb sync {waiting[0].parent}/offline-run-*" if waiting else None)


# What needs no process


def _extras(versions: Mapping[str, str], wanted: Sequence[Any]) -> Iterator[Check]:
    for name, missing in extras(versions, wanted).items():
        if name in EXTRAS_OF_OTHERS:
            continue
        if missing:
            detail = f"not installed ({', '.join(missing)})"
            yield Check(NOTE, f"extra: {name}", detail, f"pip install 'hyplearn[{name}]'")
        else:
            yield Check(OK, f"extra: {name}", "installed")


def _space() -> Check:
    """Where runs are written."""
    place = Path("outputs") if Path("outputs").is_dir() else Path()
    free = shutil.disk_usage(place).free
    detail = f"{free / 2**30:.1f} GiB free in {place.resolve()}"
    if free < TOO_LITTLE_SPACE:
        return Check(PROBLEM, "disk", detail, "make room, or name another place with output_dir=...")
    status = WARNING if free < LITTLE_SPACE else OK
    return Check(status, "disk", detail, None if status == OK else "a ResNet-50 run takes about 1 GiB of checkpoints")


def _self_test(process: subprocess.Popen[str]) -> Iterator[Check]:
    answers, end = _answers(process)
    for answer in answers:
        if "name" not in answer:
            continue
        name = f"self test: {answer['name']}"
        if answer["error"] is None:
            yield Check(OK, name, f"{answer['found']} ({answer['seconds']:.1f} s)")
        else:
            yield Check(
                PROBLEM, name, answer["error"], "see the packages above; nothing that is computed here is right"
            )
    if end is not None:
        yield Check(PROBLEM, f"self test: {_unanswered(answers)}", end, "see processor, gpu and packages above")


def _data_root() -> Path:
    return Path(os.environ.get("HYPLEARN_DATA") or "data")


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor_flags() -> frozenset[str]:
    """As Linux lists them; none elsewhere."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    named = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(named.partition(":")[2].split())
