"""The Prompt page in a real browser: what it shows is what the model gives, and every panel follows one selection."""

import base64
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

import numpy as np
import pytest

from conceptlab.measure.lenses.logit_lens import logit_lens
from tests.web.conftest import opened
from tests.web.prompt_models import fetch, random_model, served, until, word_tokenizer

pytestmark = pytest.mark.browser
TEXT = "Nina gave the bucket to Bella."
READY = """document.querySelectorAll(".waiting").length === 0 &&
  [...document.querySelectorAll("[data-widget]")].every((e) => e.dataset.ready) &&
  document.querySelectorAll(".prompt-attention[data-shown]").length === document.querySelectorAll(".prompt-attention").length"""


def settled(page) -> None:
    until(page, READY)


def shown_prompt(page, **selection) -> None:
    page.go(f"/prompt?{urlencode({'prompt': TEXT, **selection})}")
    settled(page)


def array(url: str, path: str, name: str) -> np.ndarray:
    return fetch(f"{url}{path}&as=slice&name={name}").array()


def test_all_panels_fill_without_a_word_in_the_console(page) -> None:
    shown_prompt(page)
    assert page.locator(".said-error").count() == 0
    chips = page.locator('#tokens [data-part="strip"] .chip')
    assert chips.all_text_contents() == ["<bos>", "Nina", "gave", "the", "bucket", "to", "Bella", "."]
    assert page.locator("canvas.grid-canvas").count() >= 2
    assert page.locator(".top-list li").count() == 5


def test_the_numbers_of_the_twin_are_those_of_the_method(server) -> None:
    path = f"/panel/lens?prompt={quote(TEXT)}"
    twin = fetch(f"{server.url}{path}&as=json").json()
    model = server.desk.live.model
    target = array(server.url, path, "target").astype(int)
    plain = logit_lens(model, TEXT, target, positions="all")
    found = array(server.url, path, "top_prob")
    np.testing.assert_allclose(found, plain["top_prob"].values, rtol=1e-4, atol=1e-6)
    assert np.array_equal(np.array(twin["values"]["top_prob"], dtype=np.float32), found), "unrounded"
    assert np.array_equal(array(server.url, path, "target_rank"), plain["target_rank"].values[..., 0])
    assert twin["tokens"] == ["<bos>", "Nina", "gave", "the", "bucket", "to", "Bella", "."]
    head = f"/panel/head?prompt={quote(TEXT)}&layer=3&head=2"
    weights = model.capture(TEXT, "pattern", layers=[3], positions="all")["pattern"][:, 0, 2].numpy()
    np.testing.assert_allclose(array(server.url, head, "exact"), weights, atol=1e-6)
    assert fetch(f"{server.url}{head}&as=json").json()["layer"] == 3


def test_what_the_lens_draws_is_what_it_holds(page, server) -> None:
    shown_prompt(page, layer=7, token=3)
    path = f"/panel/lens?prompt={quote(TEXT)}"
    ids, probs = array(server.url, path, "top_id")[8, 3], array(server.url, path, "top_prob")[8, 3]
    names = fetch(f"{server.url}{path}&as=json").json()["shown_names"]
    assert page.locator(".top-list bdi").all_text_contents() == [names[str(i)] for i in ids]
    shown = [float(t) for t in page.locator(".top-list .amount").all_text_contents()]
    np.testing.assert_allclose(shown, probs, atol=6e-4)
    for mode in ("entropy", "target_rank", "top_prob"):
        page.locator(f'[data-mode="{mode}"]').click()
        assert page.locator(f'[data-mode="{mode}"]').get_attribute("aria-pressed") == "true"
    page.locator('#lens [data-do="numbers"]').click()
    assert page.locator("#lens .numbers tbody tr").count() == 72


def test_one_selection_for_all_panels_and_in_the_address(page) -> None:
    shown_prompt(page)
    page.locator('#tokens [data-part="strip"] .chip').nth(3).click()
    until(page, "new URLSearchParams(location.search).get('token') === '3'")
    until(page, "document.querySelector('#contributions .facts-line')?.textContent.includes('token 3')")
    assert "After token 3" in page.locator("#lens .cell-detail").inner_text().replace("after", "After")
    assert "the (token 3)" in page.locator('[data-part="token-name"]').inner_text()
    page.locator(".heads-scroll").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('.prompt-attention')?.dataset.shown === '1.1'")
    assert page.locator('[data-part="head-link"]').inner_text() == "L1.H1"
    assert "/unit?layer=1&head=1" in page.locator('[data-part="head-link"]').get_attribute("href")
    address = page.url
    assert all(part in address for part in ("token=3", "layer=1", "head=1"))
    page.goto(address)
    settled(page)
    assert page.locator(".prompt-attention").get_attribute("data-shown") == "1.1"
    assert page.locator('#tokens .chip[aria-pressed="true"]').inner_text() == "the"


def test_a_word_of_the_lens_becomes_the_target(page) -> None:
    shown_prompt(page, token=3)
    word = page.locator(".top-list .token-pick").nth(1)
    name = word.inner_text()
    word.click()
    until(page, "new URLSearchParams(location.search).get('target')?.startsWith('#')")
    until(page, f"document.querySelector('[data-mode=target_rank]')?.textContent.includes({name!r})")
    until(page, f"document.querySelector('#contributions .facts-line')?.textContent.includes({name!r})")
    field = page.locator('.prompt-form input[name="target"]')
    field.fill("the cup")
    field.press("Tab")
    page.wait_for_selector("#lens .said-error")
    assert "give one token" in page.locator("#lens .said-error").inner_text()
    field.fill("")
    field.press("Tab")
    until(page, "document.querySelectorAll('#lens .said-error').length === 0")
    settled(page)


def test_the_grids_answer_to_the_keyboard_and_the_mouse(page) -> None:
    shown_prompt(page, token=2, layer=4)
    grid = page.locator("#lens .grid")
    grid.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    until(page, "location.search.includes('layer=5') && location.search.includes('token=3')")
    page.wait_for_load_state("networkidle")  # panels that still arrive move the grid away from under the mouse
    page.locator("#lens canvas.grid-canvas").hover(position={"x": 58 + 20, "y": 30})
    tip = page.locator(".tip:not([hidden])")
    tip.wait_for()
    assert "layer 7 after token 0" in tip.inner_text()
    page.locator(".matrix").focus()
    page.keyboard.press("ArrowLeft")
    assert "weight" in page.locator('#attention [data-part="said"]').inner_text()


def test_concepts_colour_the_tokens_beside_a_random_direction(page, server) -> None:
    shelf = server.desk.atlas()
    last = list(shelf.concepts)[-1]
    shown_prompt(page, concept=last)
    assert shelf.concepts[last].name in page.locator("#tokens .facts-line").inner_text()
    chip = page.locator('#tokens [data-part="strip"] .chip').nth(4)
    chip.hover()
    words = page.locator(".tip:not([hidden])").inner_text()
    value = array(server.url, f"/panel/readouts?prompt={quote(TEXT)}&concept={last}", "by_layer")
    at = fetch(f"{server.url}/panel/readouts?prompt={quote(TEXT)}&concept={last}&as=json").json()["chosen"]["at"]
    told = float(words.split(f"{shelf.concepts[last].name}: ")[1].split("\n")[0])
    assert told == pytest.approx(float(value[at, 4]), abs=6e-4)
    assert "random direction" in words
    page.locator('.prompt-form select[name="concept"]').select_option(index=0)
    first = next(iter(shelf.concepts.values())).name
    until(page, f"document.querySelector('#tokens .facts-line')?.textContent.includes({first!r})")


def test_pictures_and_tables_can_be_saved(page) -> None:
    shown_prompt(page)
    for panel in ("tokens", "lens", "attention", "contributions"):
        page.wait_for_timeout(400)  # a browser lets no page begin more than ten downloads a second
        content = {}
        for kind in ("png", "svg", "csv"):
            with page.expect_download() as saved:
                page.locator(f'#{panel} [data-do="{kind}"]').click()
            content[kind] = saved.value.path().read_bytes()
        assert content["png"].startswith(b"\x89PNG") and content["csv"].count(b"\n") > 5, panel
        same_picture(page, content["svg"], content["png"], panel)


def same_picture(page, svg: bytes, png: bytes, panel: str) -> None:
    """A saved SVG is well formed, its words are words, and it shows what the PNG of the same panel shows."""
    drawn = ElementTree.fromstring(svg)
    words = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert any("Nina" in (word or "") for word in words) or panel == "contributions", (panel, words[:20])
    kinds = {"png": png, "svg+xml": svg}
    far = page.evaluate(
        FAR, [f"data:image/{kind};base64,{base64.b64encode(of).decode()}" for kind, of in kinds.items()]
    )
    assert far < 0.03, (panel, far)


FAR = """async (both) => {
  const [a, b] = await Promise.all(both.map(async (from) => {
    const image = new Image();
    image.src = from;
    await image.decode();
    return image;
  }));
  const canvas = Object.assign(document.createElement("canvas"), { width: a.width, height: a.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const pixels = [a, b].map((image) => {
    context.clearRect(0, 0, a.width, a.height);
    context.drawImage(image, 0, 0, a.width, a.height);
    return context.getImageData(0, 0, a.width, a.height).data;
  });
  let far = 0;
  for (let i = 0; i < pixels[0].length; i += 1) far += Math.abs(pixels[0][i] - pixels[1][i]);
  return far / pixels[0].length / 255;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280, 2560])
def test_no_page_is_wider_than_its_window_and_axe_finds_nothing_serious(browser, server, theme, width) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with opened(browser, server.url, color_scheme=theme) as page:
        page.set_viewport_size({"width": width, "height": 900})
        shown_prompt(page, token=3)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.Axe().run(page).response["violations"]
        bad = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
        assert not bad


def test_a_model_without_an_atlas_and_a_viewer_without_a_model(browser) -> None:
    with served(random_model(word_tokenizer(40))) as running, opened(browser, running.url) as page:
        page.go("/prompt?prompt=w1+w2+w3+w2+w1")
        settled(page)
        assert "No atlas is open" in page.locator("#tokens").inner_text()
        assert page.locator(".said-error").count() == 0
        running.desk.live = None
        page.go("/prompt")
        assert "started with --no-model" in page.locator(".warning").inner_text()


def test_what_does_not_fit_is_said_in_every_panel(browser) -> None:
    with served(random_model(word_tokenizer(40), context=8)) as running, opened(browser, running.url) as page:
        page.go(f"/prompt?prompt={'w1+' * 30}w2")
        until(page, "document.querySelectorAll('.said-error').length === 4")
        assert "longer than the context" in page.locator("#lens .said-error").inner_text()
        answer = fetch(f"{running.url}/panel/lens?prompt={'w1+' * 30}w2&as=json")
        assert answer.status == 409


def test_the_page_is_one_file_that_shows_the_same_offline(browser, server, tmp_path) -> None:
    address = f"{server.url}/prompt?{urlencode({'prompt': TEXT, 'token': 3, 'layer': 2, 'head': 5, 'as': 'file'})}"
    saved = tmp_path / "prompt.html"
    saved.write_bytes(fetch(address).content)
    with opened(browser, server.url, offline=True) as page:
        page.goto(saved.as_uri())
        settled(page)
        assert page.locator(".said-error").count() == 0
        assert page.locator(".prompt-attention").get_attribute("data-shown") == "2.5"
        assert page.locator('#tokens .chip[aria-pressed="true"]').inner_text() == "the"
        page.locator("#lens .grid").focus()
        page.keyboard.press("ArrowUp")
        assert "Layer 3 after token 3" in page.locator("#lens .cell-detail").inner_text()
