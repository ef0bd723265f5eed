"""`hyplearn wandb-report`: the papers' tables as a Weights & Biases dashboard, from local runs; offline as well."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyplearn.cli.parser import Parser, folder
from hyplearn.errors import OK, ConfigError, listing, nearest

if TYPE_CHECKING:
    from hyplearn.papers.cells import Cell
    from hyplearn.runs.directory import RunDirectory

FOLDER = Path("outputs/wandb_report")
TYPED = 8  # offline runs that fit on one line; more are listed in a file
COLUMNS = (
    *("table", "cell", "method", "backbone", "embed_dim", "dataset", "metric", "published", "published_std"),
    *("measured", "std", "n", "difference", "run_ids", "protocol", "selection", "data"),
)

HELP = """\
hyplearn wandb-report [<table> ...] [options]

The tables of the papers as a dashboard of Weights & Biases, made of local runs. Writes
  tables           a W&B run named `hyplearn tables`, online where a key is found, else offline, with a W&B table for
                   each table: published value, measured mean and standard deviation, n, run ids, protocol, selection
  dashboard.json   a section for each table: its rows, the runs it shows (by tag), and their panels
and prints the one command that uploads all offline runs, this one and those of training. Finished runs below --runs
whose run id is that of a cell count; smoke runs never do. Without a table: all tables.

  --publish         make the dashboard a W&B report now (a key, and pip install 'hyplearn[wandb-report]')
  --project P       of the runs and the report, hyplearn
  --entity E        user or team; that of the key
  --protocol P      paper or code; paper
  --runs DIR        where to look for runs, outputs (can be repeated)
  --output DIR      outputs/wandb_report
  -h, --help        this text

  hyplearn wandb-report bdeir_table3
  hyplearn wandb-report yue_table1 yue_table2 --project birds --publish

Tables: {tables}"""


@dataclass(frozen=True)
class Line:
    """One printed number and what was measured of it. runs: one a seed."""

    cell: Cell
    metric: str
    values: tuple[float, ...]
    runs: tuple[RunDirectory, ...]
    protocol: str

    def row(self) -> dict[str, Any]:
        """By COLUMNS; None where there is nothing."""
        entry, values = self.cell.entry, self.values
        published = entry.metrics[self.metric]
        mean = statistics.fmean(values) if values else None
        return {
            "table": self.cell.table,
            "cell": self.cell.name,
            "method": entry.method,
            "backbone": entry.backbone,
            "embed_dim": entry.embed_dim,
            "dataset": entry.dataset,
            "metric": self.metric,
            "published": published,
            "published_std": entry.std.get(self.metric),
            "measured": mean,
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "n": len(values),
            "difference": None if mean is None or published is None else mean - published,
            "run_ids": " ".join(run.id for run in self.runs),
            "protocol": self.protocol if values else None,
            "selection": "; ".join(_distinct(run.results["selection"]["rule"] for run in self.runs)),
            "data": "; ".join(_distinct(_fingerprint(run) for run in self.runs)),
        }


def wandb_report(argv: Sequence[str]) -> int:
    """Write the tables and the dashboard, print how to upload them. Raises ConfigError."""
    parser = Parser("wandb-report")
    parser.add_argument("tables", nargs="*")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("--project", default="hyplearn")
    parser.add_argument("--entity")
    parser.add_argument("--protocol", choices=["paper", "code"], default="paper")
    parser.add_argument("--runs", type=folder, action="append")
    parser.add_argument("--output", type=Path, default=FOLDER)
    options = parser.parse_intermixed_args(list(argv))
    from hyplearn.papers.cells import tables

    if options.help:
        print(HELP.format(tables=", ".join(tables())))
        return OK
    chosen = _chosen(options.tables, tables())
    if options.publish:
        _check_publishing()
    folders = options.runs or [path for path in [Path("outputs")] if path.is_dir()]
    sections = dict(_lines(chosen, folders, options.protocol))
    dashboard = _dashboard(sections, options)
    from hyplearn.runs.atomic import write_json

    write_json(options.output / "dashboard.json", dashboard)
    said = _log(sections, options)
    for table, lines in sections.items():
        measured = sum(bool(line.values) for line in lines)
        print(f"{table}: {measured} of {len(lines)} numbers measured")
    print(f"written to {options.output / 'dashboard.json'}")
    print(said)
    if options.publish:
        print(f"report: {_publish(dashboard)}")
    command = _sync([*folders, options.output], options.output)
    if command is not None:
        print(f"to upload all offline runs: {command}")
    return OK


def _chosen(typed: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in typed:
        if name not in known:
            raise ConfigError(f"there is no table {name!r}.{nearest(name, known)} (tables: {listing(known)})")
    return list(dict.fromkeys(typed)) or list(known)


def _check_publishing() -> None:
    """What publishing needs, told before runs are read."""
    from hyplearn.training.loggers import wandb_mode

    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ConfigError("--publish needs wandb-workspaces: pip install 'hyplearn[wandb-report]'")
    if wandb_mode("auto") != "online":
        raise ConfigError("--publish needs a key of Weights & Biases: wandb login, or leave --publish out.")


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
            found += [_line(cell, metric, runs, protocol) for metric in cell.entry.metrics]
        yield table, found


def _runs_of(cell: Cell, by_cell: Mapping[str, Mapping[int, RunDirectory]], protocol: str) -> list[RunDirectory]:
    """The runs of a cell by seed."""
    if cell.experiment is None:
        return []
    from hyplearn.config.compose import compose
    from hyplearn.runs.identity import cell_id

    config = compose([f"experiment={cell.experiment}", f"protocol={protocol}"]).config
    return [run for _, run in sorted(by_cell.get(cell_id(config), {}).items())]


def _line(cell: Cell, metric: str, runs: Sequence[RunDirectory], protocol: str) -> Line:
    """Of a cell one printed metric; runs that do not have it are left out."""
    ours = cell.measures.get(metric)
    having = tuple(run for run in runs if ours in run.metrics)
    return Line(cell, metric, tuple(run.metrics[str(ours)] for run in having), having, protocol)


def _fingerprint(run: RunDirectory) -> str:
    """The data of a run: name and the first digits of the hash of its training part."""
    dataset = run.results.get("dataset") or {}
    digest = next(iter((dataset.get("sha256") or {}).values()), "")
    return f"{dataset.get('name')} {digest[:12]}".strip()


def _distinct(texts: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(texts))


# The dashboard


def _dashboard(sections: Mapping[str, Sequence[Line]], options: argparse.Namespace) -> dict[str, Any]:
    """The description of the report: plain data, whatever draws it."""
    return {
        "title": "hyplearn: the papers' tables",
        "project": options.project,
        "entity": options.entity,
        "protocol": options.protocol,
        "sections": [_section(table, lines, options.protocol) for table, lines in sections.items()],
    }


def _section(table: str, lines: Sequence[Line], protocol: str) -> dict[str, Any]:
    metrics = list(dict.fromkeys(ours for line in lines for ours in line.cell.measures.values()))
    first = metrics[:1]
    stage = [f"val/{name.removeprefix('test/').rpartition('/')[2]}" for name in first]
    return {
        "table": table,
        "rows": [line.row() for line in lines],
        "filter": {"tags": [table, f"protocol-{protocol}"], "without": ["smoke"]},
        "group_by": "Group",
        "panels": [
            *({"kind": "bar", "title": metric, "metrics": [metric]} for metric in metrics),
            *({"kind": "line", "title": metric, "x": "epoch", "metrics": [metric]} for metric in stage),
        ],
    }


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table of Markdown."""
    header = ("method", "dataset", "metric", "published", "measured", "n", "difference", "run ids")
    lines = [_bar(header), _bar(["---"] * len(header))]
    for row in rows:
        name = " ".join(str(row[key]) for key in ("method", "backbone", "embed_dim") if row[key] is not None)
        spread = "" if row["std"] is None else f" ± {row['std']:.2f}"
        measured = "" if row["measured"] is None else f"{row['measured']:.2f}{spread}"
        published = "" if row["published"] is None else f"{row['published']:g}"
        difference = "" if row["difference"] is None else f"{row['difference']:+.2f}"
        lines.append(
            _bar((name, row["dataset"], row["metric"], published, measured, str(row["n"]), difference, row["run_ids"]))
        )
    return "\n".join(lines)


def _bar(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def build_report(dashboard: Mapping[str, Any]) -> Any:
    """The description as a W&B report, not saved. Needs wandb-workspaces, and no network."""
    wr: Any = import_module("wandb_workspaces.reports.v2")  # has no types
    blocks: list[Any] = []
    of_runs = {"project": dashboard["project"], "entity": dashboard["entity"] or ""}
    for section in dashboard["sections"]:
        wanted, without = section["filter"]["tags"], section["filter"]["without"]
        filters = " and ".join([*(f"Tags in ['{tag}']" for tag in wanted), *(f"Tags not in ['{t}']" for t in without)])
        panels = [
            wr.BarPlot(title=panel["title"], metrics=panel["metrics"], orientation="h")
            if panel["kind"] == "bar"
            else wr.LinePlot(title=panel["title"], x=panel["x"], y=panel["metrics"])
            for panel in section["panels"]
        ]
        blocks += [wr.H1(section["table"]), wr.MarkdownBlock(_markdown(section["rows"]))]
        if panels:
            runs = wr.Runset(**of_runs, name=section["table"], filters=filters, groupby=[section["group_by"]])
            blocks.append(wr.PanelGrid(runsets=[runs], panels=panels))
    return wr.Report(**of_runs, title=dashboard["title"], blocks=blocks)


def _publish(dashboard: Mapping[str, Any]) -> str:
    report = build_report(dashboard)
    report.save()
    return str(report.url)


# Runs of Weights & Biases


def _log(sections: Mapping[str, Sequence[Line]], options: argparse.Namespace) -> str:
    """Log the tables as a run of their own; returns where it is."""
    import wandb

    from hyplearn.training.loggers import wandb_mode

    options.output.mkdir(parents=True, exist_ok=True)
    mode = wandb_mode("auto")
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
