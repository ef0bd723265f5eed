"""`train -m` under Hydra: the whole grid is checked, then run by whichever launcher was chosen, and summed up."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher as HydraLauncher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hyplearn.config import resolvers
from hyplearn.config.compose import parse, task_overrides
from hyplearn.config.explain import quoted, searched
from hyplearn.config.process import as_typed
from hyplearn.errors import CONFIG, ConfigError, Interrupted, JobsFailed, listing, nearest
from hyplearn.jobs.grid import PLACE, Checked, checked_all, composed_all, expand, mistakes_of
from hyplearn.jobs.launcher import Job, JobState, Launcher, Stopped
from hyplearn.jobs.ledger import NO_LEDGER
from hyplearn.jobs.other_launchers import run_elsewhere
from hyplearn.jobs.processes import Local, devices
from hyplearn.jobs.slurm import Submitit
from hyplearn.jobs.sweep import group_of, job_of, run_sweep
from hyplearn.jobs.sweep_summary import stored_summary
from hyplearn.runs.bounded import load_yaml, read_text
from hyplearn.runs.creation import OUTPUTS, made, new_directory
from hyplearn.runs.directory import RunDirectory
from hyplearn.runs.lock import occupant, occupied

log = logging.getLogger("hyplearn")

RECORD = "multirun.yaml"  # the name that Hydra gives the configuration of a sweep
DEFAULT_DIR, DEFAULT_SUBDIR = "${hyplearn.sweep_dir:", "${hyplearn.sweep_subdir:"  # the names of configs/train.yaml
# What the command line of a multirun says of Hydra and its jobs must not hear.
NOT_FOR_JOBS = ("hydra.mode", "hydra.run.dir", "hydra.launcher", "hydra/launcher", "hydra.sweep", "hydra/sweeper")


# The launchers of hydra_plugins, each with its settings.
LAUNCHERS = {"LocalLauncher": ("n_jobs", "jobs_per_gpu"), "SlurmLauncher": ("n_jobs", "cluster", "parameters")}


class Grid:
    """One multirun: its checked jobs, its folder, and the launcher that runs them.

    master: what Hydra composed of the command line without the values that vary.
    """

    def __init__(
        self,
        context: HydraContext,
        master: DictConfig,
        launcher: HydraLauncher,
        *,
        skip_invalid: bool,
        batch: int | None,
    ) -> None:
        self.context, self.master, self.launcher = context, master, launcher
        self.skip_invalid, self.batch = skip_invalid, batch

    def run(self, arguments: Sequence[str]) -> list[list[JobReturn]]:
        """Check and run the jobs of the overrides `arguments`.

        Raises ConfigError before anything runs where jobs cannot, JobsFailed at the end where one failed, and
        Interrupted after a signal.
        """
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        parsed = [one for one in parser.parse_overrides(list(arguments)) if one.key_or_group != PLACE]
        placed = [text for text in arguments if parse(text).key_or_group == PLACE]
        expand([parse(text) for text in placed])
        engine_of(self.launcher)  # a mistake in its settings is told before anything is made
        found = self._refused(checked_all(composed_all(expand(parsed), self._load, searched_dirs(self.master))))
        folder = self._folder(len(found))
        with occupied(folder):
            OmegaConf.save(self.master, folder / RECORD)
            jobs = self._jobs(found, folder)
            returned = self._run(folder, jobs, found)
        if not all(job.state.good for job in jobs):
            raise JobsFailed(f"{sum(not job.state.good for job in jobs)} of {len(jobs)} jobs failed")
        return [returned]

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.master, list(overrides))
        OmegaConf.set_struct(config, False)
        assert isinstance(config, DictConfig)
        return config

    def _refused(self, found: list[Checked]) -> list[Checked]:
        """The jobs again, if they may run. Raises ConfigError where some cannot, unless the others are to run."""
        bad = [one for one in found if one.mistake is not None]
        if not bad or (self.skip_invalid and len(bad) < len(found)):
            return found
        if len(found) == 1 or (len({one.mistake for one in bad}) == 1 and len(bad) == len(found)):
            raise ConfigError(str(bad[0].mistake))
        way_out = "" if len(bad) == len(found) else "\nCorrect them, or run the others: hydra.sweeper.skip_invalid=true"
        raise ConfigError(
            f"{len(bad)} of {len(found)} jobs cannot run, none was started:\n{mistakes_of(found)}{way_out}"
        )

    # Where it lies

    def _folder(self, count: int) -> Path:
        """The folder that was named, of a sweep that was killed, or a new one."""
        if not is_default(self.master.hydra.sweep, "dir", DEFAULT_DIR) or self.master.output_dir is not None:
            return _named(Path(str(self.master.hydra.sweep.dir)), self._line())
        stopped = _stopped_sweep(OUTPUTS / "multirun", self._line())
        if stopped is not None:
            print(f"continuing the sweep in {stopped}; output_dir=... starts a new one", flush=True)
            return stopped
        if engine_of(self.launcher) is None:  # it has made a path of the folder's name already
            return _named(Path(str(self.master.hydra.sweep.dir)), self._line())
        return new_directory(OUTPUTS / "multirun", f"{count}jobs")

    def _line(self) -> list[str]:
        return task_overrides(self.master.hydra)

    def _jobs(self, found: Sequence[Checked], folder: Path) -> list[Job]:
        jobs: list[Job] = []
        for number, one in enumerate(found):
            run_dir = folder / self._subdir(number, one, len(found))
            job = job_of(
                number,
                one.overrides,
                run_dir,
                varied=one.combination.varied,
                parts=[*_parts(self.master, number), *group_of(one.overrides, folder)],
            )
            job.same_as = None if one.same_as is None else jobs[one.same_as]
            if one.mistake is not None:
                job.state, job.status, job.reason = JobState.FAILED, CONFIG, one.mistake
            jobs.append(job)
        return jobs

    def _subdir(self, number: int, one: Checked, count: int) -> str:
        """The name of a job's folder: what varies, unless hydra.sweep.subdir says otherwise."""
        if is_default(self.master.hydra.sweep, "subdir", DEFAULT_SUBDIR):
            if engine_of(self.launcher) is None:  # which asks the configuration, as does Hydra
                differences = sorted(f"{key}={value}" for key, value in one.combination.varied.items())
                return resolvers.sweep_subdir(number, ",".join(differences))
            return one.combination.folder_name(number, count)
        return _subdir_of(self._load(one.overrides), number)

    # Running

    def _run(self, folder: Path, jobs: list[Job], found: Sequence[Checked]) -> list[JobReturn]:
        engine = engine_of(self.launcher)
        if engine is None:
            return run_elsewhere(self.launcher, self.master, folder, jobs, fixed=_fixed(found), size=self.batch)
        try:
            with as_typed():
                run_sweep(folder, jobs, engine)
        except Stopped as stop:
            raise Interrupted(stop.signum) from None
        return [returned(job) for job in jobs]


def engine_of(launcher: HydraLauncher) -> Launcher | None:
    """What runs the processes of a launcher of ours; None of another one."""
    settings: Mapping[str, Any] | None = getattr(launcher, "settings", None)
    kind = type(launcher).__name__
    if settings is None or not type(launcher).__module__.startswith("hydra_plugins.hyplearn_hydra"):
        return None
    known = LAUNCHERS[kind]
    for name in settings:
        if name not in known:
            near = nearest(name, known, prefix="hydra.launcher.")
            raise ConfigError(f"unknown key hydra.launcher.{name}.{near} (hydra.launcher takes: {listing(known)})")
    for name in ("n_jobs", "jobs_per_gpu"):
        if settings.get(name, 1) < 1:
            raise ConfigError(f"hydra.launcher.{name}={settings[name]}: expected a whole number from 1 on.")
    if kind == "LocalLauncher":
        return Local(settings["n_jobs"], devices(settings["n_jobs"], settings["jobs_per_gpu"]))
    parameters = dict(settings["parameters"])
    if "timeout_min" not in parameters:
        raise ConfigError(
            "hydra/launcher=hyplearn_slurm needs the minutes a job may take: +hydra.launcher.parameters.timeout_min=720"
        )
    return Submitit(settings["cluster"], OUTPUTS / "submitit", parameters, settings["n_jobs"])


def launch(plugin: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """What a launcher of ours does for a sweeper that is not ours: run a batch of jobs, each in its own process."""
    resolvers.register()
    folder = Path(str(plugin.config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for number, overrides in enumerate(job_overrides, first):
        config = plugin.hydra_context.config_loader.load_sweep_config(plugin.config, list(overrides))
        run_dir = folder / _subdir_of(config, number)
        own = [text for text in overrides if parse(text).key_or_group != PLACE]
        varied = {parse(text).key_or_group: text.partition("=")[2] for text in own}
        parts = [*_parts(plugin.config, number), *group_of(own, folder)]
        jobs.append(job_of(number, own, run_dir, varied=varied, parts=parts))
    engine = engine_of(plugin)
    assert engine is not None
    try:
        with as_typed():
            for job in engine.launch(iter(jobs)):
                print(f"[job {job.name}] {job.state.value} in {job.seconds:.0f} s", flush=True)
    except Stopped as stop:
        raise Interrupted(stop.signum) from None
    return [returned(job) for job in jobs]


def returned(job: Job) -> JobReturn:
    """What Hydra is told of a job: the metric that chose its weights, or why it failed."""
    found = JobReturn(overrides=list(job.overrides), working_dir=str(job.run_dir), task_name="train")
    if job.state.good:
        found.status, found.return_value = JobStatus.COMPLETED, _objective(RunDirectory(job.run_dir))
    else:
        found.status, found.return_value = JobStatus.FAILED, JobsFailed(f"job {job.name}: {job.reason}")
    return found


def _objective(run: RunDirectory) -> float | None:
    """The validation metric that chose the weights, as `best val/top1` names it; None of a run without validation."""
    rule = str((run.results.get("selection") or {}).get("rule", ""))
    return next((value for name, value in run.metrics.items() if rule == f"best {name}"), None)


def _parts(master: DictConfig, number: int) -> list[str]:
    """Of a job's command line, what the multirun's said to Hydra: where configurations lie, which is the first."""
    own = [text for text in _typed_for_hydra(master) if not text.lstrip("+~").startswith(NOT_FOR_JOBS)]
    name = str(master.hydra.job.config_name)
    return [
        *(part for path in config_dirs(master) for part in ("--config-dir", str(path))),
        *([] if name == "train" else ["--config-name", name]),
        *own,
        "hydra.mode=RUN",
        f"hydra.job.num={number}",
        f"hydra.job.id='{number}'",
    ]


def _typed_for_hydra(master: DictConfig) -> list[str]:
    """The overrides of Hydra itself as they were typed: to iterate over its list would resolve interpolations."""
    typed = OmegaConf.to_container(master.hydra.overrides.hydra, resolve=False)
    assert isinstance(typed, list)
    return [str(text) for text in typed]


def _subdir_of(config: DictConfig, number: int) -> str:
    """The folder of a job as its configuration names it, which may ask Hydra: ${hydra:job.num}."""
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.job.id, config.hydra.job.num = str(number), number
    known = HydraConfig.instance()
    before = known.cfg
    known.set_config(config)
    try:
        return str(config.hydra.sweep.subdir)
    finally:
        known.cfg = before


def config_dirs(master: DictConfig) -> list[Path]:
    """The folders of further configurations that the command line named."""
    sources = master.hydra.runtime.config_sources
    return [Path(str(source.path)) for source in sources if source.provider == "command-line"]


def searched_dirs(master: DictConfig) -> list[Path]:
    """Return those folders, and those of hydra.searchpath."""
    return [*config_dirs(master), *searched(_typed_for_hydra(master))]


def _fixed(found: Sequence[Checked]) -> str:
    """The keys that name no folder, as a list in Hydra's grammar: those that are the same for all jobs, and ours."""
    varied = set(found[0].combination.varied)
    keys = [parse(text).key_or_group for text in found[0].overrides]
    names = dict.fromkeys([*(key for key in keys if key not in varied), "logger.group", "output_dir", "resume"])
    return f"[{','.join(map(quoted, names))}]"


def is_default(node: DictConfig, key: str, beginning: str) -> bool:
    """Whether a name is still that of configs/train.yaml."""
    raw = OmegaConf.to_container(node, resolve=False)
    assert isinstance(raw, dict)
    return str(raw[key]).startswith(beginning)


def _named(folder: Path, line: Sequence[str]) -> Path:
    """A folder that was typed: with nothing in it, or with this very sweep, which goes on."""
    if (folder / RECORD).exists() and _stored_line(folder) == list(line):
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty and holds no sweep of these jobs: choose another output_dir.")
    return made(folder)


def _stopped_sweep(parent: Path, line: Sequence[str]) -> Path | None:
    """The newest sweep of the same jobs below `parent` that was stopped before its end, if no process runs it.

    One whose files are damaged is left out and named in a warning.
    """
    for record in sorted(parent.glob(f"*/{RECORD}"), reverse=True):
        folder = record.parent
        try:
            stopped = _stored_line(folder) == list(line) and _was_stopped(folder)
        except ConfigError as error:
            log.warning("left out: %s", error)
            continue
        if stopped and occupant(folder) is None:
            return folder
    return None


# What is raised where the record of a sweep is none.
_DAMAGED = (ValueError, TypeError, AttributeError, LookupError, RecursionError, YAMLError, OmegaConfBaseException)


def _stored_line(folder: Path) -> list[str]:
    """The overrides of the sweep in a folder. Raises ConfigError where its record is damaged."""
    path = folder / RECORD
    try:
        stored = OmegaConf.create(load_yaml(read_text(path)))
        if not isinstance(stored, DictConfig):
            raise ValueError("keys with values are expected")
        return task_overrides(stored.hydra)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except _DAMAGED as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is damaged ({reason}). {NO_LEDGER}") from error


def _was_stopped(folder: Path) -> bool:
    """Whether jobs of a sweep have not ended, or were interrupted."""
    jobs = stored_summary(folder)
    return any(job["exit_status"] is None or job["state"].startswith("interrupted") for job in jobs)
