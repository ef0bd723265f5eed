"""Hard negatives of two embeddings, against the definition in plain loops."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from torch import Tensor

from hyplearn.evaluation.metric import Metric
from hyplearn.evaluation.store import Stored
from hyplearn.plots.gallery_page import write_page
from hyplearn.plots.hard_negatives import DRAWN, compare, draw_hard_negatives, hard

LABELS = torch.arange(40) % 4


def stored(seed: int, metric: Metric, *, query: Tensor | None = None, gallery: Tensor | None = None) -> Stored:
    points = 0.4 * torch.randn(40, 3, generator=torch.Generator().manual_seed(seed))
    everything = torch.ones(40, dtype=torch.bool)
    return Stored(
        points=(points,),
        labels=LABELS,
        ids=torch.arange(40),
        query=everything if query is None else query,
        gallery=everything if gallery is None else gallery,
        metrics=(metric,),
        class_names=("a", "b", "c", "d"),
    )


def pictures(positions: Tensor) -> Tensor:
    return (positions[:, None, None, None] * torch.ones(1, 8, 8, 3)).to(torch.uint8)


def test_lists_hold_the_nearest_of_other_classes_in_ascending_order() -> None:
    gallery = torch.arange(40) % 5 != 0
    one = stored(1, Metric("euclidean"), gallery=gallery)
    found = hard(one, torch.tensor([0, 7, 12]), 5)
    for anchor in (0, 7, 12):
        offered = [i for i in range(40) if gallery[i] and LABELS[i] != LABELS[anchor]]
        distance = {i: float((one.points[0][i] - one.points[0][anchor]).double().norm()) for i in offered}
        expected = sorted(offered, key=lambda i: distance[i])[:5]
        assert [position for position, _ in found[anchor]] == expected
        assert [d for _, d in found[anchor]] == pytest.approx([distance[i] for i in expected], rel=1e-5)


def test_those_that_differ_most_come_first_and_the_difference_is_marked() -> None:
    first, second = stored(1, Metric("poincare", 0.1)), stored(2, Metric("euclidean"))
    found = compare(first, second, nearest=4, seed=0)
    assert len(found) == 40 <= DRAWN
    assert [one.shared for one in found] == sorted(one.shared for one in found)
    assert found[0].shared < found[-1].shared
    for one in found:
        sets = [{negative.position for negative in each} for each in one.lists]
        assert one.shared == len(sets[0] & sets[1])
        for each, other in zip(one.lists, reversed(sets), strict=True):
            assert all(negative.only == (negative.position not in other) for negative in each)


def test_anchors_are_queries_and_the_same_again() -> None:
    query = torch.arange(40) < 10
    pair = stored(1, Metric("euclidean"), query=query), stored(2, Metric("euclidean"), query=query)
    found = compare(*pair, nearest=4, seed=3)
    assert {one.anchor for one in found} == set(range(10))
    assert found == compare(*pair, nearest=4, seed=3)
    assert [one.anchor for one in found] != [one.anchor for one in compare(*pair, nearest=4, seed=4)]


def test_equal_models_share_all() -> None:
    one = stored(1, Metric("euclidean"))
    assert all(found.shared == 4 for found in compare(one, one, nearest=4, seed=0))


def test_too_many_negatives_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^31: the gallery has 30 images of other classes than that of label 0$"):
        hard(stored(1, Metric("euclidean")), torch.tensor([0]), 31)


def test_picture_and_page_are_whole_and_the_same_again(tmp_path: Path) -> None:
    shown = compare(stored(1, Metric("euclidean")), stored(2, Metric("euclidean")), nearest=4, seed=0)[:2]
    captions = [f"<{'abcd'[label]}>" for label in LABELS.tolist()]
    names, metrics = ("Sph & co", "Hyp"), ("euclidean", "euclidean")
    for folder in ("one", "two"):
        path = tmp_path / folder / "page.html"
        draw_hard_negatives(
            path.with_suffix(".png"), shown, names, metrics, captions, pictures, {"shown": 2}, title="Two models"
        )
        write_page(path, shown, names, captions, list(range(100, 140)), pictures, [("seed", "0")], title="Two models")
    for name in ("page.png", "page.json", "page.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert imread(tmp_path / "one" / "page.png").shape[1] == 1440  # 7.2 inches
    assert json.loads((tmp_path / "one" / "page.json").read_text()) == {"shown": 2}
    page = (tmp_path / "one" / "page.html").read_text()
    assert page.count("<img ") == 2 * (1 + 2 * 4)
    assert not re.search(r'(src|href)="(?!data:image/png;base64,)', page)
    assert f"image {100 + shown[0].anchor}<" in page
    assert "Sph &amp; co" in page and "&lt;a&gt;" in page and "<a>" not in page
    marked = sum(negative.only for one in shown for each in one.lists for negative in each)
    assert page.count("only under this model") == page.count('class="only"') == marked
