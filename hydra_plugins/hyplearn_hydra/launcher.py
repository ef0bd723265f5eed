"""hydra/launcher=hyplearn and hyplearn_slurm: every job in a process of its own, here or in the queue of SLURM."""

# Not with postponed annotations: Hydra runs this module before Python knows it, and dataclasses look it up.
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LocalConf:
    """Jobs of this machine. n_jobs: at the same time; with GPUs each has one of its own. jobs_per_gpu: share one."""

    _target_: str = "hydra_plugins.hyplearn_hydra.launcher.LocalLauncher"
    n_jobs: int = 1
    jobs_per_gpu: int = 1


@dataclass
class SlurmConf:
    """Jobs handed to SLURM through submitit. n_jobs: in the queue at once. cluster: slurm, or local, its stand-in.

    parameters: what the queue is asked for, in the names of `submitit.AutoExecutor`; timeout_min must be among them.
    """

    _target_: str = "hydra_plugins.hyplearn_hydra.launcher.SlurmLauncher"
    n_jobs: int = 100
    cluster: str = "slurm"
    parameters: dict[str, Any] = field(default_factory=dict)


STORE = ConfigStore.instance()
STORE.store(group="hydra/launcher", name="hyplearn", node=LocalConf, provider="hyplearn")
STORE.store(group="hydra/launcher", name="hyplearn_slurm", node=SlurmConf, provider="hyplearn")


class HyplearnLauncher(Launcher):
    """Runs each job as a command line of `hyplearn train`, so that nothing one job does reaches another."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hyplearn.jobs.multirun import launch

        return launch(self, job_overrides, initial_job_idx)


class LocalLauncher(HyplearnLauncher):
    """Up to n_jobs at a time on this machine."""


class SlurmLauncher(HyplearnLauncher):
    """Jobs in the queue of SLURM."""
