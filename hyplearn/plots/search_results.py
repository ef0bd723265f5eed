"""What a search found: as a contact sheet, and as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from hyplearn.runs.atomic import write_text, write_whole

SIDE = 112  # pixels of a picture on the sheet
GAP, LINE = 10, 15
PER_PAGE, PER_SHEET = 200, 40
INK, GREY, FRAME, MARK, PAPER = (26, 28, 32), (110, 114, 122), (0, 114, 178), (179, 71, 0), (255, 255, 255)

STYLE = """
:root{color-scheme:light dark;--line:#c9ccd3;--dim:#5b616b;--mark:#0072b2;--bad:#b34700}
@media(prefers-color-scheme:dark){:root{--line:#3d424b;--dim:#a2a8b3;--mark:#56b4e9;--bad:#f0a05a}}
body{font:15px/1.4 system-ui,sans-serif;margin:1.5rem auto;max-width:78rem;padding:0 1rem}
h1{font-size:1.3rem;margin:0 0 .2rem}p{margin:.2rem 0 .8rem;color:var(--dim)}
input{font:inherit;padding:.3rem .6rem;width:min(24rem,90%);margin-bottom:.6rem}
section{display:flex;flex-wrap:wrap;gap:.6rem;border-top:1px solid var(--line);padding:.7rem 0;break-inside:avoid}
figure{margin:0;width:7.4rem}figure.query{padding-right:.8rem;border-right:1px solid var(--line)}
img,.none{width:7rem;height:7rem;object-fit:contain;display:block;box-sizing:border-box;background:#8882}
.small img{image-rendering:pixelated}.query img{border:3px solid var(--mark)}
.none{display:grid;place-items:center;color:var(--dim);font-size:.75rem}
figcaption{font-size:.78rem;line-height:1.25;overflow-wrap:anywhere}figcaption span{color:var(--dim)}
.unknown{color:var(--bad);font-weight:600}
@media print{body{margin:0;max-width:none}input{display:none}}
"""
FILTER = """
const field=document.querySelector('input'),all=[...document.querySelectorAll('section')];
field.oninput=()=>{const text=field.value.toLowerCase();
for(const one of all)one.hidden=!one.textContent.toLowerCase().includes(text)};
"""


class Tile(NamedTuple):
    """One picture with its words, a line each. picture: None where there is none to show. mark: what stands out."""

    picture: Callable[[], Image.Image | None]
    name: str
    details: Sequence[str] = ()
    mark: str = ""


class Row(NamedTuple):
    """A query and what was found for it, the nearest first."""

    query: Tile
    hits: Sequence[Tile]


def draw_sheet(path: Path, rows: Sequence[Row], *, title: str) -> None:
    """Write the sheet: a row for each query, which stands in a frame; the first PER_SHEET queries."""
    shown = rows[:PER_SHEET]
    columns = 1 + max(len(row.hits) for row in shown)
    cell_width, cell_height = SIDE + GAP, SIDE + GAP + 3 * LINE
    large, small = _font(15), _font(11)
    width = max(columns * cell_width + 3 * GAP, round(large.getlength(title)) + 2 * GAP)
    sheet = Image.new("RGB", (width, len(shown) * cell_height + 4 * LINE), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, INK, font=large)
    for line, row in enumerate(shown):
        top = 3 * LINE + line * cell_height
        for column, tile in enumerate([row.query, *row.hits]):
            left = GAP + column * cell_width + (GAP if column else 0)
            _draw_tile(sheet, draw, tile, (left, top), small, framed=column == 0)
    write_whole(path, lambda stream: sheet.save(stream, "PNG"))


def _draw_tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    tile: Tile,
    corner: tuple[int, int],
    font: ImageFont.FreeTypeFont,
    *,
    framed: bool,
) -> None:
    left, top = corner
    picture = tile.picture()
    if picture is None:
        draw.rectangle((left, top, left + SIDE, top + SIDE), outline=GREY)
        draw.text((left + 6, top + SIDE // 2 - 7), "no picture here", GREY, font=font)
    else:
        fitted = _fitted(picture)
        sheet.paste(fitted, (left + (SIDE - fitted.width) // 2, top + (SIDE - fitted.height) // 2))
    if framed:
        draw.rectangle((left - 3, top - 3, left + SIDE + 2, top + SIDE + 2), outline=FRAME, width=3)
    lines = [(tile.name, INK), *((detail, GREY) for detail in tile.details), (tile.mark, MARK)]
    for number, (text, colour) in enumerate(line for line in lines if line[0]):
        draw.text((left, top + SIDE + 4 + number * LINE), _fitting(draw, text, font, SIDE), colour, font=font)


def _fitted(picture: Image.Image) -> Image.Image:
    """As large as a tile; pictures of a few pixels keep their corners."""
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    way = Image.Resampling.NEAREST if max(picture.size) <= 64 else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, way)


def _font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The end of a text, which tells most of a path, where the whole is too wide."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(f"…{text}", font=font) > width:
        text = text[1:]
    return f"…{text}"


def write_page(path: Path, rows: Sequence[Row], facts: Sequence[str], *, title: str) -> None:
    """Write the page of the first PER_PAGE queries. facts: sentences that stand above them."""
    shown = rows[:PER_PAGE]
    left_out = f" The first {PER_PAGE} of {len(rows):,} queries." if len(rows) > PER_PAGE else ""
    sections = "".join(
        f"<section>{_figure(row.query, query=True)}{''.join(_figure(hit) for hit in row.hits)}</section>"
        for row in shown
    )
    write_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>"
        f"<p>{escape(' '.join(facts) + left_out)}</p>"
        '<input type="search" placeholder="only queries with this text" aria-label="only queries with this text">'
        f"{sections}</main><script>{FILTER}</script></body></html>\n",
    )


def _figure(tile: Tile, *, query: bool = False) -> str:
    picture = tile.picture()
    words = ", ".join(text for text in (tile.name, *tile.details, tile.mark) if text)
    kinds = [
        name for name, used in (("query", query), ("small", picture is not None and max(picture.size) <= 64)) if used
    ]
    if picture is None:
        shown = '<div class="none">no picture here</div>'
    else:
        shown = f'<img alt="{escape(words, quote=True)}" loading="lazy" src="data:image/{_encoded(picture)}">'
    mark = f'<br><b class="unknown">{escape(tile.mark)}</b>' if tile.mark else ""
    return (
        f'<figure class="{" ".join(kinds)}">{shown}<figcaption>{escape(tile.name)}<br>'
        f"<span>{'<br>'.join(map(escape, tile.details))}</span>{mark}</figcaption></figure>"
    )


def _encoded(picture: Image.Image) -> str:
    """The picture in at most 224 pixels; small ones without loss."""
    stream, small = io.BytesIO(), max(picture.size) <= 64
    shown = picture.convert("RGB")
    shown.thumbnail((224, 224))
    shown.save(stream, "PNG" if small else "JPEG", quality=82)
    return f"{'png' if small else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode()}"
