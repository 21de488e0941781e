"""The report in a real browser: silent, offline, complete, readable at every width, and deaf to hostile names."""

import dataclasses
import json

import numpy as np
import pytest

from conceptlab.atlas.table import number, summary_rows
from conceptlab.plot.naming import visible

from . import synthetic

pytestmark = pytest.mark.browser
PAYLOADS = ("<script>window.ran=1</script>", "</script><script>window.ran=1</script>", "<img src=x onerror=window.ran=1>",
            '" onmouseover="window.ran=1" x="', "'-window.ran-'", "${window.ran=1}", "{{ window.ran }}", "<!--<script>",
            "javascript:window.ran=1", "]]><svg onload=window.ran=1>", "\\u003cscript>", "datum.x", "https://example.org/x.png",
            "\x1b[31mred\x1b]8;;http://x\x07", "a\u202edcba", "a\u200bb\u2066c", "\u2028\u2029", "\x00\x07", "%3Cscript%3E",
            "constructor", "__proto__")  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    return synthetic.atlas(synthetic.NAMES[:1] + synthetic.NAMES[-1:])


@pytest.fixture(scope="module")
def path(whole, tmp_path_factory):
    return whole.report(tmp_path_factory.mktemp("report") / "report.html")


class Opened:
    """A page with everything that it said and asked for."""

    def __init__(self, browser, path, *, width=1280, scheme="light"):
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.said, self.asked = [], []
        self.page.on("console", lambda m: self.said.append(m.text))
        self.page.on("pageerror", lambda e: self.said.append(str(e)))
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.goto(path.as_uri())

    def drawn(self):
        return self.page.locator('figure[data-drawn="yes"]').count()

    def scroll_through(self, most=100):
        figures = self.page.locator("figure.chart")
        for i in range(min(figures.count(), most)):
            figures.nth(i).scroll_into_view_if_needed()
            self.page.wait_for_function("i => document.querySelectorAll('figure.chart')[i].dataset.drawn", arg=i)
        return figures.count()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.page.close()


def test_silent_offline_and_drawn_when_seen(browser, path):
    with Opened(browser, path) as opened:
        opened.page.wait_for_selector("figure[data-drawn]")
        before = opened.drawn()
        n = opened.scroll_through()
        assert n == 10 and 0 < before < n and opened.drawn() == n
        assert opened.said == []
        assert opened.asked == [path.as_uri()]
        marks = opened.page.evaluate(
            "[...document.querySelectorAll('.drawing')].map(d => d.querySelectorAll('path').length)"
        )
        assert min(marks) > 10


def test_the_numbers_are_those_of_the_atlas(browser, path, whole):
    with Opened(browser, path) as opened:
        lines = opened.page.locator("table.summary tbody tr")
        for i, (concept, row) in enumerate(zip(whole.concepts, summary_rows(whole), strict=True)):
            text = lines.nth(i).inner_text()
            assert ("not found" in text) == (not concept.found)
            for value in (
                concept.score,
                concept.control,
                concept.effect,
                concept.effect_control,
                *concept.score_interval,
            ):
                assert number(value) in text
            for word in (
                row.name,
                row.q,
                row.best_layer,
                row.score_interval,
                row.effect_interval,
                *row.top_heads.split(),
            ):
                assert word in text
            block = opened.page.locator(f"#{concept.name}-depth script").text_content()
            rows = json.loads(block)["spec"]["datasets"]["rows"]
            np.testing.assert_allclose([r["score"] for r in rows], concept.depth["score"].values, rtol=1e-5)


def test_fits_every_width_and_both_themes(browser, path):
    for width, scheme in ((400, "dark"), (2560, "light")):
        with Opened(browser, path, width=width, scheme=scheme) as opened:
            opened.scroll_through()
            assert opened.page.evaluate("document.documentElement.scrollWidth") == width
            over = "[...document.querySelectorAll('.drawing')].filter(d => d.scrollWidth > d.clientWidth + 1).length"
            assert opened.page.evaluate(over) == 0
            assert opened.said == []


def test_the_theme_follows_the_reader(browser, path):
    ink = "getComputedStyle(document.querySelector('#depth_map .drawing text')).fill"
    with Opened(browser, path) as opened:
        opened.page.wait_for_selector("#depth_map .drawing text")
        light = opened.page.evaluate(f"[getComputedStyle(document.body).backgroundColor, {ink}]")
        opened.page.emulate_media(color_scheme="dark")
        opened.page.wait_for_function(f"before => {ink} !== before", arg=light[1])
        dark = opened.page.evaluate(f"[getComputedStyle(document.body).backgroundColor, {ink}]")
        assert sum(map(int, dark[0][4:-1].split(","))) < 150 < 600 < sum(map(int, light[0][4:-1].split(",")))


def test_keyboard_reaches_links_tables_and_buttons(browser, path):
    with Opened(browser, path) as opened:
        seen = []
        for _ in range(40):
            opened.page.keyboard.press("Tab")
            seen.append(opened.page.evaluate("(document.activeElement.textContent || '').trim().slice(0, 30)"))
            if seen[-1] == "Numbers":
                break
        assert seen[0] == "Skip to the summary" and "Summary" in seen and seen[-4:] == ["PNG", "SVG", "CSV", "Numbers"]
        opened.page.keyboard.press("Enter")
        table = opened.page.locator("#depth_map .numbers table")
        assert table.is_visible() and table.locator("tbody tr").count() == 18
        opened.page.keyboard.press("Enter")
        assert not table.is_visible()


def test_charts_are_saved_from_the_page(browser, path, whole, tmp_path):
    starts = {"png": b"\x89PNG", "svg": b"<svg", "csv": b"at,layer,score"}
    with Opened(browser, path) as opened:
        opened.scroll_through()  # charts that are still being drawn move the buttons below them
        for kind, start in starts.items():
            with opened.page.expect_download() as caught:
                opened.page.click(f"#animal-depth button[data-save={kind}]")
            assert caught.value.suggested_filename == f"animal-depth.{kind}"
            caught.value.save_as(tmp_path / kind)
            assert (tmp_path / kind).read_bytes().startswith(start), kind
        assert opened.said == []
    assert "Readable" in (tmp_path / "svg").read_text() or "readable" in (tmp_path / "svg").read_text()
    lines = (tmp_path / "csv").read_text().splitlines()
    shown = [float(line.split(",")[2]) for line in lines[1:]]
    np.testing.assert_allclose(shown, whole.concepts[0].depth["score"].values, rtol=1e-5)


def test_prints_with_every_chart(browser, path, tmp_path):
    with Opened(browser, path) as opened:
        opened.page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert (tmp_path / "report.pdf").stat().st_size > 50_000
        assert opened.drawn() == opened.page.locator("figure.chart").count()


def test_hovering_tells_the_exact_numbers(browser, path, whole):
    with Opened(browser, path) as opened:
        opened.page.locator("#animal-depth").scroll_into_view_if_needed()
        opened.page.wait_for_selector("#animal-depth[data-drawn] .drawing svg")
        opened.page.locator("#animal-depth .drawing .mark-rect path").last.hover()
        tip = opened.page.locator(".vg-tooltip.visible")
        tip.wait_for()
        assert f"{float(whole.concepts[0].depth['score'][-1]):.4f}" in tip.inner_text().replace("\t", " ")


def test_the_policy_forbids_what_the_page_does_not_need(browser, path):
    with Opened(browser, path) as opened:
        opened.page.evaluate(
            """() => {
                const script = document.createElement("script");
                script.textContent = "window.ran = 1";
                document.body.append(script);
                document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.ran=1'><img src='https://example.org/'>");
            }"""
        )
        opened.page.wait_for_timeout(200)
        assert opened.page.evaluate("window.ran") is None
        assert sum("Content Security Policy" in line for line in opened.said) >= 3
        with pytest.raises(Exception, match="Content Security Policy"):
            opened.page.add_script_tag(content="window.ran = 1")


def test_hostile_names_are_only_shown(browser, whole, tmp_path):
    plain = dataclasses.replace(whole.concepts[0], heads=None, neurons=None)
    notes = tuple(f"{a}{b}{i}" for i in range(5) for a in PAYLOADS for b in PAYLOADS)
    concepts = tuple(
        dataclasses.replace(plain, name=name, class_names=(name, name[::-1]), top_heads=(name,), warnings=(name,))
        for name in PAYLOADS
    )
    concepts = (*concepts, dataclasses.replace(plain, name="last", warnings=notes))
    envelope = dataclasses.replace(whole.provenance, settings={name: name for name in PAYLOADS}, warnings=PAYLOADS)
    model = {**whole.model, "name": PAYLOADS[1]}
    hostile = dataclasses.replace(whole, concepts=concepts, model=model, provenance=envelope, geometry=None)
    with Opened(browser, hostile.report(tmp_path / "report.html")) as opened:
        assert opened.scroll_through(most=7) == 1 + 2 * len(concepts)
        assert opened.page.evaluate("window.ran") is None
        assert opened.said == [] and len(opened.asked) == 1
        assert opened.page.locator("h3").all_text_contents() == [visible(c.name) for c in concepts]
        assert opened.page.locator("h1").text_content() == visible(PAYLOADS[1])
        assert opened.page.locator("article").last.locator(".warning").all_text_contents() == [
            visible(n, 400) for n in notes
        ]
        assert len(notes) > 2000
