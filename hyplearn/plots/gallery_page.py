"""Hard negatives as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from hyplearn.plots.hard_negatives import Compared, Negative, Pictures
from hyplearn.runs.atomic import write_text

STYLE = """
body{font:15px/1.4 system-ui,sans-serif;margin:1.5rem auto;max-width:75rem;padding:0 1rem;color:#111;background:#fff}
section{border-top:1px solid #bbb;padding:.7rem 0;break-inside:avoid}
h2{font-size:1.05rem;margin:.2rem 0}
.rows{display:flex;gap:1rem;align-items:center}
ol{list-style:none;display:flex;flex-wrap:wrap;gap:.5rem;margin:.2rem 0 .6rem;padding:0}
figure{margin:0;width:7.2rem}
img{width:100%;height:auto;display:block;image-rendering:pixelated;border:3px solid #ddd;box-sizing:border-box}
.photo img{image-rendering:auto}
.only img{border:5px double #b34700}
figcaption{font-size:.78rem;line-height:1.25;overflow-wrap:anywhere}
figure:focus{outline:3px solid #0072b2;outline-offset:2px}
table{border-collapse:collapse}td,th{padding:.1rem .8rem .1rem 0;text-align:left;font-weight:normal}
@media print{body{margin:0;max-width:none;font-size:9pt}figure{width:2.3cm}*{-webkit-print-color-adjust:exact;
print-color-adjust:exact}}
"""


def write_page(
    path: Path,
    shown: Sequence[Compared],
    names: tuple[str, str],
    captions: Sequence[str],
    ids: Sequence[int],
    pictures: Pictures,
    facts: Sequence[tuple[str, str]],
    *,
    title: str,
) -> Path:
    """Write the page. captions, ids: of each image by its position. facts: names and values, told first."""
    told = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    sections = "".join(_section(one, names, captions, ids, pictures) for one in shown)
    write_text(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main><h1>{escape(title)}</h1>"
        "<p>For each anchor those that are nearest under the trained metric of each model, the nearest first. "
        "<strong>✱ and a double frame</strong>: the image is not among those of the other model.</p>"
        f"<table>{told}</table>{sections}</main></body></html>\n",
    )
    return path


def _section(
    one: Compared, names: tuple[str, str], captions: Sequence[str], ids: Sequence[int], pictures: Pictures
) -> str:
    encoded = _encoder(pictures)
    total = len(one.lists[0])
    anchor = _figure(*encoded(one.anchor), f"anchor, {captions[one.anchor]}", f"image {ids[one.anchor]}", only=False)
    lists = "".join(
        f"<h3>{escape(name)}</h3><ol>{''.join(_item(negative, captions, ids, encoded) for negative in negatives)}</ol>"
        for name, negatives in zip(names, one.lists, strict=True)
    )
    heading = f"{captions[one.anchor]}: {one.shared} of {total} in both lists"
    return f"<section><h2>{escape(heading)}</h2><div class=rows>{anchor}<div>{lists}</div></div></section>"


def _item(
    negative: Negative, captions: Sequence[str], ids: Sequence[int], encoded: Callable[[int], tuple[str, bool]]
) -> str:
    caption = captions[negative.position]
    detail = f"distance {negative.distance:.6g}, image {ids[negative.position]}"
    return f"<li>{_figure(*encoded(negative.position), caption, detail, only=negative.only)}</li>"


def _figure(source: str, photo: bool, caption: str, detail: str, *, only: bool) -> str:
    kind = " ".join([name for name, used in (("only", only), ("photo", photo)) if used])
    mark = "✱ " if only else ""
    alternative = escape(f"{caption}, {detail}" + (", only under this model" if only else ""), quote=True)
    return (
        f'<figure tabindex="0" class="{kind}"><img alt="{alternative}" src="data:image/png;base64,{source}">'
        f"<figcaption>{mark}{escape(caption)}<br>{escape(detail)}</figcaption></figure>"
    )


def _encoder(pictures: Pictures) -> Callable[[int], tuple[str, bool]]:
    """A position to its picture as PNG in base64, and whether it is large enough to be smoothed."""

    def encoded(position: int) -> tuple[str, bool]:
        image: Tensor = pictures(torch.tensor([position]))[0]
        stream = io.BytesIO()
        Image.fromarray((image.squeeze(-1) if image.shape[-1] == 1 else image).numpy()).save(stream, "PNG")
        return base64.b64encode(stream.getvalue()).decode(), image.shape[0] > 64

    return encoded
