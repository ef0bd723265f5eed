"""hydra/sweeper=hyplearn_optuna: a search of settings by validation, which is `hyplearn tune` under Hydra."""

# Not with postponed annotations: Hydra runs this module before Python knows it, and dataclasses look it up.
from dataclasses import dataclass
from typing import Any, Optional

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class SearchConf:
    """n_trials: of each study; null for 20, or the whole grid. sampler: tpe, random, grid. pruner: median, none.

    metric: null for that of the task. compare: as in model=a,b, each value with a study and a budget of its own.
    params: key to values, as typed.
    """

    _target_: str = "hydra_plugins.hyplearn_hydra.search.SearchSweeper"
    n_trials: Optional[int] = None  # noqa: UP045 - OmegaConf reads it
    sampler: str = "tpe"
    pruner: str = "median"
    metric: Optional[str] = None  # noqa: UP045
    compare: Optional[str] = None  # noqa: UP045
    params: Optional[dict[str, Any]] = None  # noqa: UP045


ConfigStore.instance().store(group="hydra/sweeper", name="hyplearn_optuna", node=SearchConf, provider="hyplearn")


class SearchSweeper(Sweeper):
    """Searches what is typed as choice(a,b), interval(low,high) or tag(log,interval(low,high))."""

    def __init__(self, params: Optional[dict[str, Any]], **settings: Any) -> None:  # noqa: UP045
        self.params, self.settings = params or {}, settings
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from hyplearn.jobs.tuning.under_hydra import search_under_hydra

        assert self.config is not None
        assert self.launcher is not None
        line = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        return search_under_hydra(self.config, self.launcher, line, self.settings)
