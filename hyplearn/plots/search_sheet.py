"""The answers of a search as pictures: a contact sheet, and a page that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from hyplearn.runs.atomic import write_text, write_whole

CELL, GAP, TEXT = 132, 12, 34  # pixels of a picture's square, between two, and of its two lines
HEAD = 56
INK, GREY, RULE, NEAR, FAR = "#111111", "#666666", "#dddddd", "#0072b2", "#b34700"
EMPTY = "#f2f2f2"  # behind a picture that is no square


class Tile(NamedTuple):
    """One picture with two lines below it, a title with a number and the name of its file.

    picture: None where it is not here. far: it lies beyond the threshold.
    """

    picture: Image.Image | None
    title: str
    number: str
    name: str
    far: bool = False


class Row(NamedTuple):
    """A query and its neighbours, the nearest first. verdict: what is said of the query, empty for nothing."""

    query: Tile
    found: Sequence[Tile]
    verdict: str = ""


def draw_sheet(path: Path, rows: Sequence[Row], *, title: str, about: str) -> None:
    """Write the contact sheet as PNG: a row for each query, itself on the left."""
    columns = 1 + max(len(row.found) for row in rows)
    width = GAP + columns * (CELL + GAP) + GAP
    sheet = Image.new("RGB", (max(width, 560), HEAD + len(rows) * (CELL + TEXT + 2 * GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 10), _cut(draw, title, _font(17, bold=True), sheet.width - 2 * GAP), INK, _font(17, bold=True))
    draw.text((GAP, 33), _cut(draw, about, _font(12), sheet.width - 2 * GAP), GREY, _font(12))
    for number, row in enumerate(rows):
        top = HEAD + number * (CELL + TEXT + 2 * GAP)
        draw.line((GAP, top, sheet.width - GAP, top), RULE)
        _draw_tile(sheet, draw, row.query, GAP, top + GAP, frame=INK)
        for column, tile in enumerate(row.found, 1):
            left = 2 * GAP + column * (CELL + GAP)
            _draw_tile(sheet, draw, tile, left, top + GAP, frame=FAR if tile.far else NEAR)
    write_whole(path, lambda stream: sheet.save(stream, "PNG", optimize=True))


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, left: int, top: int, *, frame: str) -> None:
    draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), EMPTY)
    if tile.picture is None:
        draw.text((left + CELL // 2, top + CELL // 2), "not here", GREY, _font(12), anchor="mm")
    else:
        fitted = thumbnail(tile.picture.convert("RGB"), CELL)
        if tile.far:  # told without colour, too
            fitted = Image.blend(fitted, Image.new("RGB", fitted.size, EMPTY), 0.55)
        sheet.paste(fitted, (left + (CELL - fitted.width) // 2, top + (CELL - fitted.height) // 2))
    draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline=frame, width=2)
    room = CELL - round(draw.textlength(f" {tile.number}", _font(12)))
    draw.text((left, top + CELL + 3), _cut(draw, tile.title, _font(12, bold=True), room), INK, _font(12, bold=True))
    draw.text((left + CELL, top + CELL + 3), tile.number, frame, _font(12), anchor="ra")
    draw.text((left, top + CELL + 18), _cut(draw, tile.name, _font(11), CELL), GREY, _font(11))


def thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """Return the picture within a square; what is smaller grows by whole pixels, so that it can be seen."""
    scale = side / max(picture.size)
    if scale >= 2:
        times = int(scale)
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans:bold" if bold else "DejaVu Sans"), size)


def _cut(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The end of a path tells more than its beginning."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"…{text}", font) > width:
        text = text[1:]
    return f"…{text}"


STYLE = """
:root{--ink:#111;--soft:#5b5b5b;--rule:#ddd;--near:#0072b2;--far:#b34700;--paper:#fff;--empty:#f2f2f2}
@media(prefers-color-scheme:dark){:root{--ink:#eee;--soft:#aaa;--rule:#444;--near:#56b4e9;--far:#e8964f;--paper:#161616;
--empty:#262626}}
body{font:15px/1.45 system-ui,sans-serif;margin:1.6rem auto;max-width:76rem;padding:0 1.2rem;color:var(--ink);
background:var(--paper)}
h1{font-size:1.35rem;margin:0 0 .2rem}.about{color:var(--soft);margin:0 0 1rem}
section{border-top:1px solid var(--rule);padding:1rem 0;display:grid;grid-template-columns:9.5rem 1fr;gap:1.2rem;
break-inside:avoid}
h2{font-size:.95rem;margin:0 0 .4rem;overflow-wrap:anywhere}
ol{list-style:none;display:flex;flex-wrap:wrap;gap:.9rem;margin:0;padding:0}
figure{margin:0;width:8.5rem}
.box{width:100%;aspect-ratio:1;display:flex;align-items:center;justify-content:center;background:var(--empty);
border:2px solid var(--near);border-radius:4px;overflow:hidden;color:var(--soft);font-size:.85rem;box-sizing:border-box}
.query .box{border-color:var(--ink)}.far .box{border-style:dashed;border-color:var(--far)}.far img{opacity:.55}
img{max-width:100%;max-height:100%;width:100%;height:100%;object-fit:contain}img.small{image-rendering:pixelated}
figcaption{font-size:.82rem;line-height:1.3;overflow-wrap:anywhere;margin-top:.25rem}
figcaption span{float:right;color:var(--near)}.far figcaption span{color:var(--far)}
figcaption small{color:var(--soft);display:block}
.verdict{font-size:.85rem;color:var(--far);margin:.4rem 0 0}
@media(max-width:640px){section{grid-template-columns:1fr}}
@media print{body{margin:0;max-width:none}}
"""


def write_page(path: Path, rows: Sequence[Row], *, title: str, about: str) -> None:
    """Write the page; every picture is in it."""
    sections = "".join(_section(row) for row in rows)
    write_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>"
        f'<p class="about">{escape(about)}</p>{sections}</main></body></html>\n',
    )


def _section(row: Row) -> str:
    verdict = f'<p class="verdict">{escape(row.verdict)}</p>' if row.verdict else ""
    found = "".join(f"<li>{_figure(tile, 'far' if tile.far else 'near')}</li>" for tile in row.found)
    return f"<section><div>{_figure(row.query, 'query')}{verdict}</div><ol>{found}</ol></section>"


def _figure(tile: Tile, kind: str) -> str:
    if tile.picture is None:
        shown = "not here"
    else:
        small = ' class="small"' if max(tile.picture.size) <= CELL // 2 else ""
        shown = f'<img{small} alt="{escape(tile.title, quote=True)}" src="data:{_encoded(tile.picture)}">'
    number = f"<span>{escape(tile.number)}</span>" if tile.number else ""
    caption = f"<b>{escape(tile.title)}</b>{number}<small>{escape(tile.name)}</small>"
    return f'<figure class="{kind}"><div class="box">{shown}</div><figcaption>{caption}</figcaption></figure>'


def _encoded(picture: Image.Image) -> str:
    """Small pictures lose nothing, as PNG; photographs are JPEG."""
    stream = io.BytesIO()
    small = max(picture.size) <= CELL
    shown = picture if small else thumbnail(picture, 2 * CELL)
    shown.save(stream, "PNG" if small else "JPEG", quality=85)
    return f"image/{'png' if small else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode()}"
