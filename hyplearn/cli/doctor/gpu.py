"""`hyplearn doctor --gpu`: what holds on this GPU, in at most eight minutes, as a table and a JSON file.

Every part is a process with a time of its own: what crashes, hangs or runs late is a finding, and the next part begins.
Nothing heavy is imported here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hyplearn
from hyplearn.cli.parser import Parser
from hyplearn.errors import FAILED
from hyplearn.errors import OK as DONE
from hyplearn.runs.atomic import write_json

# Seconds of each part; together eight minutes. What matters most comes first.
BUDGETS = {
    "values": 60,
    "mixed": 45,
    "losses": 35,
    "search": 45,
    "graphs": 60,
    "steps": 110,
    "processes": 30,
    "loader": 20,
    "tests": 75,
}
OUTPUTS = Path("outputs/gpu_check")
DESCRIPTION = """
Say what holds on this GPU, in at most eight minutes: values and gradients against the CPU, mixed precision with every
optimizer, losses, exact search, graph breaks, time, kernels and memory of training steps against the Euclidean ones,
two processes on one device, the loader, and, in a checkout, the tests that need a GPU. A part that fails or runs late
ends no other. The findings are kept below outputs/gpu_check/."""


class Outcome(NamedTuple):
    """What a part found, and why it ended early; None where it did not."""

    part: str
    seconds: float
    found: list[dict[str, Any]]
    failure: str | None

    @property
    def holds(self) -> bool:
        """Whether it ended well and nothing that it asks for is missing."""
        return self.failure is None and all(one["holds"] is not False for one in self.found)


def gpu_parser(name: str = "doctor --gpu") -> Parser:
    """Make the parser of the command."""
    parser = Parser(name, DESCRIPTION, more="Exit status: 0 everything holds, 1 something does not.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where (default: cuda)")
    parser.add_argument("--toy", action="store_true", help="at toy size, to see that the parts run")
    parser.add_argument("--parts", nargs="+", choices=BUDGETS, default=list(BUDGETS), help="only these")
    return parser


def gpu(argv: Sequence[str]) -> int:
    """Run the parts, print the table, keep the JSON; 1 where something does not hold."""
    options = gpu_parser().parse_args(list(argv))
    outcomes = []
    for name in options.parts:
        outcome = run_part(name, command(name, device=options.device, toy=options.toy), seconds=BUDGETS[name])
        outcomes.append(outcome)
        for line in lines(outcome):
            print(line, flush=True)
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    file = OUTPUTS / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
    write_json(file, {"device": options.device, "toy": options.toy, "parts": [one._asdict() for one in outcomes]})
    bad = [one.part for one in outcomes if not one.holds]
    print(f"\n{'everything holds' if not bad else 'does not hold: ' + ', '.join(bad)}; written to {file}")
    return FAILED if bad else DONE


def command(part: str, *, device: str, toy: bool) -> list[str]:
    """Return the command line of a part."""
    if part == "tests":
        return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    options = ["--device", device, *(["--toy"] if toy else [])]
    return [sys.executable, "-m", "hyplearn.inference.gpu_parts", part, *options]


def run_part(part: str, arguments: Sequence[str], *, seconds: float) -> Outcome:
    """Run one part in a process group of its own, which is ended when its time is over."""
    root = Path(hyplearn.__file__).parents[1]
    if part == "tests" and not ((root / "tests").is_dir() and _has_pytest()):
        return Outcome(
            part, 0.0, [{"what": "no checkout with its tests", "value": None, "unit": "", "holds": None}], None
        )
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    start = time.monotonic()
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root if part == "tests" else None,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=os.name == "posix",
    )
    late = False
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        late = True
        _end(process)
        out, err = process.communicate()
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if part == "tests":
        summary = (out.strip().splitlines() or ["no answer"])[-1]
        found = [{"what": summary, "value": None, "unit": "", "holds": None}]
    return Outcome(part, time.monotonic() - start, found, _failure(process.returncode, err, late, seconds))


def _end(process: subprocess.Popen[str]) -> None:
    if os.name == "posix":
        os.killpg(process.pid, 9)
    else:
        process.kill()


def _failure(status: int, err: str, late: bool, seconds: float) -> str | None:
    """Why a part ended early."""
    if late:
        return f"not done within {seconds:.0f} s"
    if status == 0:
        return None
    last = next((line for line in reversed(err.splitlines()) if line.strip()), "")
    return f"ended with status {status}: {last}".rstrip(": ")


def _has_pytest() -> bool:
    return shutil.which("pytest") is not None or (Path(sys.executable).parent / "pytest").exists()


def lines(outcome: Outcome) -> Iterator[str]:
    """Yield the table of one part."""
    words = {True: "ok", False: "WRONG", None: ""}
    yield f"\n{outcome.part} ({outcome.seconds:.0f} s)"
    for one in outcome.found:
        value = "" if one["value"] is None else f"{one['value']:.4g} {one['unit']}"
        yield f"  {words[one['holds']]:<6} {one['what']:<64} {value}".rstrip()
    if outcome.failure is not None:
        yield f"  FAILED {outcome.failure}"
