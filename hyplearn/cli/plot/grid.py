"""`hyplearn plot grid`: a metric over two settings, and geometries at equal tuning budget."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.cli.plot.arguments import FigureParser, tell, titled
from hyplearn.errors import OK, ConfigError, listing, nearest
from hyplearn.plots.run_names import FLAT, differing, leaves, settings, shown
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    from hyplearn.plots.budget import Budget
    from hyplearn.plots.grid import Grid
    from hyplearn.runs.directory import RunDirectory


def grid(argv: Sequence[str]) -> int:
    """Draw and say what was written. Raises ConfigError."""
    options = grid_parser().parse_intermixed_args(list(argv))
    with writing(options.output):
        runs = _runs(options.runs, options.metric)
        found = _grid(runs, options)
        budgets = _budgets(runs, options.metric)
        from hyplearn.plots.budget import draw_budget
        from hyplearn.plots.grid import draw_curves, draw_heat_map

        configs = [run.config for run in runs]
        title = titled(f"{found.metric} over {found.x} and {found.by}", configs)
        written = draw_heat_map(options.output / "grid.png", found, title=title)
        written += draw_curves(options.output / "curves.png", found, title=title)
        if len(budgets) > 1:
            equal = titled("Best of n settings, equal tuning budget", configs)
            written += draw_budget(options.output / "budget.png", budgets, metric=found.metric, title=equal)
            print(_table(budgets, found.metric))
        else:
            print(
                "no budget.png: it takes two models whose settings were all run on one data set with a seed they "
                f"share, and {_chooser(found.metric)} to choose by (dataset.val_fraction=0.2)"
            )
        tell(written)
        return OK


def grid_parser() -> FigureParser:
    """Make the parser of the command."""
    parser = FigureParser(
        "grid",
        """
Finished runs are shown:
  grid.png     the metric over --x and --by as a heat map, mean and standard deviation over seeds;
               missing cells hatched
  curves.png   the same as curves, a line for each value of --by
  budget.png   for n = 1, 2, ...: the test metric that the best of n settings by validation has on
               average, for each model, up to the number of settings that all have; only where there
               are several models
Each is saved with its numbers as .csv. A model on the sphere has no manifold.c: its line is called sphere.""",
        needs="folders with runs",
        examples="""
hyplearn plot grid outputs/multirun/2026-11-26_08-58-30_4jobs_ba89
hyplearn plot grid outputs/reproduce/evidence/retrieval_{sph,hyp}_tau* --output plots/temperature
hyplearn plot grid outputs/multirun/... --by choices.backbone,choices.model""",
    )
    parser.add_runs("a multirun directory, run directories, or folders that hold some at any depth")
    parser.add_argument("--x", default="loss.tau", metavar="KEY", help="of the configuration; %(default)s")
    parser.add_argument(
        "--by",
        type=lambda text: text.split(","),
        default=["manifold.c"],
        metavar="KEYS",
        help="one or more, separated by commas; manifold.c. For backbones: choices.backbone",
    )
    parser.add_argument("--metric", default="test/recall@1", help="of results.json; %(default)s")
    parser.add_output("%(default)s")
    return parser


def _runs(folders: Sequence[Path], metric: str) -> list[RunDirectory]:
    """The finished runs, one of each run id. Raises ConfigError."""
    for path in folders:
        if not path.is_dir():
            raise ConfigError(f"{path} is no folder: name a multirun directory, or folders that hold runs.")
    from hyplearn.runs.finding import by_id, runs_below

    every = [same[0] for same in by_id(runs_below(folders)).values()]
    runs = [run for run in every if run.finished]
    if not runs:
        raise ConfigError(f"none of {len(every)} runs in {', '.join(map(str, folders))} is finished.")
    for run in every:
        if not run.finished:
            print(f"left out, it is not finished: {run.path}")
    for run in runs:
        if metric not in run.metrics:
            raise ConfigError(f"--metric {metric}: {run.path} has no such metric.{nearest(metric, run.metrics)}")
    return runs


def _chooser(metric: str) -> str:
    """What chooses between settings: never the test."""
    return metric.replace("test/", "val/", 1) if metric.startswith("test/") else metric


def _grid(runs: Sequence[RunDirectory], options: argparse.Namespace) -> Grid:
    from hyplearn.plots.grid import Grid

    flat = [dict(leaves(run.config)) for run in runs]
    for option, keys in (("--x", [options.x]), ("--by", options.by)):
        for key in keys:
            lacking = [run for run, one in zip(runs, flat, strict=True) if key not in one and not _excused(one, key)]
            if lacking:
                known = {name for one in flat for name in one}
                hint = "" if key in known else nearest(key, known)
                raise ConfigError(f"{option} {key}: {lacking[0].path} has no such key.{hint}")
    cells: dict[tuple[str, float | str], list[int]] = {}
    for place, one in enumerate(flat):
        row = ", ".join(_row(one, key) for key in options.by)
        cells.setdefault(
            (row, _column(_row(one, options.x) if _excused(one, options.x) else one[options.x])), []
        ).append(place)
    for (row, column), places in cells.items():
        _check_alike(row, column, [runs[i] for i in places], [flat[i] for i in places], options)
    ordered = sorted(cells, key=lambda cell: (_order(cell[0]), _order(cell[1])))
    values = {cell: [runs[i].metrics[options.metric] for i in cells[cell]] for cell in ordered}
    return Grid(values, options.metric, options.x, ", ".join(options.by))


def _row(one: Mapping[str, Any], key: str) -> str:
    return str(one["manifold.kind"]) if _excused(one, key) else shown(one[key])


def _excused(one: Mapping[str, Any], key: str) -> bool:
    """Whether a space without curvature stands for the key: it reads nothing of the manifold but its kind."""
    return one.get("manifold.kind") in FLAT and key.startswith("manifold.")


def _column(value: Any) -> float | str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number else shown(value)


def _order(value: float | str) -> tuple[bool, float, str]:
    try:
        return False, float(value), ""
    except ValueError:
        return True, 0.0, str(value)


def _check_alike(
    row: str,
    column: float | str,
    runs: Sequence[RunDirectory],
    flat: Sequence[Mapping[str, Any]],
    options: argparse.Namespace,
) -> None:
    """Seeds of one setting are averaged, never settings."""
    if len({run.cell for run in runs}) == 1:
        return
    raise ConfigError(
        f"runs at {options.x}={shown(column)}, {','.join(options.by)}={row} are of several settings, which differ in "
        f"{listing(differing(flat, settings(flat)))}: give --by such a key too, or name fewer folders."
    )


def _budgets(runs: Sequence[RunDirectory], metric: str) -> list[Budget]:
    """Of each model the settings of every seed that all settings of all models have.

    None without such a seed, where the runs are of several data sets, and where one has nothing to choose settings by:
    the paper's protocol leaves no classes to validation.
    """
    from hyplearn.plots.budget import Budget, Tried

    data = {str(run.results.get("dataset", {}).get("sha256")) for run in runs}
    if len(data) > 1 or any(_chooser(metric) not in run.metrics for run in runs):
        return []
    cells: dict[str, dict[str, dict[int, Tried]]] = {}
    for run in runs:
        tried = Tried(run.metrics[_chooser(metric)], run.metrics[metric])
        model = str(run.config.get("choices", {}).get("model"))
        cells.setdefault(model, {}).setdefault(run.cell, {})[run.seed] = tried
    seeds = sorted(set.intersection(*(set(of) for settings in cells.values() for of in settings.values())))
    if not seeds:
        return []
    return [
        Budget(model, {seed: [of[seed] for of in settings.values()] for seed in seeds})
        for model, settings in sorted(cells.items())
    ]


def _table(budgets: Sequence[Budget], metric: str) -> str:
    from hyplearn.plots.budget import compared

    lines = [f"{metric} of the best of n settings by validation", f"{'model':<20}  settings  seeds   n  mean"]
    for row in compared(budgets):
        spread = "" if row["std"] is None else f" +- {row['std']:.2f}"
        lines.append(
            f"{row['geometry']:<20}  {row['settings']:>8}  {row['seeds']:>5}  {row['n']:>2}  {row['mean']:.2f}{spread}"
        )
    return "\n".join(lines)
