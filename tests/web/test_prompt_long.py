"""A thousand tokens and 144 heads in the browser: it paints, it walks, and it stays small. The bars are in benchmarks/."""

import random
from urllib.parse import urlencode

import pytest

from tests.web.conftest import opened
from tests.web.hovering import HOVER
from tests.web.prompt_models import fetch, random_model, served, until, word_tokenizer
from tests.web.test_prompt_page import settled

pytestmark = pytest.mark.browser
N, LAYERS, HEADS = 1024, 12, 12


@pytest.fixture(scope="module")
def running():
    model = random_model(word_tokenizer(300), layers=LAYERS, heads=HEADS, width=48, context=N)
    with served(model) as found:
        yield found


@pytest.fixture(scope="module")
def query() -> str:
    rng = random.Random(0)
    return urlencode({"prompt": " ".join(f"w{rng.randrange(300)}" for _ in range(N))})


def test_tiles_and_heads_travel_as_bytes(running, query) -> None:
    tiles = fetch(f"{running.url}/panel/attention?{query}&as=slice&name=tiles")
    assert tiles.array().shape == (LAYERS, HEADS, 64, 64)
    assert len(tiles.content) == LAYERS * HEADS * 64 * 64
    head = fetch(f"{running.url}/panel/head?{query}&layer=5&head=7&as=slice&name=weights")
    assert head.array().shape == (N, N)
    assert len(head.content) == 2 * N * N
    rows = fetch(f"{running.url}/panel/head?{query}&layer=5&head=7&as=slice&name=exact").array().sum(1)
    assert abs(rows - 1).max() < 1e-4


def test_it_paints_walks_and_stays_small(browser, running, query) -> None:
    fetch(f"{running.url}/panel/attention?{query}&as=slice&name=tiles")
    with opened(browser, running.url) as page:
        page.go(f"/prompt?{query}")
        page.wait_for_selector(".prompt-attention[data-painted]")
        settled(page)
        painted = float(page.locator(".prompt-attention").get_attribute("data-painted"))
        hover = page.evaluate(HOVER)
        for i in range(3):
            page.locator(".heads-scroll").focus()
            page.keyboard.press("ArrowRight")
            until(page, f"document.querySelector('.prompt-attention').dataset.shown === '0.{i + 1}'")
        session = page.context.new_cdp_session(page)
        heap = session.send("Runtime.getHeapUsage")
        held = (heap["usedSize"] + heap.get("backingStorageSize", 0) + heap.get("embedderHeapUsedSize", 0)) / 2**20
        print(f"painted {painted:.0f} ms, hover median {hover[15]:.1f} ms, heap {held:.0f} MiB")
        assert painted < 20_000
        assert hover[15] < 200
        assert held < 300
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_the_lens_of_a_long_prompt_scrolls_without_being_drawn_whole(browser, running, query) -> None:
    with opened(browser, running.url) as page:
        page.go(f"/prompt?{query}")
        settled(page)
        page.locator('#lens [data-part="zoom"]').click()
        drawn = page.locator("#lens canvas.grid-canvas").evaluate("(c) => c.width")
        until(page, "document.querySelector('#lens .grid-space').offsetWidth > 70000")
        assert drawn < 4000
        page.evaluate("document.querySelector('#lens .grid').scrollLeft = 40000")
        page.locator("#lens .grid").focus()
        page.keyboard.press("ArrowLeft")
        until(page, "location.search.includes('token=1022')")
