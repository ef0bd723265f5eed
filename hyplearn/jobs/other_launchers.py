"""The jobs of a multirun under a launcher of Hydra that is not ours: handed over in batches, taken down as they end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher as HydraLauncher
from omegaconf import DictConfig, open_dict, read_write

from hyplearn.config.explain import quoted
from hyplearn.errors import FAILED, OK, Interrupted
from hyplearn.jobs.launcher import Job, JobState, Stopped, signals_raise
from hyplearn.jobs.sweep import group_of, share, take_up
from hyplearn.jobs.sweep_summary import print_summary, summary_of
from hyplearn.runs.directory import RunDirectory


def run_elsewhere(
    launcher: HydraLauncher, master: DictConfig, folder: Path, jobs: list[Job], *, fixed: str, size: int | None
) -> list[JobReturn]:
    """Hand the jobs to `launcher`, keep the summary, print it, and return what the launcher says of each.

    fixed: the keys that are the same for all jobs and name none of their folders. size: of a batch, None for all at
    once. What an earlier command of the same sweep finished is not run again.
    """
    take_up(folder, jobs)
    waiting = [job for job in jobs if job.state is JobState.WAITING and job.same_as is None]
    with read_write(master.hydra), open_dict(master.hydra):
        master.hydra.sweep.dir = str(folder)
        master.hydra.overrides.hydra += [
            f"hydra.sweep.dir={quoted(folder)}",
            f"hydra.job.config.override_dirname.exclude_keys={fixed}",
        ]
    summary = summary_of(folder, jobs)
    told: list[JobReturn] = []
    try:
        with signals_raise():
            for batch in _batches(waiting, size):
                for job in batch:
                    job.begin()
                summary.write()
                lines = [_line(job, folder) for job in batch]
                returned = list(launcher.launch(lines, initial_job_idx=int(batch[0].name)))
                for job, one in zip(batch, returned, strict=True):
                    _take_down(job, one)
                told += returned
    except (Stopped, Interrupted) as stop:  # Interrupted: of a job that trained in this process
        for job in waiting:
            _note_stop(job, stop)
        raise Interrupted(stop.signum) from None
    finally:
        for job in waiting:
            if job.state is JobState.RUNNING:
                job.end(FAILED, f"{type(launcher).__name__} lost it", 0.0)
        share(jobs)
        summary.write()
        print_summary(summary)
    return told


def _note_stop(job: Job, stop: Stopped | Interrupted) -> None:
    """Note of a job that was handed over how far its directory says that it came before the signal."""
    run = RunDirectory(job.run_dir)
    if job.state is not JobState.RUNNING:
        return
    if run.finished:
        job.end(OK, "", run.results.get("seconds", 0.0))
    elif run.begun:
        job.end(stop.exit_status, "", 0.0, stopped=stop.signum)
    else:
        job.state = JobState.WAITING


def _batches(jobs: Sequence[Job], size: int | None) -> Iterator[list[Job]]:
    """Jobs whose numbers follow each other: a launcher counts on from the first of a batch."""
    batch: list[Job] = []
    for job in jobs:
        if batch and (int(job.name) != int(batch[-1].name) + 1 or len(batch) == size):
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _line(job: Job, folder: Path) -> list[str]:
    """The overrides of a job; of one that began before, with the directory in which it goes on."""
    again = ["resume=auto", f"output_dir={quoted(job.run_dir)}"] if "resume=auto" in job.arguments else []
    return [*job.overrides, *group_of(job.overrides, folder), *again]


def _take_down(job: Job, one: JobReturn) -> None:
    """Note what the launcher says of a job."""
    if one.status is JobStatus.COMPLETED:
        if one.hydra_cfg is not None:
            job.run_dir = _as_written(Path(str(one.hydra_cfg.hydra.runtime.output_dir)))
        job.end(OK, "", RunDirectory(job.run_dir).results_if_sound.get("seconds", 0.0))
    else:
        reason = one._return_value  # its property raises it
        job.end(FAILED, " ".join(str(reason).split()) or type(reason).__name__, 0.0)


def _as_written(path: Path) -> Path:
    """Relative to the working directory where it lies below, as all other run directories are named."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
