"""Pages at three widths, light and dark: no wider than the window, laid out as the reference says, and fit for paper.

With CONCEPTLAB_PICTURES=all a fresh browser context must paint the same pictures again. `python -m tests.web.references` writes
the references again.
"""

import os

import pytest

from tests.web import pictures
from tests.web.conftest import opened

pytestmark = pytest.mark.browser
ALL = os.environ.get("CONCEPTLAB_PICTURES") == "all"
RENEW = os.environ.get("CONCEPTLAB_REFERENCES") == "renew"
SETTINGS = [(width, theme) for width in pictures.WIDTHS for theme in pictures.THEMES]
HIGHEST = 4_000_000  # bytes of a PDF


def taken(page, name, settings) -> dict:
    """Digest and boxes of the page at each setting."""
    found = {}
    for width, theme in settings:
        pictures.at(page, width, theme)
        assert pictures.wider(page) == 0, (name, width)
        found[width, theme] = (pictures.digest(pictures.picture(page)), pictures.boxes(page))
    return found


@pytest.mark.parametrize("name", pictures.PAGES)
def test_a_page_looks_as_it_did(browser, server, name) -> None:
    with opened(browser, server.url) as page:
        pictures.shown(page, name)
        first = taken(page, name, SETTINGS)
        printed(page, name)
    if ALL:
        with opened(browser, server.url) as page:
            pictures.shown(page, name)
            second = taken(page, name, SETTINGS)
        assert [setting for setting in SETTINGS if first[setting][0] != second[setting][0]] == [], (
            "the picture flickers"
        )
    assert len({digest for digest, _ in first.values()}) == len(SETTINGS), "blank, or dark as light"
    for width in pictures.WIDTHS:
        boxes = first[width, "light"][1]
        assert boxes == first[width, "dark"][1], "the theme moves the page"
        assert len(boxes) >= 4
        if RENEW:
            pictures.renew(name, width, boxes)
        assert boxes == pictures.references()[name][str(width)], f"{name} at {width}: python -m tests.web.references"


PAPER = """() => {
  const seen = (s) => [...document.querySelectorAll(s)].filter((e) => e.checkVisibility());
  const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).reduce((a, v) => a + Number(v), 0) / 3;
  const canvases = seen("main canvas").filter((c) => c.width * c.height > 4000).map((c) => {
    const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
    let dark = 0, ink = 0;
    for (let i = 0; i < d.length; i += 4) { if (d[i + 3] > 128) { ink += 1; if (d[i] + d[i + 1] + d[i + 2] < 120) dark += 1; } }
    return [ink, dark / Math.max(1, ink)];
  });
  return {
    controls: seen("nav, .bar, .tools, button.do, button.plain").length,
    ground: light(getComputedStyle(document.body).backgroundColor),
    ink: light(getComputedStyle(document.body).color),
    panels: seen(".panel, figure.chart").map((e) => light(getComputedStyle(e).backgroundColor)),
    words: seen("figure.chart svg text").map((e) => light(getComputedStyle(e).fill)),
    wider: seen("main *").filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".sr, svg"))
      .map((e) => e.outerHTML.slice(0, 90)),
    cut: seen("main *").filter((e) => getComputedStyle(e).overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1
      && !e.matches(".sr, select, input, textarea")).map((e) => e.outerHTML.slice(0, 90)),
    empty: canvases.filter(([ink]) => !ink).length, black: Math.max(0, ...canvases.map(([, dark]) => dark)),
    charts: seen("figure.chart svg").length,
  };
}"""


def printed(page, name) -> None:
    """A dark page on paper: dark words on white, no controls, every chart, nothing cut off."""
    pictures.at(page, 1280, "dark")
    charts = page.evaluate("[...document.querySelectorAll('figure.chart')].filter((f) => f.checkVisibility()).length")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.set_viewport_size({"width": 700, "height": pictures.HEIGHT})
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.evaluate("() => new Promise((d) => setTimeout(d, 150))")
    found = page.evaluate(PAPER)
    assert found["controls"] == 0 and found["wider"] == [] and found["cut"] == [], (name, found)
    assert found["ground"] > 250 and found["ink"] < 60 and all(v > 230 for v in found["panels"]), (name, found)
    assert found["charts"] >= charts and all(v < 140 for v in found["words"]), (name, found)
    assert found["empty"] == 0 and found["black"] < 0.5, (name, found)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.emulate_media(media="screen")
    made = page.pdf(format="A4")
    assert (
        made.startswith(b"%PDF")
        and len(made) < HIGHEST
        and made.count(b"/Type /Page\n") + made.count(b"/Type /Page ") >= 1
    )
