from __future__ import annotations

import json
import pickle
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hyplearn.cli.bench import command as bench
from hyplearn.data.reading import download
from hyplearn.inference import costs, table4, table4_costs
from hyplearn.papers.published import entries
from tests.support.commands import Command

QUICK = ("table4", "--device", "cpu", "--models", "r18", "--width", "2", "--batch", "6", "--threads", "1")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_printed_values_stand_beside_the_measured(command: Command) -> None:
    result = command("bench", *QUICK, "--repeats", "2", "--output", "mine/table4.json")
    assert result.status == 0, result.err
    found = json.loads(Path("mine/table4.json").read_text())
    rows = {row["method"]: row for row in found["rows"]}
    assert {name: row["printed"] for name, row in rows.items() if row["printed"]} == {
        entry.method: {"memory_gb": entry.metrics["vmem_gb"], "seconds_per_epoch": entry.metrics["runtime_s_per_epoch"]}
        for entry in entries()
        if (entry.paper, entry.table) == ("bdeir", 4)
    }
    assert list(rows) == [variant.method for variant in table4.VARIANTS]
    for row in rows.values():
        assert len(row["seconds_of_rounds"]) == 2
        assert row["seconds_per_epoch"] == pytest.approx(8334 * statistics.median(row["seconds_of_rounds"]))
        assert row["saved_gb"] < row["memory_gb"]
    # HECNN+ with either convolution, fused or not, differs in computation, not in kind
    assert rows[table4.OURS]["parameters"] == rows[table4.OURS_BY_LAYER]["parameters"]
    assert rows[table4.FIRST]["parameters"] == rows[table4.FIRST_FUSED]["parameters"]
    assert rows[table4.OURS]["memory_gb"] < rows[table4.OURS_BY_LAYER]["memory_gb"]
    assert rows[table4.FIRST_FUSED]["memory_gb"] < rows[table4.FIRST]["memory_gb"]
    assert (found["batch"], found["device"], found["steps_per_epoch"]) == (6, "cpu", 8334)
    assert not found["as_printed"]
    assert "Not what the paper measures" in result.out
    (line,) = [line for line in result.out.splitlines() if line.startswith("HECNN+ - Ours / Euclidean")]
    memory, memory_printed, seconds, seconds_printed = line.split()[-4:]
    assert (memory_printed, seconds_printed) == ("1.8", "3.33")
    assert float(memory) > 0 and float(seconds) > 0


def test_ratios_are_medians_within_rounds() -> None:
    def cost(number: int, *seconds: float) -> table4.Cost:
        return table4.Cost(table4.VARIANTS[number], 1, 100 * (number + 1), 10, list(seconds))

    made = [cost(0, 1, 10, 1), cost(1, 4, 20, 9), cost(2, 2, 20, 3), cost(3, 1, 1, 1), cost(4, 1, 1, 1)]
    ratios = {(r["of"], r["to"]): r for r in table4._ratios({c.variant.method: c for c in made})}
    ours = ratios[table4.OURS, table4.EUCLIDEAN]
    assert (ours["seconds_per_epoch"], ours["memory_gb"]) == (2, 3)
    assert ratios[table4.FIRST, table4.EUCLIDEAN]["seconds_per_epoch"] == 4
    assert ratios[table4.OURS, table4.FIRST]["printed"]["seconds_per_epoch"] == pytest.approx(1 / 3)
    assert ratios[table4.OURS, table4.FIRST_FUSED]["printed"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "hyplearn bench needs a table"),
        (("tabel4",), "Did you mean table4?"),
        (("table4", "--batch", "1"), "'1' must be a whole number from 2 on"),
        (("table4", "--output", "a.txt"), "must end in .json"),
        (("table4", "--root", "x"), "--root x would be ignored"),
        (("table4", "--models", "r34"), "r34"),
    ],
)
def test_mistakes_are_told(command: Command, arguments: tuple[str, ...], said: str) -> None:
    result = command("bench", *arguments)
    assert result.status == 2
    assert said in result.err
    assert result.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(command: Command) -> None:
    assert "--device cpu" in command("bench", "table4", "--device", "cuda").err


def test_too_little_memory_is_told_before_it_is_taken(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "available_bytes", lambda: 10**6)
    result = command("bench", *QUICK, "--batch", "10")
    assert result.status == 2
    assert "choose a smaller --batch or --width" in result.err


def test_missing_images_are_told(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(url: str, *args: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(download, "download_url", no_network)
    result = command("bench", *QUICK, "--data", "cifar100", "--root", str(tmp_path))
    assert result.status == 1
    assert "cifar-100-python" in result.err
    assert "Traceback" not in result.err


def test_real_images_come_augmented_and_without_end(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for part, size in (("train", 15), ("test", 5)):
        pixels = np.random.default_rng(0).integers(0, 256, (size, 3072), dtype=np.uint8)
        labels = [number % 100 for number in range(size)]
        (folder / part).write_bytes(pickle.dumps({"data": pixels, "fine_labels": labels}, protocol=2))
    options = bench.bench_parser().parse_args([*QUICK, "--data", "cifar100", "--root", str(tmp_path)])
    batches = table4_costs.batches_of(bench._completed(options))
    shapes = [next(batches)[0].shape for _ in range(7)]
    assert shapes == ([(6, 3, 32, 32)] * 2 + [(3, 3, 32, 32)]) * 2 + [(6, 3, 32, 32)]


def test_help(command: Command) -> None:
    assert command("bench", "--help").out.startswith("usage: hyplearn bench [-h]")
