from __future__ import annotations

from pathlib import Path

import pytest

from hyplearn.data.errors import DatasetError
from hyplearn.data.sources.retrieval_csv import CSVRetrieval


def table(root: Path, *lines: str, encoding: str = "utf-8") -> Path:
    (root / "images.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
    return root


def test_every_column(tmp_path: Path) -> None:
    table(
        tmp_path,
        "path,label,split,query,gallery,super_label,photographer",
        "a.jpg,oak,train,,,tree,Ann",
        'sub/"b".jpg,elm,train,,,tree,"Bob, Jr."',
        "c.jpg,fir,val,,,tree,",
        "d.jpg,rose,query,,,flower,",
        "e.jpg,rose,gallery,,,flower,",
        "f.jpg,iris,test,no,1,flower,",
        "/elsewhere/g.jpg,iris,test,,,flower,",
        encoding="utf-8-sig",  # as spreadsheets write it
    )
    source = CSVRetrieval(allow_outside=True)
    source.prepare(tmp_path)
    train, val, test = (source.part(tmp_path, part) for part in ("train", "val", "test"))
    assert train is not None and val is not None and test is not None
    assert train.images.paths == ("a.jpg", 'sub/"b".jpg')  # type: ignore[union-attr]
    assert [train.class_names[label] for label in train.labels.tolist()] == ["oak", "elm"]
    assert [test.class_names[label] for label in test.labels.tolist()] == ["rose", "rose", "iris", "iris"]
    assert val.labels.tolist() == [2]
    assert test.query.tolist() == [True, False, False, True]
    assert test.gallery.tolist() == [False, True, True, True]
    assert test.super_names == ("flower", "tree")
    assert test.images.absolute()[3] == Path("/elsewhere/g.jpg")  # type: ignore[union-attr]
    assert source.facts(tmp_path).class_names == ("elm", "oak")


def test_without_a_split_classes_are_parted(tmp_path: Path) -> None:
    table(tmp_path, "label,path", *(f"class {number % 4},{number}.jpg" for number in range(12)))
    source = CSVRetrieval(test_fraction=0.5)
    train, test = (source.part(tmp_path, part) for part in ("train", "test"))
    assert train is not None and test is not None
    assert train.labels.unique().tolist() == [0, 1]
    assert test.labels.unique().tolist() == [2, 3]
    named = CSVRetrieval(test_classes=["class 0", "class 3"]).part(tmp_path, "test")
    assert named is not None
    assert {named.class_names[label] for label in named.labels.tolist()} == {"class 0", "class 3"}
    table(tmp_path, "label,path", *(f"{number % 4},{number}.jpg" for number in range(12)))
    numbered = CSVRetrieval(test_classes=[1, "3"]).part(tmp_path, "test")
    assert numbered is not None
    assert {numbered.class_names[label] for label in numbered.labels.tolist()} == {"1", "3"}
    with pytest.raises(DatasetError, match="not among the 4 classes: 7"):
        CSVRetrieval(test_classes=[1, 7]).index(tmp_path)
    with pytest.raises(DatasetError, match=r"has no column split: add one .* or set dataset\.source\.test_fraction"):
        CSVRetrieval().train(tmp_path)


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    table(
        tmp_path,
        "path,label,split,query,super_label",
        "a.jpg,oak,train,,tree",
        ",oak,train,,tree",
        "b.jpg",
        "c.jpg,elm,tests,,tree",
        "",
        "d.jpg,elm,test,maybe,tree",
        "e.jpg,elm,test,1,",
        "a.jpg,oak,train,,tree",
        "f.jpg,oak,test,,tree",
    )
    problems = [str(problem).removeprefix(f"{tmp_path}/") for problem in CSVRetrieval().index(tmp_path).problems]
    assert problems == [
        "images.csv, line 3: no path",
        "images.csv, line 4: no label and no super_label",
        "images.csv, line 5: split 'tests' is none of train, val, test, query, gallery",
        "images.csv, line 7: query 'maybe' is neither 1 nor 0",
        "images.csv, line 8: no super_label",
        f"images.csv, line 9: a.jpg was named before ({tmp_path}/images.csv, line 2)",
        "images.csv, line 10: class oak is in train and in test, but no class may be in two parts",
    ]


def test_more_fields_than_columns_and_one_file_by_two_names_are_problems(tmp_path: Path) -> None:
    table(
        tmp_path,
        "path,label,split,note,note",
        "oak, old.jpg,oak,train,,",
        '"oak, old.jpg",oak,train,a note,"another, longer"',
        "a.jpg,oak,train",
        "./a.jpg,oak,train",
        f"{tmp_path}/sub/../a.jpg,oak,train",
        "b.jpg,elm,test,,,",
    )
    index = CSVRetrieval().index(tmp_path)
    problems = [str(problem).replace(f"{tmp_path}/", "") for problem in index.problems]
    assert problems == [
        'images.csv, line 2: 6 fields, but 5 columns: put a text with a comma in double quotes, as "a, b.jpg"',
        'images.csv, line 7: 6 fields, but 5 columns: put a text with a comma in double quotes, as "a, b.jpg"',
        "images.csv, line 5: ./a.jpg was named before as a.jpg (images.csv, line 4)",
        "images.csv, line 6: sub/../a.jpg was named before as a.jpg (images.csv, line 4)",
    ]
    assert index.places["oak, old.jpg"].line == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "a,b"], "line 1: no column path among file, label; the first line names the columns"),
        ([""], "no column path and label among none"),
        (["path,label,label,split,path", "a,b"], "line 1: several columns are named path and label: keep one of each"),
        (["path,label,split", 'a,"b'], "line 2: unexpected end of data"),
    ],
)
def test_what_is_no_such_table_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        CSVRetrieval().index(table(tmp_path, *lines))


def test_two_answers_to_one_question_are_named(tmp_path: Path) -> None:
    table(tmp_path, "path,label,split", "a.jpg,oak,train")
    with pytest.raises(DatasetError, match="has a column split: leave out test_fraction and test_classes"):
        CSVRetrieval(test_fraction=0.5).index(tmp_path)


def test_a_table_that_is_not_there_or_not_in_utf8_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"images\.csv is no file: set dataset\.root .* dataset\.source\.file"):
        CSVRetrieval().prepare(tmp_path)
    table(tmp_path, "path,label,split", "ä.jpg,oak,train", encoding="latin-1")
    with pytest.raises(DatasetError, match="is not in UTF-8"):
        CSVRetrieval().index(tmp_path)
