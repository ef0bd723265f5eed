from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from hyplearn.plots.training_curves import COLOURS, draw_figures


def rows(epochs: int, **extra: float) -> list[dict[str, float]]:
    return [
        {"epoch": e, "train/loss": 2.0 / e, "train/top1": 90 - 50 / e, "val/loss": 2.5 / e, "val/top1": 85 - 50 / e,
         "curvature/encoder": 1 - 0.4 * e / epochs, "curvature/encoder_at_bound": 0.0, **extra}
        for e in range(1, epochs + 1)
    ]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures by file name, in place of a look at the pictures."""
    kept: dict[str, Figure] = {}
    save = Figure.savefig

    def keep(self: Figure, stream: Any, **options: Any) -> None:
        kept[Path(stream.name).name.split(".")[1]] = self
        save(self, stream, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


def draw(folder: Path, table: list[dict[str, float]], **changes: Any) -> list[Path]:
    options = {"initial": {"encoder": 1.0}, "bounds": {"encoder": (0.05, 20.0)}, "tests": {}, "tested_epoch": None}
    return draw_figures(folder, table, **{**options, **changes})


def curves(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    lines = figure.axes[0].get_lines()
    return {str(line.get_label()): list(zip(*map(list, line.get_data()), strict=True)) for line in lines}


def test_the_curves_are_the_rows(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    tests = {"test/loss": 1.25, "test/top1": 61.0}
    paths = draw(tmp_path, rows(3), tests=tests, tested_epoch=2)
    assert [path.name for path in paths] == ["loss.png", "accuracy.png", "curvature.png"]
    assert curves(drawn["loss"]) == {
        "train": [(1, 2.0), (2, 1.0), (3, 2 / 3)],
        "val": [(1, 2.5), (2, 1.25), (3, 2.5 / 3)],
        "test 1.25": [(2, 1.25)],
    }
    assert curves(drawn["accuracy"])["test 61"] == [(2, 61.0)]
    assert [epoch for epoch, _ in curves(drawn["curvature"])["encoder"]] == [0, 1, 2, 3]


def test_pictures_are_large_enough_to_print(tmp_path: Path) -> None:
    for path in draw(tmp_path, rows(200)):
        picture = imread(path)
        assert picture.shape[:2] == (600, 1080)
        assert picture[..., :3].min() < 0.1


def test_without_curvature_there_is_no_such_figure(tmp_path: Path) -> None:
    table = [{name: value for name, value in row.items() if "curvature" not in name} for row in rows(2)]
    assert [path.name for path in draw(tmp_path, table, initial={})] == ["loss.png", "accuracy.png"]


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert draw(tmp_path / "none", []) == []
    assert not (tmp_path / "none").exists()


def test_wide_ranges_are_drawn_on_a_logarithmic_scale(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    draw(tmp_path, rows(50))
    assert drawn["loss"].axes[0].get_yscale() == "log"
    assert drawn["curvature"].axes[0].get_yscale() == "linear"


def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    draw(tmp_path, [*rows(2), {"epoch": 3, "train/loss": float("nan"), "curvature/encoder": 0.6}])
    assert [epoch for epoch, _ in curves(drawn["loss"])["train"]] == [1, 2]


def test_a_bound_is_drawn_where_a_curve_comes_near(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    draw(tmp_path, rows(5), bounds={"encoder": (0.6, 20.0)})
    assert [label for label in curves(drawn["curvature"]) if "bound" in label] == ["bound 0.6"]


def test_a_fixed_curvature_is_a_flat_line(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    draw(tmp_path, rows(3, **{"curvature/encoder": 1.0}))
    low, high = drawn["curvature"].axes[0].get_ylim()
    assert low < 0.96
    assert high > 1.04


def test_curves_differ_by_more_than_colour(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    many = {f"curvature/stage{i}": 1.0 + i for i in range(5)}
    draw(tmp_path, rows(3, **many), initial={})
    lines = drawn["curvature"].axes[0].get_lines()
    styles = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(styles) == len(lines) == 6
    assert len(set(COLOURS)) == len(COLOURS)


def test_drawing_chooses_no_backend(tmp_path: Path) -> None:
    """A notebook or a display that matplotlib already draws to stays as it is."""
    before = mpl.get_backend(auto_select=False)
    draw(tmp_path, rows(2))
    assert mpl.get_backend(auto_select=False) == before
