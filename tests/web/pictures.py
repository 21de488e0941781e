"""Pages of the viewer as a browser paints them: where their parts lie, and what the picture is.

`PAGES` names the pages over the embedded quick atlas, each with what says that it is ready. `boxes` are the parts that the style
sheet places (bar, panels, figures, forms, tables): left edge and width in steps of 8 pixels and the order from above, since
heights of text depend on the machine's fonts.
"""

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.web.prompt_models import until

WIDTHS, THEMES, HEIGHT, STEP = (400, 1280, 2560), ("light", "dark"), 900, 8
REFERENCES = Path(__file__).parent / "references" / "boxes.json"
TEXT = "Nina gave the bucket to Bella."
PAIRS = {"task": "capitals of the embedded world", "place": "mlp"}
STEERED = {"prompt": "Nina gave the bucket to", "tokens": 8, "strength": 1.5, "run": 1}
PAGES = {
    "home": "/",
    "prompt": f"/prompt?{urlencode({'prompt': TEXT, 'token': 3, 'layer': 2, 'head': 5})}",
    "steer": f"/steer?{urlencode(STEERED)}",
    "patching": f"/panel/patching?{urlencode(PAIRS)}",
    "compare": "/compare",
    "papers": "/papers",
    "paper": "/papers?id=analogies",
    "circuit": "/circuit",
}
READY = """(() => {
  const all = (s) => [...document.querySelectorAll(s)];
  const seen = (e) => e.checkVisibility();
  const near = (e) => seen(e) && e.getBoundingClientRect().top < innerHeight + 200;
  const steer = all('[data-widget="steer"]')[0];
  return document.readyState === "complete" && !all(".waiting").length && !all(".htmx-request").length
    && !all(".live[hx-get]").length
    && all("figure.chart").filter(near).every((f) => f.dataset.drawn)
    && all(".heat").every((h) => h.dataset.painted !== undefined)
    && all(".prompt-attention").every((e) => e.dataset.shown)
    && (!steer || !location.search.includes("run=1") || steer.dataset.state === "done");
})()"""
BOXES = """(step) => {
  const parts = "header.bar, nav.pages, main, main > header, .page-head, section, article, form, figure, table, canvas, .panels,"
    + " .columns, .said-error";
  const round = (v) => Math.round(v / step) * step;
  return [...document.querySelectorAll(parts)].filter((e) => e.checkVisibility()).map((e) => {
    const at = e.getBoundingClientRect();
    const id = e.id && !/\\d/.test(e.id) ? "#" + e.id : "";
    const name = e.tagName.toLowerCase() + id + [...e.classList].slice(0, 2).map((c) => "." + c).join("");
    return [name, round(at.left), round(at.width)];
  });
}"""
STILL = "*, *::before, *::after { animation: none !important; transition: none !important; caret-color: transparent !important; }"


def shown(page: Any, name: str) -> None:
    """Open a page and wait until it is whole; every figure is scrolled to once, so that all are drawn."""
    page.go(PAGES[name])
    until(page, READY, 90)
    page.evaluate(
        """async () => { for (const f of document.querySelectorAll("figure.chart")) { if (f.checkVisibility()) {
        f.scrollIntoView({ behavior: "instant" }); await new Promise((d) => requestAnimationFrame(() => setTimeout(d))); } }
        scrollTo({ top: 0, behavior: "instant" }); }"""
    )
    until(
        page,
        "[...document.querySelectorAll('figure.chart')].filter((f) => f.checkVisibility()).every((f) => f.dataset.drawn)",
    )


def at(page: Any, width: int, theme: str) -> None:
    """Another width and theme, and two frames to follow them."""
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.evaluate(
        "() => new Promise((d) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(d, 60))))"
    )
    until(page, READY, 60)


def boxes(page: Any) -> list[list[Any]]:
    """Name, left edge and width of every part, in the order of the page."""
    return page.evaluate(BOXES, STEP)


def wider(page: Any) -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate("Math.max(0, document.scrollingElement.scrollWidth - innerWidth)")


def picture(page: Any) -> bytes:
    """The window as a PNG, twice in a row the same where nothing moves."""
    return page.screenshot(animations="disabled", caret="hide")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def references() -> dict[str, Any]:
    """The stored boxes: page -> width -> boxes."""
    return json.loads(REFERENCES.read_text())


def renew(name: str, width: int, found: list[list[Any]]) -> None:
    """Write the boxes of one page at one width."""
    kept = references() if REFERENCES.exists() else {}
    kept.setdefault(name, {})[str(width)] = found
    lines = [
        f'"{n}": {{\n' + ",\n".join(f'"{w}": {json.dumps(b)}' for w, b in kept[n].items()) + "\n}"
        for n in PAGES
        if n in kept
    ]
    REFERENCES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
