"""hydra/sweeper=hyplearn: every combination of the typed values, all of them checked before the first job starts."""

# Not with postponed annotations: Hydra runs this module before Python knows it, and dataclasses look it up.
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class GridConf:
    """max_batch_size: jobs that the launcher gets at once, null for all. params: key to values, as typed.

    skip_invalid: run the jobs that can run where others cannot, which are then failed ones.
    """

    _target_: str = "hydra_plugins.hyplearn_hydra.sweeper.GridSweeper"
    max_batch_size: int | None = None
    params: dict[str, Any] | None = None
    skip_invalid: bool = False


ConfigStore.instance().store(group="hydra/sweeper", name="hyplearn", node=GridConf, provider="hyplearn")


class GridSweeper(Sweeper):
    """Hands the jobs of a grid to the launcher, keeps the summary and prints it."""

    def __init__(self, max_batch_size: int | None, params: dict[str, Any] | None, skip_invalid: bool) -> None:
        self.max_batch_size, self.params, self.skip_invalid = max_batch_size, params or {}, skip_invalid
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from hyplearn.jobs.multirun import Grid

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        grid = Grid(
            self.hydra_context, self.config, self.launcher, skip_invalid=self.skip_invalid, batch=self.max_batch_size
        )
        return grid.run([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
