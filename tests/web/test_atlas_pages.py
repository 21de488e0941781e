"""Home, Concept, Compare and Papers in a real browser: their numbers are the atlas's, and everything answers."""

import csv
import dataclasses
import json
import urllib.request
from pathlib import Path
from urllib.parse import urlencode
from xml.etree import ElementTree

import numpy as np
import pytest

from conceptlab.atlas.saving import concept_folder, slug
from conceptlab.atlas.sealing import write_sealed
from conceptlab.atlas.table import number, summary_row
from conceptlab.atlas.words import findings
from conceptlab.catalog import papers
from conceptlab.catalog.numbers import numbers
from conceptlab.web.desk import open_desk
from tests.atlas import synthetic

from .conftest import Served, opened

pytestmark = pytest.mark.browser
HOSTILE = (
    "</script><script>window.ran=1</script>",
    "<img src=x onerror=window.ran=1>",
    "a\u202edcba",
    "\x1b[31mred",
    "{{ 1 }}",
)
PAGES = (
    "/?atlas=syn",
    "/concept?atlas=syn&concept=plural",
    "/compare?atlas=syn&other=other",
    "/papers",
    "/papers?id=analogies",
)


@pytest.fixture(scope="module")
def whole():
    return synthetic.atlas()


@pytest.fixture(scope="module")
def syn(whole, tmp_path_factory):
    """A viewer without a model over atlases that are whole, changed, old, broken and hostile."""
    home = tmp_path_factory.mktemp("pages")
    whole.save(home / "syn")
    changed = dataclasses.replace(whole.concepts[1], score=0.55, score_interval=(0.5, 0.6))
    dataclasses.replace(whole, concepts=(whole.concepts[0], changed, *whole.concepts[2:])).save(home / "other")
    few = dataclasses.replace(whole, concepts=whole.concepts[:3], geometry=None)
    few.save(home / "old")
    manifest = home / "old" / "manifest.json"
    record = {k: v for k, v in json.loads(manifest.read_bytes()).items() if k not in ("overview", "schema", "sha256")}
    write_sealed(manifest, record)
    few.save(home / "broken")
    next(concept_folder(home / "broken", "animal").rglob("depth/data.zarr/score/c/0")).write_bytes(b"x")
    (concept_folder(home / "broken", "sentiment") / "concept.json").write_bytes(b"{}")
    few.save(home / "newer")
    (home / "newer" / "manifest.json").write_text('{"kind": "atlas", "schema": 99}')
    bad = [
        dataclasses.replace(whole.concepts[0], name=name, class_names=(name, "b"), warnings=(name,)) for name in HOSTILE
    ]
    dataclasses.replace(few, concepts=tuple(bad), model={**whole.model, "name": HOSTILE[0]}).save(home / "hostile")
    served = Served(open_desk([home / n for n in ("syn", "other", "old", "broken", "newer", "hostile")]))
    yield served
    served.close()


@pytest.fixture
def view(browser, syn):
    with opened(browser, syn.url) as page:
        yield page


def twin(served, path):
    with urllib.request.urlopen(f"{served.url}{path}{'&' if '?' in path else '?'}as=json") as answer:
        return json.loads(answer.read())


def painted(page):
    page.wait_for_selector(".heat[data-painted]")
    return page.locator(".heat-box canvas")


def colours(page, places):
    """The canvas' colours at places in CSS pixels, read at once."""
    return page.evaluate(
        "places => { const c = document.querySelector('.heat-box canvas'), r = devicePixelRatio;"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return places.map(([x, y]) => 4 * (Math.round(y * r) * c.width + Math.round(x * r))).map(i => [...d.slice(i, i + 3)]) }",
        places,
    )


def test_home_says_the_numbers_of_the_atlas(view, syn, whole):
    told = twin(syn, "/?atlas=syn")
    assert told["atlas"]["facts"] == {
        "layers": 8,
        "heads a layer": 8,
        "d_model": 24,
        "neurons a layer": 43,
        "concepts": 10,
        "texts": 400,
    }
    assert told["atlas"]["lede"].startswith("9 of 10 concepts")
    assert [c["found"] for c in told["heat"]["concepts"]] == [c.found for c in whole.concepts]
    url = told["heat"]["url"] + "&as=slice&name=curves"
    with urllib.request.urlopen(syn.url + url) as answer:
        shape = tuple(map(int, answer.headers["X-Shape"].split(",")))
        curves = np.frombuffer(answer.read(), "<f8").reshape(shape)
    assert shape == (4, 10, 9)
    for i, concept in enumerate(whole.concepts):
        for column, name in enumerate(told["heat"]["curves"]):
            np.testing.assert_array_equal(curves[column, i], concept.depth[name].values)
    view.go("/?atlas=syn")
    lines = {row.locator("th bdi").inner_text(): row.inner_text() for row in view.locator(".summary tbody tr").all()}
    for concept in whole.concepts:
        row = summary_row(concept)
        for word in (
            row.score,
            row.score_interval,
            row.control,
            row.effect,
            row.effect_control,
            row.q,
            *row.top_heads.split(),
        ):
            assert word in lines[concept.name]
    assert [r.get_attribute("class") for r in view.locator(".summary tbody tr").all()].count("found") == 9


def test_a_cell_of_the_map_tells_its_numbers_and_opens_its_concept(view, syn, whole):
    view.go("/?atlas=syn&sort=order")
    box = painted(view).bounding_box()
    label = min(220, max(120, box["width"] * 0.18))
    cell = (box["width"] - label - 12) / 9
    x, y = label + 4.5 * cell, 30 + 2.5 * 26
    view.mouse.move(box["x"] + x, box["y"] + y)
    view.wait_for_selector(".tip:not([hidden])")
    told, concept = view.locator(".tip:not([hidden])").inner_text(), whole.concepts[2]
    assert concept.name in told and "layer 3" in told
    assert f"{concept.depth['score'].values[4]:.3f}" in told and f"{concept.depth['control'].values[4]:.3f}" in told
    strong, weak = colours(view, [(label + 8.5 * cell + 4, y), (label + 0.5 * cell, y)])
    assert strong != weak
    view.mouse.click(box["x"] + x, box["y"] + y)
    view.wait_for_url(f"**/concept?atlas=syn&concept={slug(concept.name)}&layer=3")
    assert "At layer 3" in view.locator("#at-layer-title").inner_text()


def test_the_map_answers_the_keyboard(view, whole):
    view.go("/?atlas=syn&sort=order")
    painted(view)
    view.locator(".heat-box").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        view.keyboard.press(key)
    said = view.locator("[data-heat-said]").inner_text()
    assert whole.concepts[1].name in said and "layer 0" in said
    view.keyboard.press("Enter")
    view.wait_for_url(f"**/concept?atlas=syn&concept={slug(whole.concepts[1].name)}&layer=0")


def test_search_order_and_control_change_map_table_and_address(view, whole):
    view.go("/?atlas=syn")
    painted(view)
    height = view.locator(".heat-box").bounding_box()["height"]
    before = view.locator(".heat-box").screenshot()
    view.locator("input[name=find]").fill("NUM")
    view.wait_for_function("() => document.querySelectorAll('.summary tbody tr').length === 1")
    assert "1 of 10 concepts" in view.locator("[data-heat-count]").inner_text() and "find=num" in view.url.lower()
    assert view.locator(".heat-box").bounding_box()["height"] < height
    view.locator("input[name=find]").fill("")
    view.wait_for_function("() => document.querySelectorAll('.summary tbody tr').length === 10")
    view.locator("select[name=sort]").select_option("name")
    view.wait_for_function("() => document.querySelectorAll('.summary tbody tr bdi')[1].innerText === 'number_parity'")
    names = [e.inner_text() for e in view.locator(".summary tbody th bdi").all()]
    assert names == sorted(c.name for c in whole.concepts)
    view.locator("input[value=control]").check()
    view.wait_for_function("() => document.querySelector('[data-heat-what]').innerText.includes('shuffled')")
    assert view.locator(".heat-box").screenshot() != before
    view.reload()
    painted(view)
    assert (
        view.locator("input[value=control]").is_checked() and view.locator("select[name=sort]").input_value() == "name"
    )


def test_the_map_is_saved(view, whole, tmp_path):
    view.go("/?atlas=syn&sort=order")
    painted(view)
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<svg"), ("csv", b"concept,layer")):
        with view.expect_download() as caught:
            view.locator(f"[data-heat-save={kind}]").click()
        assert caught.value.suggested_filename == f"depth_map.{kind}"
        caught.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().startswith(start)
    rows = list(csv.DictReader((tmp_path / "csv").open()))
    drawn = ElementTree.fromstring((tmp_path / "svg").read_bytes())
    kinds = {name: list(drawn.iter(f"{{http://www.w3.org/2000/svg}}{name}")) for name in ("rect", "text", "circle")}
    cells = [rect for rect in kinds["rect"] if rect.get("fill", "").startswith("rgb")]
    assert len(rows) == len(cells) == 90 and {c.name for c in whole.concepts} <= {text.text for text in kinds["text"]}
    assert len(kinds["circle"]) == 2 * sum(c.found for c in whole.concepts)  # filled, and a rim: where it is best read
    shown = [float(r["score"]) for r in rows if r["concept"] == "plural"]
    np.testing.assert_array_equal(shown, next(c for c in whole.concepts if c.name == "plural").depth["score"].values)


def test_a_concept_says_the_numbers_of_the_atlas(view, syn, whole):
    concept = next(c for c in whole.concepts if c.name == "plural")
    told = twin(syn, "/concept?atlas=syn&concept=plural&layer=2")
    assert told["concept"]["score"] == concept.score and told["concept"]["effect_interval"] == list(
        concept.effect_interval
    )
    assert told["layer"]["numbers"]["score"] == float(concept.depth["score"].values[3])
    assert told["layer"]["numbers"]["shuffled labels, mean"] == float(concept.depth["control"].values[3])
    assert [f"{u['unit']}.z" for u in told["heads"][:3]] == list(concept.top_heads)
    view.go("/concept?atlas=syn&concept=plural")
    text = view.locator("main").inner_text()
    for said in findings(concept, 10).values():
        assert " ".join(said.split()) in " ".join(text.split())
    best = concept.depth.data.sel(layer=concept.best_layer)
    for column in ("noised", "quantised"):
        assert number(float(best[column])) in view.locator(".says.under").first.inner_text()
    figures = view.locator("figure.chart")
    for i in range(figures.count()):
        figures.nth(i).scroll_into_view_if_needed()
        view.wait_for_function("i => document.querySelectorAll('figure.chart')[i].dataset.drawn", arg=i)
    assert figures.count() == 5 and view.locator('figure[data-drawn="yes"]').count() == 5
    rows = json.loads(view.locator("#depth script").text_content())["spec"]["datasets"]["rows"]
    np.testing.assert_allclose([r["score"] for r in rows], concept.depth["score"].values, rtol=1e-5)
    assert "started without one" in view.locator("#tokens").inner_text()
    assert "started without one" in view.locator("#examples").inner_text()


def test_layers_units_and_neighbours_are_links(view, whole):
    concept = next(c for c in whole.concepts if c.name == "plural")
    view.go("/concept?atlas=syn&concept=plural")
    view.locator(".layers a", has_text="2").click()
    view.wait_for_function("() => document.querySelector('#at-layer-title').innerText.includes('layer 2')")
    assert "layer=2" in view.url
    view.wait_for_function("() => document.querySelector('nav.pages a[href^=\"/prompt\"]').href.includes('layer=2')")
    shown = view.locator("dl.at-layer div", has=view.locator("dt", has_text="score")).first.locator("dd").inner_text()
    assert shown == number(float(concept.depth["score"].values[3]))
    first = view.locator(".units a").first
    layer, head = first.inner_text()[1:].split(".H")
    assert first.get_attribute("href") == f"/unit?atlas=syn&layer={layer}&head={head}"
    view.locator("a[rel=next]").click()
    view.wait_for_url("**concept=second_hop")
    view.go_back()
    view.locator("#heads").scroll_into_view_if_needed()
    view.wait_for_selector("#heads[data-drawn] .mark-rect path")
    mark = view.locator(f"#heads .mark-rect path[aria-label*='layer: {layer}; head: {head};']").first
    mark.click(force=True)
    view.wait_for_url(f"**/unit?atlas=syn&layer={layer}&head={head}")
    view.problems.clear()  # that page has tests of its own


def test_compare_shows_the_planted_difference_first(view, whole):
    view.go("/compare?atlas=syn&other=other")
    row = view.locator("table.compare tbody tr").first
    changed = whole.concepts[1]
    assert changed.name in row.inner_text() and f"{0.55 - changed.score:+.3f}" in row.inner_text()
    assert "scores of 1 of 10 differ" in view.locator(".lede").inner_text()
    view.wait_for_selector("#scores[data-drawn=yes]")
    view.locator("select[name=other]").select_option("old")
    view.locator("button.do").click()
    view.wait_for_url("**other=old**")
    assert view.locator("table.compare tbody tr").count() == 3


def test_papers_are_the_rows_of_the_catalogue(view, syn):
    rows = papers()
    view.go("/papers")
    assert view.locator(".papers tbody tr").count() == len(rows) == 150
    works = [row for row in rows if row.state == "works"]
    view.locator("select[name=state]").select_option("works")
    view.wait_for_function(f"() => document.querySelectorAll('.papers tbody tr').length === {len(works)}")
    probes = [row for row in works if row.family == "probe"]
    view.locator("select[name=family]").select_option("probe")
    view.wait_for_function(f"() => document.querySelectorAll('.papers tbody tr').length === {len(probes)}")
    id, measured = next(iter(numbers().items()))
    view.go(f"/papers?{urlencode({'id': id})}")
    text = view.locator("main").inner_text()
    for finding in measured["findings"]:
        assert finding["name"] in text and number(finding["value"]) in text and number(finding["control"]) in text
    assert f"conceptlab reproduce {id}" in text
    assert twin(syn, f"/papers?{urlencode({'id': id})}")["paper"]["measured"] == measured


def test_an_atlas_of_before_is_read_in_the_background(view, whole):
    view.go("/?atlas=old")
    painted(view)
    assert "3 concepts by 9 layers" in view.locator("[data-heat-count]").inner_text()
    view.go("/?atlas=old")
    assert view.locator(".heat").count() == 1
    assert view.locator(".lede").inner_text().startswith("3 of 3")


def test_broken_atlases_are_shown_as_far_as_they_go(view):
    view.go("/?atlas=newer")
    assert "newer conceptlab" in view.locator(".said-error").inner_text()
    view.go("/?atlas=broken")
    painted(view)
    assert "is broken" in view.locator("[data-broken=sentiment]").inner_text()
    assert view.locator(".summary tbody tr").count() == 2
    view.go("/concept?atlas=broken&concept=animal")
    assert "data.zarr/score/c/0 is damaged" in view.locator("[data-broken=depth]").inner_text()
    assert view.locator("#depth").count() == 0 and view.locator("#heads").count() == 1
    view.problems.clear()
    view.go("/concept?atlas=broken&concept=sentiment")
    assert "no saved concept" in view.locator(".said-error").inner_text()
    view.go("/concept?atlas=syn&concept=nobody")
    assert "no concept 'nobody'" in view.locator(".said-error").inner_text()
    view.problems.clear()  # the answers 400 and 404 are told by the console


def test_hostile_names_are_only_shown(view):
    view.go("/?atlas=hostile")
    painted(view)
    assert view.locator("h1").inner_text() == HOSTILE[0]
    names = [e.inner_text() for e in view.locator(".summary tbody th bdi").all()]
    assert sorted(names) == sorted(n.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b") for n in HOSTILE)
    for name in HOSTILE:
        view.go(f"/concept?{urlencode({'atlas': 'hostile', 'concept': name})}")
        assert view.locator("h1").inner_text() in names
        view.locator("#depth").scroll_into_view_if_needed()
        view.wait_for_selector("#depth[data-drawn=yes]")
    assert view.evaluate("window.ran") is None


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (2560, "light")])
def test_fits_every_width_and_both_themes(browser, syn, width, scheme):
    with opened(browser, syn.url, color_scheme=scheme) as page:
        page.set_viewport_size({"width": width, "height": 900})
        for path in PAGES:
            page.go(path)
            page.wait_for_function(
                "() => ![...document.querySelectorAll('figure.chart')].length || document.querySelector('[data-drawn]')"
            )
            assert page.evaluate("document.documentElement.scrollWidth") == width, path
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 20)"
            assert dark == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_finds_nothing_serious(browser, syn, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    ).Axe()
    with opened(browser, syn.url, color_scheme=scheme) as page:
        for path in PAGES:
            page.go(path)
            page.wait_for_function(
                "() => ![...document.querySelectorAll('figure.chart')].length || document.querySelector('[data-drawn]')"
            )
            found = [v for v in axe.run(page).response["violations"] if v["impact"] in ("serious", "critical")]
            assert not found, (path, [(v["id"], [n["html"][:160] for n in v["nodes"][:3]]) for v in found])


def test_the_switch_of_themes_redraws(view):
    view.go("/concept?atlas=syn&concept=plural")
    view.wait_for_selector("#depth[data-drawn] svg text")
    ink = "getComputedStyle(document.querySelector('#depth svg text')).fill"
    before = view.evaluate(ink)
    view.locator("summary").first.click()
    for _ in range(2):
        view.locator("[data-act=theme]").click()
    view.wait_for_function(f"b => document.querySelector('#depth svg text') && {ink} !== b", arg=before)
    assert view.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_keyboard_reaches_what_the_mouse_does(view):
    view.go("/?atlas=syn")
    painted(view)
    seen = []
    for _ in range(60):
        view.keyboard.press("Tab")
        seen.append(
            view.evaluate(
                "(e => e.className + ' ' + (e.name || '') + ' ' + e.textContent.trim().slice(0, 20))(document.activeElement)"
            )
        )
    told = "\n".join(seen)
    for word in ("skip", "find", "sort", "show", "heat-box", "PNG", "animal"):
        assert word in told, word


def test_live_panels_read_the_model(page, desk):
    shelf = desk.atlas()
    id = next(iter(shelf.concepts))
    page.go(f"/concept?atlas={shelf.id}&concept={id}")
    page.wait_for_selector(".token-list li")
    assert page.locator(".token-list li").count() == 24 and "Random directions" in page.locator("#tokens").inner_text()
    page.wait_for_selector(".examples li")
    values = [float(e.inner_text().replace("−", "-")) for e in page.locator(".example-value").all()]
    assert len(values) == 50 and values == sorted(values, reverse=True)
    assert page.locator(".example-text .read-here").count() == 50
    page.locator("#examples select[name=order]").select_option("low")
    page.wait_for_function("v => Number(document.querySelector('.example-value').innerText) < v", arg=min(values))
    word = desk.texts(shelf, shelf.concepts[id].name)[0].texts[3].split()[2]
    page.locator("#examples input[name=find]").fill(word)
    page.wait_for_function(
        "w => [...document.querySelectorAll('.example-text')].every(e => e.innerText.toLowerCase().includes(w))",
        arg=word.lower(),
    )


@pytest.mark.parametrize("path", ["/?atlas=syn", "/concept?atlas=syn&concept=plural", "/compare?atlas=syn&other=other"])
def test_a_page_is_one_file_that_works_offline(browser, syn, tmp_path, path):
    opened_offline(browser, saved(syn, path, tmp_path), heat=path.startswith("/?"))


def test_a_file_holds_its_live_panels(browser, server, desk, tmp_path):
    shelf = desk.atlas()
    path = saved(server, f"/concept?atlas={shelf.id}&concept={next(iter(shelf.concepts))}", tmp_path)
    text = path.read_text()
    assert text.count('class="example-text"') == 50 and text.count('class="token-text"') == 24 and "hx-get" not in text
    opened_offline(browser, path, heat=False)


def saved(served, path, folder) -> Path:
    with urllib.request.urlopen(f"{served.url}{path}&as=file") as answer:
        assert answer.headers["Content-Disposition"].startswith("attachment")
        (folder / "page.html").write_bytes(answer.read())
    return folder / "page.html"


def opened_offline(browser, path, *, heat):
    """Open a saved page with the network off: silent, drawn, and it asks for nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda m: said.append(m.text))
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("request", lambda r: asked.append(r.url))
    page.goto(path.as_uri())
    if heat:
        painted(page)
        page.locator("input[name=find]").fill("plural")
        page.wait_for_function("() => document.querySelector('[data-heat-count]').innerText.startsWith('1 of')")
    figures = page.locator("figure.chart")
    for i in range(figures.count()):
        figures.nth(i).scroll_into_view_if_needed()
        page.wait_for_function("i => document.querySelectorAll('figure.chart')[i].dataset.drawn", arg=i)
    assert page.locator('figure[data-drawn="yes"]').count() == figures.count()
    assert page.locator("a[href^='/']").count() == 0 and page.evaluate("document.documentElement.scrollWidth") == 1280
    assert not said and asked == [path.as_uri()]
    context.close()
