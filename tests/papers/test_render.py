"""One report in three formats, with what each would take for markup taken back."""

from __future__ import annotations

from hyplearn.papers.render import Heading, Listing, Paragraph, Table, latex, markdown, page

BLOCKS = [
    Heading("50 % & more", 1),
    Paragraph("a_b <script> < 0.001"),
    Table(("x|y", "n"), (("1 ± 2", "#3"),)),
    Listing("runs", ("id_seed{1-3}",)),
]


def test_markdown() -> None:
    text = markdown(BLOCKS)
    assert "# 50 % & more" in text and "a_b \\<script> < 0.001" in text
    assert "| x\\|y  | n  |\n|-------|----|\n| 1 ± 2 | #3 |" in text


def test_latex_escapes() -> None:
    text = latex(BLOCKS)
    assert r"50 \% \& more" in text and r"a\_b $<$script$>$" in text
    assert "\\toprule\nx|y & n \\\\" in text and r"1 $\pm$ 2 & \#3" in text and r"id\_seed\{1-3\}" in text


def test_html_is_one_file() -> None:
    text = page(BLOCKS)
    assert "&lt;script&gt;" in text and "http" not in text and "<td>1 ± 2</td>" in text
