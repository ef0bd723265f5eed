"""The printed numbers are read as they stand in the file."""

from __future__ import annotations

from hyplearn.papers.published import document, entries


def test_every_record_is_an_entry() -> None:
    assert len(entries()) == len(document()["entries"]) == 289


def test_a_row_of_the_paper() -> None:
    found = [
        entry
        for entry in entries()
        if (entry.paper, entry.table, entry.method, entry.dataset) == ("bdeir", 2, "HCNN+", "CIFAR-100")
    ]
    assert len(found) == 1
    assert found[0].metrics == {"accuracy": 78.81}
    assert found[0].std == {"accuracy": 0.19}
    assert found[0].ours
    assert not found[0].blank


def test_a_dash_is_no_number() -> None:
    blank = {(entry.method, entry.dataset) for entry in entries() if entry.blank}
    assert ("XBM", "CUB") in blank
    assert ("HECNN+ - no optim scheme", "CIFAR-100") in blank
    assert all(value is None or value > 0 for entry in entries() for value in entry.metrics.values())
