"""The page of the service: drop a picture on it, and look at its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

STYLE = """
:root{--ink:#15181c;--soft:#5c6670;--rule:#dfe3e8;--accent:#0072b2;--far:#b34700;--paper:#fff;--card:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--ink:#e9edf1;--soft:#9aa5b1;--rule:#343b43;--accent:#56b4e9;--far:#e8964f;
--paper:#14171a;--card:#1e2327}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0;color:var(--ink);background:var(--paper)}
main{max-width:70rem;margin:0 auto;padding:1.6rem 1.2rem}
h1{font-size:1.4rem;margin:0}.about{color:var(--soft);font-size:.9rem;margin:.1rem 0 1.2rem}
.columns{display:grid;grid-template-columns:17rem 1fr;gap:1.6rem}
@media(max-width:720px){.columns{grid-template-columns:1fr}}
#drop{display:flex;flex-direction:column;align-items:center;justify-content:center;aspect-ratio:1;text-align:center;
border:2px dashed var(--rule);border-radius:12px;background:var(--card);cursor:pointer;overflow:hidden;
color:var(--soft);padding:1rem;position:relative}
#drop:hover,#drop.over,#drop:focus-within{border-color:var(--accent);color:var(--accent)}
#drop input{position:absolute;inset:0;opacity:0;cursor:pointer}
#drop img{position:absolute;inset:0;width:100%;height:100%;object-fit:contain;background:var(--card)}
label.line{display:flex;justify-content:space-between;gap:.8rem;margin:.8rem 0 0;font-size:.9rem;align-items:center}
input[type=text],input[type=number]{font:inherit;width:9rem;padding:.2rem .5rem;border:1px solid var(--rule);
border-radius:6px;background:var(--paper);color:var(--ink)}
button{font:inherit;margin-top:.8rem;width:100%;padding:.45rem;border:1px solid var(--accent);border-radius:8px;
background:var(--paper);color:var(--accent);cursor:pointer}
button:disabled{opacity:.45;cursor:default}
#said{min-height:1.5rem;margin:0 0 .6rem;font-size:.95rem}#said.bad{color:var(--far)}
#found{list-style:none;margin:0;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));
gap:1rem}
#found li{border:1px solid var(--rule);border-radius:10px;overflow:hidden;background:var(--card)}
#found .box{aspect-ratio:1;display:flex;align-items:center;justify-content:center;color:var(--soft);font-size:.85rem;
border-bottom:4px solid var(--accent)}
#found .far .box{border-bottom:4px dashed var(--far)}#found .far img{opacity:.55}
#found img{width:100%;height:100%;object-fit:contain}img.small{image-rendering:pixelated}
#found p{margin:.35rem .6rem .5rem;font-size:.85rem;line-height:1.3;overflow-wrap:anywhere}
#found b{font-size:.95rem}#found span{color:var(--soft)}
details{margin-top:1.2rem;font-size:.9rem}summary{cursor:pointer;color:var(--accent)}
code{font-size:.85rem;overflow-wrap:anywhere}
"""

SCRIPT = """
'use strict';
const get = id => document.getElementById(id);
let picture = null, asked = 0;
get('origin').textContent = location.origin;
function say(text, bad) { get('said').textContent = text; get('said').className = bad ? 'bad' : ''; }
async function post(path) {
  const headers = {'Content-Type': 'application/octet-stream'};
  const answer = await fetch(path, {method: 'POST', body: picture, headers});
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}
function small(img) { if (Math.max(img.naturalWidth, img.naturalHeight) <= 64) img.className = 'small'; }
function card(hit) {
  const item = document.createElement('li'), box = document.createElement('div'), text = document.createElement('p');
  item.className = hit.known ? '' : 'far'; box.className = 'box';
  if (hit.thumbnail) {
    const img = document.createElement('img');
    img.onload = () => small(img); img.alt = hit.image; img.src = hit.thumbnail; box.append(img);
  } else box.textContent = 'no picture here';
  const label = document.createElement('b'), rest = document.createElement('span');
  label.textContent = hit.class || hit.image;
  const far = hit.distance < 0.001 ? '< 0.001' : hit.distance.toPrecision(4);
  rest.textContent = `${far}${hit.known ? '' : ', too far'} · ${hit.image}`;
  text.append(label, document.createElement('br'), rest); item.append(box, text);
  return item;
}
async function search() {
  if (!picture) return;
  const own = ++asked;
  say('searching ...');
  try {
    const answer = await post(`/search?k=${encodeURIComponent(get('k').value)}`);
    if (own !== asked) return;
    get('found').replaceChildren(...answer.neighbours.map(card));
    if (answer.known) say('Nearest first, by the distance that was trained.');
    else say('Unknown: nothing is near enough.', true);
    get('add').disabled = false;
  } catch (error) {
    if (own !== asked) return;
    get('found').replaceChildren(); say(error.message, true); get('add').disabled = true;
  }
}
function take(file) {
  if (!file) return;
  const most = Number(document.body.dataset.bytes);
  if (file.size > most) { say(`This file has more than ${most.toLocaleString()} bytes.`, true); return; }
  picture = file;
  const img = document.createElement('img');
  img.onload = () => { URL.revokeObjectURL(img.src); small(img); };
  img.onerror = () => img.remove();
  img.alt = file.name; img.src = URL.createObjectURL(file);
  get('drop').querySelectorAll('img').forEach(old => old.remove());
  get('drop').prepend(img);
  get('name').value = file.name;
  search();
}
get('file').onchange = event => take(event.target.files[0]);
get('k').onchange = search;
for (const kind of ['dragover', 'drop']) document.addEventListener(kind, event => event.preventDefault());
document.addEventListener('dragover', () => get('drop').classList.add('over'));
document.addEventListener('dragleave', () => get('drop').classList.remove('over'));
document.addEventListener('drop', event => {
  get('drop').classList.remove('over'); take(event.dataTransfer.files[0]);
});
document.addEventListener('paste', event => take(event.clipboardData.files[0]));
get('add').onclick = async () => {
  const words = new URLSearchParams({name: get('name').value, class: get('class').value});
  try {
    const made = await post(`/add?${words}`);
    await search();
    say(`Added as row ${made.row}; the gallery holds ${made.gallery}.`);
  } catch (error) { say(error.message, true); }
};
"""


def page(facts: Mapping[str, Any], *, nonce: str) -> str:
    """Return the page. facts: of `Service.facts`. nonce: what lets its own style and script run, and no other."""
    metrics = " + ".join(_metric(metric) for metric in facts["metrics"])
    about = f"{facts['gallery']:,} pictures, compared under {metrics}; {facts['weights']}"
    most, size = facts["limits"]["k"], facts["limits"]["size"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f'<title>hyplearn search</title><style nonce="{nonce}">{STYLE}</style></head>'
        f'<body data-bytes="{size}"><main>'
        f'<h1>Search by picture</h1><p class="about">{escape(about)}</p><div class="columns"><div>'
        '<div id="drop">Drop a picture here,<br>paste one, or click<input id="file" type="file" accept="image/*" '
        'aria-label="choose a picture"></div>'
        f'<label class="line">neighbours <input id="k" type="number" min="1" max="{most}" value="8"></label>'
        "<details><summary>Add it to the gallery</summary>"
        '<label class="line">name <input id="name" type="text" maxlength="200"></label>'
        '<label class="line">class <input id="class" type="text" maxlength="200"></label>'
        '<button id="add" disabled>add</button></details>'
        "<details><summary>From a program</summary><p><code>curl --data-binary @picture.jpg "
        '&#39;<span id="origin"></span>/search?k=5&#39;</code></p></details></div>'
        '<div><p id="said" role="status">The nearest pictures will be here.</p><ol id="found"></ol></div></div></main>'
        f'<script nonce="{nonce}">{SCRIPT}</script></body></html>\n'
    )


def _metric(metric: Mapping[str, Any]) -> str:
    curvature = "" if metric["c"] is None else f" (c={metric['c']:g})"
    weight = "" if metric["weight"] == 1 else f"{metric['weight']:g} "
    return f"{weight}{metric['kind']}{curvature}"
