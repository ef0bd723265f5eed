"""`hyplearn wandb-report`: the papers' tables as a Weights & Biases dashboard, from local runs; offline as well."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.cli.parser import Parser, folder, name_of
from hyplearn.errors import OK, ConfigError
from hyplearn.papers.dashboard import COLUMNS, Line, dashboard, line_of, markdown
from hyplearn.runs.writing import writing

if TYPE_CHECKING:
    from hyplearn.papers.cells import Cell
    from hyplearn.runs.directory import RunDirectory

FOLDER = Path("outputs/wandb_report")
TYPED = 8  # offline runs that fit on one line; more are listed in a file
DESCRIPTION = """
The tables of the papers as a dashboard of Weights & Biases, made of local runs. Writes
  tables           a W&B run named `hyplearn tables`, online where a key is found, else offline,
                   with a W&B table for each table: published value, measured mean and standard
                   deviation, n, run ids, protocol, selection
  dashboard.json   a section for each table: its rows, the runs it shows (by tag), and their panels
and prints the one command that uploads all offline runs, this one and those of training. Finished runs below --runs
whose run id is that of a cell count; smoke runs never do."""


def wandb_report_parser() -> Parser:
    """Make the parser of the command."""
    from hyplearn.papers.cells import tables

    parser = Parser(
        "wandb-report",
        DESCRIPTION,
        examples="""
hyplearn wandb-report bdeir_table3
hyplearn wandb-report yue_table1 yue_table2 --project birds --publish""",
    )
    parser.add_argument(
        "tables",
        nargs="*",
        type=name_of("table", tables()),
        metavar="table",
        complete="words",
        help=f"{', '.join(tables())}; without one: all",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="make the dashboard a W&B report now (a key, and pip install 'hyplearn[wandb-report]')",
    )
    parser.add_argument("--project", default="hyplearn", help="of the runs and the report; %(default)s")
    parser.add_argument("--entity", help="user or team; that of the key")
    parser.add_argument("--protocol", choices=["paper", "code"], default="paper", help="%(default)s")
    parser.add_argument(
        "--runs", type=folder, action="append", metavar="DIR", help="where to look for runs; outputs (can be repeated)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", default=FOLDER, complete="directory", help="%(default)s")
    return parser


def wandb_report(argv: Sequence[str]) -> int:
    """Write the tables and the dashboard, print how to upload them. Raises ConfigError."""
    options = wandb_report_parser().parse_intermixed_args(list(argv))
    from hyplearn.papers.cells import tables

    chosen = list(dict.fromkeys(options.tables)) or tables()
    _check_mode(publish=options.publish)
    with writing(options.output):
        folders = options.runs or [path for path in [Path("outputs")] if path.is_dir()]
        sections = dict(_lines(chosen, folders, options.protocol))
        described = dashboard(sections, project=options.project, entity=options.entity, protocol=options.protocol)
        from hyplearn.runs.atomic import write_json

        write_json(options.output / "dashboard.json", described)
        said = _log(sections, options)
        for table, lines in sections.items():
            measured = sum(bool(line.values) for line in lines)
            print(f"{table}: {measured} of {len(lines)} numbers measured")
        print(f"written to {options.output / 'dashboard.json'}")
        print(said)
        if options.publish:
            print(f"report: {_publish(described)}")
        command = _sync([*folders, options.output], options.output)
        if command is not None:
            print(f"to upload all offline runs: {command}")
        return OK


def _check_mode(*, publish: bool) -> None:
    """Raise ConfigError where the mode of Weights & Biases does not go with what is asked, before runs are read."""
    from hyplearn.training.loggers import check_wandb_key, wandb_mode
    from hyplearn.training.settings import LoggerSettings

    if publish and importlib.util.find_spec("wandb_workspaces") is None:
        raise ConfigError("--publish needs wandb-workspaces: pip install 'hyplearn[wandb-report]'")
    chosen = os.environ.get("WANDB_MODE")
    if publish and chosen in ("offline", "disabled"):
        raise ConfigError(f"--publish uploads, which WANDB_MODE={chosen} forbids: unset it, or leave --publish out.")
    if publish and wandb_mode("auto") != "online":
        raise ConfigError("--publish needs a key of Weights & Biases: wandb login, or leave --publish out.")
    check_wandb_key(LoggerSettings(wandb=True))


# What was measured


def _lines(tables: Sequence[str], folders: Sequence[Path], protocol: str) -> Iterator[tuple[str, list[Line]]]:
    """Of every table the printed numbers, in its order, with the finished runs that answer them."""
    from hyplearn.papers.cells import DATASETS, cells
    from hyplearn.runs.finding import runs_below

    finished = [run for run in runs_below(folders) if run.finished and not run.smoke]
    by_cell: dict[str, dict[int, RunDirectory]] = {}
    datasets = {run.config.get("choices", {}).get("dataset") for run in finished}
    for run in sorted(finished, key=lambda run: (run.results_file).stat().st_mtime):
        by_cell.setdefault(run.cell, {})[run.seed] = run  # of several of one seed the newest
    for table in tables:
        found = []
        for cell in cells(table):
            possible = datasets & {None, DATASETS[cell.entry.dataset]}  # to compose an experiment takes its time
            runs = _runs_of(cell, by_cell, protocol) if possible else []
            found += [line_of(cell, metric, runs, protocol) for metric in cell.entry.metrics]
        yield table, found


def _runs_of(cell: Cell, by_cell: Mapping[str, Mapping[int, RunDirectory]], protocol: str) -> list[RunDirectory]:
    """The runs of a cell by seed."""
    if cell.experiment is None:
        return []
    from hyplearn.config.compose import compose
    from hyplearn.runs.identity import cell_id

    config = compose([f"experiment={cell.experiment}", f"protocol={protocol}"]).config
    return [run for _, run in sorted(by_cell.get(cell_id(config), {}).items())]


def build_report(described: Mapping[str, Any]) -> Any:
    """The description as a W&B report, not saved. Needs wandb-workspaces, and no network."""
    wr: Any = import_module("wandb_workspaces.reports.v2")  # has no types
    blocks: list[Any] = []
    of_runs = {"project": described["project"], "entity": described["entity"] or ""}
    for section in described["sections"]:
        wanted, without = section["filter"]["tags"], section["filter"]["without"]
        filters = " and ".join([*(f"Tags in ['{tag}']" for tag in wanted), *(f"Tags not in ['{t}']" for t in without)])
        panels = [
            wr.BarPlot(title=panel["title"], metrics=panel["metrics"], orientation="h")
            if panel["kind"] == "bar"
            else wr.LinePlot(title=panel["title"], x=panel["x"], y=panel["metrics"])
            for panel in section["panels"]
        ]
        blocks += [wr.H1(section["table"]), wr.MarkdownBlock(markdown(section["rows"]))]
        if panels:
            runs = wr.Runset(**of_runs, name=section["table"], filters=filters, groupby=[section["group_by"]])
            blocks.append(wr.PanelGrid(runsets=[runs], panels=panels))
    return wr.Report(**of_runs, title=described["title"], blocks=blocks)


def _publish(described: Mapping[str, Any]) -> str:
    report = build_report(described)
    report.save()
    return str(report.url)


# Runs of Weights & Biases


def _log(sections: Mapping[str, Sequence[Line]], options: argparse.Namespace) -> str:
    """Log the tables as a run of their own; returns where it is."""
    from hyplearn.training.loggers import wandb_mode

    mode = wandb_mode("auto")
    if mode == "disabled":
        return "tables: no run of Weights & Biases was made, WANDB_MODE=disabled"
    import wandb

    options.output.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=options.project,
        entity=options.entity,
        name="hyplearn tables",
        job_type="tables",
        tags=list(sections),
        mode=mode,  # type: ignore[arg-type]
        dir=str(options.output.resolve()),  # a service that another run has started works in another folder
        config={"protocol": options.protocol},
        settings=wandb.Settings(console="off", silent=True),
    )
    for table, lines in sections.items():
        rows = [line.row() for line in lines]
        content = wandb.Table(columns=list(COLUMNS), data=[[row[name] for name in COLUMNS] for row in rows])
        run.log({f"tables/{table}": content})
    where = f"tables: {run.url}" if mode == "online" else f"tables: {Path(run.dir).parent}"
    run.finish()
    return where


def _sync(folders: Sequence[Path], output: Path) -> str | None:
    """The command that uploads every offline run that was not uploaded yet; None if there is none."""
    from hyplearn.runs.atomic import write_text

    paths = offline_runs(folders)
    if not paths:
        return None
    if len(paths) <= TYPED:
        return shlex.join(["wandb", "sync", *map(str, paths)])
    file = output / "offline_runs.txt"
    write_text(file, "".join(f"{shlex.quote(str(path))}\n" for path in paths))
    return f"xargs wandb sync < {shlex.quote(str(file))}"


def offline_runs(folders: Sequence[Path]) -> list[Path]:
    """Offline runs below the folders that were not uploaded; of a run that was resumed the last, which holds all."""
    newest: dict[str, Path] = {}
    for path in sorted({path.resolve(): path for top in folders for path in top.rglob("offline-run-*")}.values()):
        for stored in path.glob("run-*.wandb"):
            newest[stored.name] = path
    return [path for name, path in newest.items() if not (path / f"{name}.synced").exists()]
