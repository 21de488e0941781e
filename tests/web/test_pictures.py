"""Pages at three widths, light and dark: no wider than the window, laid out as the reference says, and fit for paper.

The quick form opens each page once, in one window, at one narrow and one wide setting. CONCEPTLAB_PICTURES=all takes every page at
every width in both themes, and a fresh browser context must paint the same pictures again. `python -m tests.web.references` writes
the references again.
"""

import os

import pytest

from tests.web import pictures
from tests.web.conftest import opened

pytestmark = pytest.mark.browser
RENEW = os.environ.get("CONCEPTLAB_REFERENCES") == "renew"
ALL = RENEW or os.environ.get("CONCEPTLAB_PICTURES") == "all"
SETTINGS = [(width, theme) for width in pictures.WIDTHS for theme in pictures.THEMES]
HIGHEST = 4_000_000  # bytes of a PDF
PRINTED = ("concept", "prompt", "head", "circuit", "error")  # in the quick form


@pytest.fixture(scope="module")
def window(browser, server):
    """One page for all pages of the viewer."""
    with opened(browser, server.url) as page:
        yield page


def settings_of(name) -> list[tuple[int, str]]:
    """All six, or the narrow one in both themes and the two wide ones in turn."""
    wide = pictures.WIDTHS[1 + list(pictures.PAGES).index(name) % 2]
    return SETTINGS if ALL else [(wide, "light"), (400, "light"), (400, "dark")]


def opened_at(page, name, width, theme) -> None:
    """The page whole, opened at a setting; what the console says of an error page is that it is one."""
    page.emulate_media(color_scheme=theme, media="screen")
    page.set_viewport_size({"width": width, "height": pictures.HEIGHT})
    pictures.shown(page, name)
    if name == "error":
        page.problems[:] = [line for line in page.problems if "404 (Not Found)" not in line]
    assert not page.problems, page.problems


def taken(page, name) -> dict:
    """Picture and boxes of the page at each setting."""
    found = {}
    settings = settings_of(name)
    opened_at(page, name, *settings[0])
    for width, theme in settings:
        pictures.at(page, width, theme)
        assert pictures.wider(page) == 0, (name, width)
        found[width, theme] = (pictures.picture(page) if ALL or width == 400 else b"", pictures.boxes(page))
    return found


@pytest.mark.parametrize("name", pictures.PAGES)
def test_a_page_looks_as_it_did(browser, server, window, name) -> None:
    window.problems.clear()  # another page's
    first = taken(window, name)
    if ALL or name in PRINTED:
        printed(window, name)
    assert not window.problems, window.problems
    if ALL:
        with opened(browser, server.url) as page:
            second = taken(page, name)
        for setting in first:
            assert pictures.apart(window, first[setting][0], second[setting][0]) == 0, f"{name} flickers at {setting}"
    light, dark = (first[400, theme][0] for theme in pictures.THEMES)
    assert pictures.apart(window, light, dark) > 0.9 * 50 * pictures.HEIGHT / 8, "dark as light"
    for (width, theme), (_, boxes) in first.items():
        assert pictures.moved(boxes, first[width, "light"][1]) == [], f"the {theme} theme moves {name} at {width}"
        assert len(boxes) >= 4
        if RENEW and theme == "light":
            pictures.renew(name, width, boxes)
        moved = pictures.moved(boxes, pictures.references()[name][str(width)])
        assert moved == [], f"{name} at {width}; if that was meant: python -m tests.web.references"


MOVES = ("marginLeft", "marginRight", "marginTop", "width")


def test_a_part_moved_by_30_pixels_is_noticed(window) -> None:
    """Otherwise the test above says nothing."""
    opened_at(window, "head", 1280, "light")
    before = pictures.boxes(window)
    assert pictures.moved(pictures.boxes(window), before) == []
    for move in MOVES:
        for number in range(window.locator("main .panel").count() if ALL else 1):
            panel = window.locator("main .panel").nth(number)
            panel.evaluate("(e, m) => e.style[m] = m === 'width' ? `${e.offsetWidth - 30}px` : '30px'", move)
            assert pictures.moved(pictures.boxes(window), before) != [], (move, number)
            panel.evaluate("(e) => e.removeAttribute('style')")
    assert pictures.moved(pictures.boxes(window), before) == []


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
    panels: seen(".panel, figure.chart").map((e) => getComputedStyle(e).backgroundColor)
      .filter((c) => c !== "rgba(0, 0, 0, 0)").map(light),
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
    page.emulate_media(color_scheme="dark")
    charts = page.evaluate("[...document.querySelectorAll('figure.chart')].filter((f) => f.checkVisibility()).length")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.set_viewport_size({"width": 700, "height": pictures.HEIGHT})
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    pictures.until(page, "!document.querySelector('figure.chart[data-stale]')")
    page.evaluate(pictures.FOLLOWED, 700)
    found = page.evaluate(PAPER)
    assert found["controls"] == 0 and found["wider"] == [] and found["cut"] == [], (name, found)
    assert found["ground"] > 250 and found["ink"] < 60 and all(v > 230 for v in found["panels"]), (name, found)
    assert found["charts"] >= charts and all(v < 140 for v in found["words"]), (name, found)
    assert found["empty"] == 0 and found["black"] < 0.5, (name, found)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.emulate_media(media="screen")
    if not ALL and name != "circuit":
        return
    made = page.pdf(format="A4")
    assert (
        made.startswith(b"%PDF")
        and len(made) < HIGHEST
        and made.count(b"/Type /Page\n") + made.count(b"/Type /Page ") >= 1
    )
