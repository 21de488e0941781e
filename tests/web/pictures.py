"""Pages of the viewer as a browser paints them: where their parts lie, and what the picture is.

`PAGES` names the pages over the embedded quick atlas. `boxes` are the parts that the style sheet places (bar, panels, figures,
forms, tables), in the order of the page: left edge and width in pixels, and the gap to the part before where one stands above the
other. Heights are left out, since they are the fonts'; in a flow of columns the left edge is that within the column, since heights
say which column a panel stands in.
"""

import base64
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.web.prompt_models import until

WIDTHS, THEMES, HEIGHT = (400, 1280, 2560), ("light", "dark"), 900
NEAR, PART = 8, 0.01  # how far a box may lie from the reference: pixels, or a part of its width if that is more
REFERENCES = Path(__file__).parent / "references" / "boxes.json"
TEXT = "Nina gave the bucket to Bella."
PAIRS = {"task": "capitals of the embedded world", "place": "mlp"}
STEERED = {"prompt": "Nina gave the bucket to", "tokens": 8, "strength": 1.5, "run": 1}
PAGES = {
    "home": "/",
    "concept": "/concept",
    "prompt": f"/prompt?{urlencode({'prompt': TEXT, 'token': 3, 'layer': 2, 'head': 5})}",
    "steer": f"/steer?{urlencode(STEERED)}",
    "patching": f"/panel/patching?{urlencode(PAIRS)}",
    "head": "/unit?layer=2&head=1",
    "neuron": "/unit?layer=1&neuron=7",
    "compare": "/compare",
    "papers": "/papers",
    "paper": "/papers?id=analogies",
    "circuit": "/circuit",
    "error": "/unit?layer=99&head=1",
}
READY = """(() => {
  const all = (s) => [...document.querySelectorAll(s)];
  const steer = all('[data-widget="steer"]')[0];
  return document.readyState === "complete" && !all(".waiting, .htmx-request, .htmx-settling, .htmx-swapping, .live[hx-get]").length
    && all("[data-widget]").every((e) => e.dataset.ready)
    && all("figure.chart").every((f) => !f.checkVisibility() || (f.dataset.drawn && !("stale" in f.dataset)))
    && all(".heat").every((h) => h.dataset.painted !== undefined)
    && all(".prompt-attention").every((e) => e.dataset.shown)
    && (!steer || !location.search.includes("run=1") || steer.dataset.state === "done");
})()"""
EACH_SEEN = """() => {
  for (const f of document.querySelectorAll("figure.chart:not([data-drawn])")) {
    if (f.checkVisibility()) { f.scrollIntoView({ behavior: "instant" }); return false; }
  }
  scrollTo({ top: 0, behavior: "instant" });
  return true;
}"""
FOLLOWED = """(width) => new Promise((done) => {
  let steady = 0, before = "";
  const look = () => {
    const now = `${innerWidth} ${document.documentElement.offsetHeight}`;
    steady = innerWidth === width && now === before ? steady + 1 : 0;
    before = now;
    if (steady >= 3) done();
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""
BOXES = """() => {
  const parts = "header.bar, nav.pages, main, main > header, .page-head, section, article, form, figure, table, canvas, .panels,"
    + " .columns, .said-error";
  const seen = [...document.querySelectorAll(parts)].filter((e) => e.checkVisibility());
  const within = (e, at) => {
    const flow = e.closest(".panels.flow");
    const panel = flow && e !== flow && e.closest(".panels.flow > *").getBoundingClientRect();
    if (!panel) return at.left;
    const step = panel.width + parseFloat(getComputedStyle(flow).columnGap);
    return ((panel.left - flow.getBoundingClientRect().left) % step) + at.left - panel.left;
  };
  const gap = (e, at) => {
    const sibling = e.previousElementSibling;
    if (!sibling || !sibling.checkVisibility() || e.closest(".panels.flow")) return null;
    const above = sibling.getBoundingClientRect();
    const apart = at.top - above.bottom;
    return above.height && apart > -1 && apart < 200 && above.left < at.right && at.left < above.right ? Math.round(apart) : null;
  };
  return seen.map((e) => {
    const at = e.getBoundingClientRect();
    const id = e.id && !/\\d/.test(e.id) ? "#" + e.id : "";
    const kinds = [...e.classList].filter((c) => c !== "found" && c !== "absent").slice(0, 2);
    const name = e.tagName.toLowerCase() + id + kinds.map((c) => "." + c).join("");
    return [name, Math.round(within(e, at)), Math.round(at.width), gap(e, at)];
  });
}"""


def shown(page: Any, name: str) -> None:
    """Open a page and wait until it is whole; every figure is scrolled to once, so that all are drawn."""
    page.go(PAGES[name])
    until(page, "document.readyState === 'complete' && !document.querySelector('.waiting, .htmx-request')", 90)
    end = time.monotonic() + 60
    while not page.evaluate(EACH_SEEN):
        assert time.monotonic() < end, "a chart is not drawn"
        page.wait_for_timeout(20)
    until(page, READY, 60)


def at(page: Any, width: int, theme: str) -> None:
    """Another width and theme, and frames until nothing follows them any more."""
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.evaluate(FOLLOWED, width)
    until(page, READY, 60)
    page.evaluate(FOLLOWED, width)


def boxes(page: Any) -> list[list[Any]]:
    """Name, left edge, width and gap above of every part, in the order of the page."""
    return page.evaluate(BOXES)


def moved(found: list[list[Any]], kept: list[list[Any]]) -> list[str]:
    """What differs: parts that came or went, and parts further from where they were than fonts push them."""
    if (names := [box[0] for box in found]) != (before := [box[0] for box in kept]):
        return [f"parts {sorted(set(names) ^ set(before)) or names}"]
    return [f"{now} was {was}" for now, was in zip(found, kept, strict=True) if not _near(now[1:], was[1:])]


def _near(now: list[Any], was: list[Any]) -> bool:
    """Whether edge, width and gap are nearly the same; a gap that only one of them has says nothing."""
    far = max(NEAR, PART * was[1])
    gaps = now[2] is None or was[2] is None or abs(now[2] - was[2]) <= NEAR
    return gaps and abs(now[0] - was[0]) <= far and abs(now[1] - was[1]) <= far


def wider(page: Any) -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate("Math.max(0, document.scrollingElement.scrollWidth - innerWidth)")


def picture(page: Any) -> bytes:
    """The window as a PNG."""
    return page.screenshot(animations="disabled", caret="hide")


COARSE = """async ([one, other, block, far]) => {
  const read = async (text) => {
    const image = new Image();
    image.src = "data:image/png;base64," + text;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = Math.ceil(image.width / block);
    canvas.height = Math.ceil(image.height / block);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return context.getImageData(0, 0, canvas.width, canvas.height).data;
  };
  const [a, b] = await Promise.all([read(one), read(other)]);
  return a.length !== b.length ? Infinity : a.reduce((n, v, i) => n + (Math.abs(v - b[i]) > far), 0);
}"""


def apart(page: Any, one: bytes, other: bytes) -> int:
    """How many blocks of 8 pixels have another colour. Coarse, since the browser itself paints edges by fractions of a pixel."""
    return page.evaluate(COARSE, [*(base64.b64encode(data).decode() for data in (one, other)), 8, 32])


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
