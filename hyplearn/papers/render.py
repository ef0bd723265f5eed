"""A report as Markdown, LaTeX or HTML: headings, paragraphs, tables and folded lists, each with plain text inside."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    """A heading. level: 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Listing:
    """Lines below a summary; folded where the format can fold."""

    summary: str
    lines: tuple[str, ...]


Block = Heading | Paragraph | Table | Listing
TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
}
TEX |= {"[": "{[}", "]": "{]}", "|": r"\textbar{}"}  # a bracket behind \\ or \item is its argument
TEX |= {"<": r"$<$", ">": r"$>$", "−": "$-$", "é": r"\'e"} | {sign: f"\\{sign}" for sign in "&%$#_{}"}
STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-size: 90% }
th { border-bottom: 2px solid #444; text-align: left }
th, td { padding: .25em .8em .25em 0; vertical-align: top } td { border-bottom: 1px solid #ddd }
details, ul { font-size: 85%; overflow-wrap: anywhere }
@media print { body { max-width: none; margin: 0; font-size: 10px } tr { break-inside: avoid } }"""


_MARKUP = r"[\\|*`\[]|<(?=[A-Za-z/!?])|\](?=[(\[:])|&(?=[#A-Za-z])|~(?=~)|(?<!\w)_(?=\S)|(?<=\S)_(?!\w)"


def markdown(blocks: Sequence[Block]) -> str:
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def latex(blocks: Sequence[Block]) -> str:
    """Render a text to be read by \\input into a document with booktabs, longtable and array."""
    start = "% \\usepackage{booktabs,longtable,array}"
    return "\n\n".join([start, *(_latex(block) for block in blocks)]) + "\n"


def page(blocks: Sequence[Block]) -> str:
    """One HTML file without anything from elsewhere."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "Report")
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(_html(block) for block in blocks)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


FORMATS: dict[str, Callable[[Sequence[Block]], str]] = {"md": markdown, "tex": latex, "html": page}


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {markdown_text(block.text)}"
    if isinstance(block, Paragraph):
        return markdown_text(block.text)
    if isinstance(block, Listing):
        lines = "\n".join(f"- {markdown_text(line)}" for line in block.lines)
        return f"<details><summary>{html.escape(one_line(block.summary))}</summary>\n\n{lines}\n\n</details>"
    widths = [
        max(len(markdown_text(cell)) for cell in column) for column in zip(block.header, *block.rows, strict=True)
    ]
    bar = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([_bar(block.header, widths), bar, *(_bar(row, widths) for row in block.rows)])


def _bar(cells: Iterable[str], widths: Sequence[int]) -> str:
    padded = (markdown_text(cell).ljust(width) for cell, width in zip(cells, widths, strict=True))
    return f"| {' | '.join(padded)} |"


def one_line(text: str) -> str:
    """Return a text without line breaks, tabs and control characters, which would end a cell or a row."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]+", " ", text).split(" "))


def markdown_text(text: str) -> str:
    """What Markdown would take for markup, taken back; underscores inside words and < before numbers are none."""
    return re.sub(_MARKUP, r"\\\g<0>", one_line(text))


def _latex(block: Block) -> str:
    if isinstance(block, Heading):
        return f"\\{('section', 'subsection', 'subsubsection')[min(block.level, 3) - 1]}*{{{_tex(block.text)}}}"
    if isinstance(block, Paragraph):
        return _tex(block.text)
    if isinstance(block, Listing):
        items = "\n".join(f"\\item {_tex(line)}" for line in block.lines)
        return f"\\paragraph{{{_tex(block.summary)}}}\n\\begin{{itemize}}\n{items}\n\\end{{itemize}}"
    columns = "l" * len(block.header)
    rows = "\n".join(f"{' & '.join(map(_tex, row))} \\\\" for row in block.rows)
    head = f"\\toprule\n{' & '.join(map(_tex, block.header))} \\\\\n\\midrule\n\\endhead"
    return f"\\begin{{longtable}}{{{columns}}}\n{head}\n{rows}\n\\bottomrule\n\\end{{longtable}}"


def _tex(text: str) -> str:
    return "".join(TEX.get(sign, sign) for sign in one_line(text))


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Listing):
        items = "".join(f"<li>{html.escape(line)}</li>" for line in block.lines)
        return f"<details><summary>{html.escape(block.summary)}</summary><ul>{items}</ul></details>"
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.header)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in block.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"
