"""`hyplearn reproduce`: the runs of tables and experiments, those that are not finished yet, and a ledger of them."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator, Sequence

from filelock import FileLock, Timeout

from hyplearn.cli.launch_options import add_launching, chosen_launcher
from hyplearn.cli.parser import Parser
from hyplearn.config.compose import parse, quoted
from hyplearn.errors import FAILED, OK, ConfigError
from hyplearn.jobs.launcher import Ended, Launcher, Runner, Stopped, Task, signals_raise
from hyplearn.jobs.ledger import DONE, EARLIER, FAILED_RUN, GOOD, INTERRUPTED_RUN, Entry, Ledger, print_plan
from hyplearn.jobs.plan import ELSEWHERE, FINISHED, FOLDERS, Planned, choose, look, plan, refresh
from hyplearn.runs.lock import CLAIM
from hyplearn.runs.places import new_directory

WAIT = 2.0  # seconds between two looks at what another process runs
# Keys that the command sets itself, and how to say them.
OWN = {
    "seed": "--seeds 3 for the seeds 1 to 3, --seeds 3, for seed 3 alone",
    "experiment": "the name of the experiment alone",
    "scale": "--scale smoke or --scale full",
    "protocol": "--protocol paper or --protocol code",
    "output_dir": "nothing: a run has its place below outputs/",
    "resume": "nothing: what was interrupted is continued",
}

DESCRIPTION = """
Run the experiments of a table, one of them, or all that fit a glob, over one or more seeds. A run that is finished is
not repeated, wherever below outputs/ it lies; an interrupted one is continued; a failure stops none of the others. So
the same command, typed again, runs the holes. At the end stands a ledger, on the terminal and in ledger.json and
ledger.csv. Runs go to outputs/reproduce/<experiment>/<run id>/, those of smoke scale to outputs/smoke/."""
STATUS = """
Exit status: 0 if every run is finished, 1 if one failed, 2 for a mistake, 130 or 143 if stopped."""


def reproduce_parser() -> Parser:
    """Make the parser of the command."""
    parser = Parser(
        "reproduce",
        DESCRIPTION,
        examples="""
hyplearn reproduce bdeir_table3 --seeds 5 --dry-run
hyplearn reproduce bdeir_table3 --scale smoke
hyplearn reproduce bdeir_table3 --seeds 5 --jobs 4 dataset.root=/data trainer=gpu
hyplearn reproduce 'yue_table1_cub_*' --protocol code
hyplearn reproduce 'evidence/digits_*' --seeds 8
hyplearn reproduce yue_table1 --launcher submitit --slurm partition=gpu,time=720,gpus=1 --jobs 20""",
        more=STATUS,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="word",
        complete="words",
        help="tables, experiments, globs; and key=value that hold for all runs: what changes a result makes another "
        "run with another id",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=[1],
        metavar="N",
        help="the seeds 1 to N; 1. Or a list: 2,5,7 (and 5, for seed 5 alone)",
    )
    parser.add_argument(
        "--scale",
        choices=["full", "smoke"],
        default="full",
        help="smoke: every run end to end in seconds, on digits in place of the real images, with narrow networks and "
        "two epochs of two batches. No number of it means anything; %(default)s",
    )
    parser.add_argument(
        "--protocol",
        choices=["paper", "code"],
        default="paper",
        help="code: what the authors' code does where it differs from the print; %(default)s",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan with states and estimates; run nothing, write nothing"
    )
    add_launching(parser)
    return parser


def _seeds(text: str) -> list[int]:
    numbers = text.removesuffix(",").split(",")
    if not all(re.fullmatch(r"\d+", number) for number in numbers) or text == "0":
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seeds from 1 on, or a list such as 1,2,5")
    seeds = [int(number) for number in numbers]
    return list(dict.fromkeys(seeds)) if "," in text else list(range(1, seeds[0] + 1))


def reproduce(argv: Sequence[str], *, run: Runner | None = None) -> int:
    """Plan, run what is missing, and print the ledger. run: another way to run a command line, for tests."""
    options = reproduce_parser().parse_intermixed_args(list(argv))
    patterns = [word for word in options.words if "=" not in word]
    overrides = [word for word in options.words if "=" in word]
    if not patterns:
        raise ConfigError("hyplearn reproduce needs a table, an experiment or a glob (see hyplearn reproduce --help).")
    _check(overrides)
    launcher = chosen_launcher(options, overrides, run)
    chosen = choose(patterns)
    planned = plan(
        chosen.experiments, seeds=options.seeds, scale=options.scale, protocol=options.protocol, overrides=overrides
    )
    look(planned)
    print_plan(planned, chosen.absent, scale=options.scale, protocol=options.protocol)
    if options.dry_run:
        return OK
    folder = new_directory(FOLDERS[options.scale] / "ledgers", _label(patterns))
    ledger = Ledger.of(planned, folder, scale=options.scale, protocol=options.protocol)
    return Campaign(ledger, launcher).run()


def _check(overrides: Sequence[str]) -> None:
    for text in overrides:
        parsed = parse(text)
        if parsed.key_or_group in OWN:
            raise ConfigError(f"{text}: reproduce sets {parsed.key_or_group} itself. Use {OWN[parsed.key_or_group]}.")
        if parsed.is_sweep_override():
            raise ConfigError(f"{text} names several values: reproduce takes one that holds for all runs.")


def _label(patterns: Sequence[str]) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", "_".join(patterns))[:60].strip("_") or "all"


class Campaign:
    """Runs what is missing in a ledger and keeps the ledger up to date."""

    def __init__(self, ledger: Ledger, launcher: Launcher) -> None:
        self.ledger, self.launcher = ledger, launcher
        self.entries = {entry.planned.id: entry for entry in ledger.entries}
        self.claims: dict[str, FileLock] = {}
        self.left = [entry for entry in ledger.entries if entry.state not in GOOD]
        self.count, self.started = len(self.left), 0
        self.told: set[str] = set()

    def run(self) -> int:
        """0 if every run is finished in the end, 1 if one failed, 130 or 143 if stopped."""
        status = OK
        try:
            with signals_raise():
                self._rounds()
        except Stopped as stop:
            self._stopped(stop)
            status = 128 + stop.signum
        finally:
            self.ledger.write()
        self.ledger.print()
        return status or (OK if self.ledger.complete else FAILED)

    def _rounds(self) -> None:
        """Run all that nobody else runs; then wait for those of other processes, or take them over."""
        self.ledger.write()
        while self.left:
            waiting = len(self.left)
            for task, ended in self.launcher.launch(self._tasks()):
                self._note(self.entries[task.name], ended)
            if self.left and len(self.left) == waiting:
                time.sleep(WAIT)

    def _tasks(self) -> Iterator[Task]:
        """Those that can be started now, each claimed for this process."""
        for entry in list(self.left):
            if self._claimed(entry):
                self.left.remove(entry)
                self.started += 1
                self._say(entry, entry.planned.state.replace("to ", ""))
                yield Task(
                    entry.planned.id, tuple(command_line(entry.planned, self.ledger.protocol, self.ledger.scale))
                )
            elif entry.planned.state == FINISHED:
                self.left.remove(entry)
                entry.state = EARLIER
                self.started += 1
                self._say(entry, "finished by another process")

    def _claimed(self, entry: Entry) -> bool:
        """Whether the run is to be started here: nobody else claims it or trains in it, and it is not finished."""
        run = entry.planned
        run.run_dir.mkdir(parents=True, exist_ok=True)
        claim = FileLock(run.run_dir / CLAIM, thread_local=False)
        try:
            claim.acquire(blocking=False)
        except Timeout:
            self._wait_for(run, run.elsewhere or "another process")
            return False
        refresh(run)
        if run.elsewhere is not None:
            self._wait_for(run, run.elsewhere)
        if run.state in (FINISHED, ELSEWHERE):
            claim.release()
            return False
        self.claims[run.id] = claim
        return True

    def _wait_for(self, run: Planned, who: str) -> None:
        run.state = ELSEWHERE
        if run.id not in self.told:
            self.told.add(run.id)
            print(f"{run.experiments[0]} seed {run.seed} ({run.id}): waiting for {who}", flush=True)

    def _note(self, entry: Entry, ended: Ended) -> None:
        run = entry.planned
        refresh(run)
        entry.status, entry.seconds = ended.status, ended.seconds
        entry.state = DONE if run.state == FINISHED and ended.status == OK else FAILED_RUN
        entry.reason = "" if entry.state == DONE else ended.reason or "it ended without results"
        self.claims.pop(run.id).release()
        self._say(entry, f"{entry.state} in {ended.seconds:.0f} s {entry.metric or entry.reason}")
        self.ledger.write()

    def _stopped(self, stop: Stopped) -> None:
        """What ran when the signal came: it wrote its checkpoint, or came to its end."""
        for name, claim in self.claims.items():
            entry = self.entries[name]
            refresh(entry.planned)
            entry.state = DONE if entry.planned.state == FINISHED else INTERRUPTED_RUN
            entry.reason = "" if entry.state == DONE else f"{stop}; the same command continues it"
            claim.release()
        self.claims = {}

    def _say(self, entry: Entry, what: str) -> None:
        run = entry.planned
        notice = " [SMOKE]" if self.ledger.scale == "smoke" else ""
        number = f"[{self.started}/{self.count}]"
        print(f"{number}{notice} {run.experiments[0]} seed {run.seed} ({run.id}): {what}", flush=True)


def command_line(run: Planned, protocol: str, scale: str) -> list[str]:
    """`hyplearn train` for one run: begun in its directory, or continued there. Grouped by experiment for a mirror."""
    keys = {parse(text).key_or_group for text in run.overrides}
    tags = [*run.tables, f"seed-{run.seed}", f"protocol-{protocol}", f"scale-{scale}"]
    watched = {"logger.group": quoted(run.experiments[0]), "logger.tags": f"[{','.join(map(quoted, tags))}]"}
    return [
        "train",
        *run.overrides,
        *(f"{key}={value}" for key, value in watched.items() if key not in keys),
        f"output_dir={quoted(run.run_dir)}",
        "resume=auto",
    ]
