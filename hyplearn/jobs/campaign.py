"""Runs what is missing of a plan, side by side with other processes that do the same, and keeps the ledger."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from hyplearn.config.compose import parse
from hyplearn.config.explain import quoted
from hyplearn.console.tables import duration, show, table_of
from hyplearn.errors import FAILED, OK
from hyplearn.jobs.launcher import JobState, Launcher, Stopped, signals_raise
from hyplearn.jobs.ledger import Ledger, Shown, counted, in_words
from hyplearn.jobs.plan import Planned, refresh
from hyplearn.jobs.smoke import NOTICE
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.names import CLAIM

WAIT = 2.0  # seconds between two looks at what another process runs
RESULTS_SHOWN = ("test/top1", "test/recall@1")


class Campaign:
    """Runs what is missing in a plan and keeps its ledger up to date: ledger.json and ledger.csv in `folder`."""

    def __init__(self, planned: Sequence[Planned], folder: Path, launcher: Launcher, *, scale: str, protocol: str):
        self.launcher, self.scale, self.protocol = launcher, scale, protocol
        self.ledger = _ledger(planned, folder, scale=scale, protocol=protocol)
        self.claims: dict[str, FileLock] = {}
        self.left = [run for run in planned if not run.state.good]
        self.count, self.started = len(self.left), 0
        self.told: set[str] = set()

    def run(self) -> int:
        """0 if every run is finished in the end, 1 if one failed, 129, 130 or 143 if stopped."""
        status = OK
        try:
            with signals_raise():
                self._rounds()
        except Stopped as stop:
            self._stopped(stop)
            status = stop.exit_status
        finally:
            self.ledger.write()
        self._print()
        return status or (OK if self.ledger.complete else FAILED)

    def _rounds(self) -> None:
        """Run all that nobody else runs; then wait for those of other processes, or take them over."""
        self.ledger.write()
        while self.left:
            waiting = len(self.left)
            for run in self.launcher.launch(self._claimed_runs(), self.ledger.write):
                self._note(run)
            if self.left and len(self.left) == waiting:
                time.sleep(WAIT)

    def _claimed_runs(self) -> Iterator[Planned]:
        """Those that can be started now, each claimed for this process."""
        for run in list(self.left):
            if self._claimed(run):
                self.left.remove(run)
                self.started += 1
                self._say(run, run.outlook.replace("to ", ""))
                run.arguments = command_line(run, self.protocol, self.scale)
                yield run
            elif run.state.good:
                self.left.remove(run)
                self.started += 1
                self._say(run, "finished by another process")

    def _claimed(self, run: Planned) -> bool:
        """Whether the run is to be started here: nobody else claims it or trains in it, and it is not finished."""
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
        if run.state.good or run.elsewhere is not None:
            claim.release()
            return False
        self.claims[run.name] = claim
        return True

    def _wait_for(self, run: Planned, who: str) -> None:
        if run.name not in self.told:
            self.told.add(run.name)
            print(f"{run.experiments[0]} seed {run.seed} ({run.name}): waiting for {who}", flush=True)

    def _note(self, run: Planned) -> None:
        """A run ended: its directory says whether it is finished."""
        if run.state is JobState.FINISHED and not RunDirectory(run.run_dir).finished:
            run.state = JobState.FAILED
            run.reason = "it ended without results"
        self.claims.pop(run.name).release()
        self._say(run, f"{run.state.value} in {run.seconds:.0f} s {metric(run) or run.reason}")
        self.ledger.write()

    def _stopped(self, stop: Stopped) -> None:
        """What ran when the signal came: it wrote its checkpoint, or came to its end."""
        for run in self.ledger.jobs:
            if run.name not in self.claims:
                continue
            finished = RunDirectory(run.run_dir).finished
            run.state = JobState.FINISHED if finished else JobState.INTERRUPTED
            run.reason = "" if finished else f"{stop}; the same command continues it"
            self.claims.pop(run.name).release()

    def _say(self, run: Planned, what: str) -> None:
        notice = " [SMOKE]" if self.scale == "smoke" else ""
        number = f"[{self.started}/{self.count}]"
        print(f"{number}{notice} {run.experiments[0]} seed {run.seed} ({run.name}): {what}", flush=True)

    def _print(self) -> None:
        """The table of all runs, why those that failed did, and the sum."""
        print(f"\nledger {self.ledger.folder}" + (f"\n{NOTICE}" if self.scale == "smoke" else ""))
        self.ledger.print(
            [
                Shown("run id", lambda run: run.name),
                Shown("experiment", first_of),
                Shown("seed", lambda run: str(run.seed)),
                Shown("state", in_words),
                Shown("result", metric),
                Shown("time", lambda run: duration(run.seconds) if run.seconds else "", True),
            ]
        )
        for run in self.ledger.jobs:
            if run.reason:
                print(f"{run.name} {in_words(run)}: {run.reason} (see {run.run_dir})")
        print(f"{self.ledger.sum()}; see {self.ledger.table}")


def _ledger(planned: Sequence[Planned], folder: Path, *, scale: str, protocol: str) -> Ledger[Planned]:
    notice = {"notice": NOTICE} if scale == "smoke" else {}
    ledger = Ledger(
        folder,
        "ledger",
        planned,
        columns={
            "run_id": lambda run: run.name,
            "experiments": lambda run: list(run.experiments),
            "tables": lambda run: list(run.tables),
            "seed": lambda run: run.seed,
            "scale": lambda run: scale,
            "protocol": lambda run: protocol,
            "state": in_words,
            "exit_status": lambda run: run.status,
            "reason": lambda run: run.reason,
            "seconds": lambda run: round(run.seconds, 1),
            "run_dir": lambda run: str(run.run_dir),
        },
        listed="runs",
        head=lambda: {"scale": scale, "protocol": protocol, **notice, "complete": ledger.complete},
    )
    return ledger


def metric(run: Planned) -> str:
    """The first test metric, `test/top1 97.50 %`; empty before there is one."""
    metrics = RunDirectory(run.run_dir).metrics if run.state.good else {}
    name = next((name for name in RESULTS_SHOWN if name in metrics), None)
    return f"{name} {metrics[name]:.2f} %" if name else ""


def command_line(run: Planned, protocol: str, scale: str) -> tuple[str, ...]:
    """`hyplearn train` for one run: begun in its directory, or continued there. Grouped by experiment for a mirror."""
    keys = {parse(text).key_or_group for text in run.overrides}
    tags = [*run.tables, f"seed-{run.seed}", f"protocol-{protocol}", f"scale-{scale}"]
    watched = {"logger.group": quoted(run.experiments[0]), "logger.tags": f"[{','.join(map(quoted, tags))}]"}
    return (
        "train",
        *run.overrides,
        *(f"{key}={value}" for key, value in watched.items() if key not in keys),
        f"output_dir={quoted(run.run_dir)}",
        "resume=auto",
    )


def first_of(run: Planned) -> str:
    """The first experiment, and how many more come to the same run."""
    more = len(dict.fromkeys(run.experiments)) - 1
    return f"{run.experiments[0]}{f' and {more} more' if more else ''}"


def print_plan(planned: Sequence[Planned], absent: Mapping[str, str], *, scale: str, protocol: str) -> None:
    """The runs with what is to be done and estimates, what has no experiment, and the sum."""
    table = table_of("run id", "experiment", "seed", "state", right=("time", "memory"), last=("estimated from",))
    for run in planned:
        outlook = run.outlook if run.elsewhere is None else f"{run.outlook}: {run.elsewhere}"
        table.add_row(run.name, first_of(run), str(run.seed), outlook, *_needed(run))
    print(f"scale {scale}, protocol {protocol}" + (f". {NOTICE}" if scale == "smoke" else ""))
    show(table)
    for why in dict.fromkeys(absent.values()):
        names = [name for name, reason in absent.items() if reason == why]
        print(f"no experiment for {len(names)} rows ({why}): {', '.join(names[:3])}{', ...' if names[3:] else ''}")
    print(_to_do(planned))


def _needed(run: Planned) -> tuple[str, str, str]:
    """Time and memory, and where they are known from; nothing of a run that is finished."""
    if run.state.good:
        return "", "", ""
    seconds, memory, source = run.estimate
    time_ = "unknown" if seconds is None else duration(seconds)
    return time_, "unknown" if memory is None else f"{memory:.1f} GiB", source


def _to_do(planned: Sequence[Planned]) -> str:
    """`12 runs: 3 finished, 9 to run, at least 4 min one after the other`."""
    known = [run.estimate.seconds for run in planned if not run.state.good]
    times = [seconds for seconds in known if seconds is not None]
    total = f", {'about' if len(times) == len(known) else 'at least'} {duration(sum(times))} one after the other"
    return f"{counted('runs', [run.outlook for run in planned])}{total if times else ''}"
