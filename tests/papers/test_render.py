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
    assert "\\toprule\nx\\textbar{}y & n \\\\" in text and r"1 $\pm$ 2 & \#3" in text and r"id\_seed\{1-3\}" in text


def test_html_is_one_file() -> None:
    text = page(BLOCKS)
    assert "&lt;script&gt;" in text and "http" not in text and "<td>1 ± 2</td>" in text


def test_cells_hold_no_markup_of_their_own() -> None:
    evil = "![x](http://a) [b]: c\nrow | cell\r\n__init__ ~~no~~ &lt; <b> \x1b[0m"
    table = Table(("[a]",), ((evil,),))
    written = markdown([table])
    assert len(written.splitlines()) == 3 and written.count("\\|") == 1
    assert all(sign in written for sign in (r"!\[x\](", r"\[b\]:", r"\__init", r"\&lt;", r"\<b>", r"\~~no"))
    assert "\x1b" not in written
    in_latex = latex([table])
    assert "\n{[}a{]} \\\\\n" in in_latex and "{[}x{]}" in in_latex and r"\textbar{}" in in_latex
    in_html = page([table])
    assert "&amp;lt;" in in_html and "<b>" not in in_html
