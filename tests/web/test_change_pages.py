"""Steer, patching, circuit and unit pages in a real browser: what one does happens, is said, is kept, and can be read by anyone."""

import json
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pytest

from conceptlab.results import Circuit, Provenance
from conceptlab.results.graph import GraphShape
from conceptlab.web.beside import Explained
from conceptlab.web.desk import Desk, LiveModel
from conceptlab.web.jobs import Jobs
from conceptlab.web.notes import Notes
from tests.web.conftest import Served, opened
from tests.web.hostile_strings import hostile_strings
from tests.web.prompt_models import byte_tokenizer, fetch, random_model

pytestmark = pytest.mark.browser
TASK = "capitals of the embedded world"
PROMPT = "Nina gave the bucket to"
DONE = '[data-widget="steer"][data-state="done"]'
EDGES = [("embed", "L0.H1.q", 0.5), ("L0.H1", "L1.H0.k", -0.25), ("L1.H0", "L1.mlp", 0.1), ("L1.mlp", "logits", 0.9)]


def settings(**more) -> str:
    return urlencode({"prompt": PROMPT, "tokens": 8, "strength": 1.5, **more})


# -- steer -------------------------------------------------------------------------------------------------------------
def test_steered_texts_grow_and_end_with_their_numbers(page, server) -> None:
    page.go(f"/steer?{settings(temperature=1, seed=5)}")
    page.evaluate("""() => { window.counts = []; new MutationObserver(() => window.counts.push(
      document.querySelectorAll('.column .token').length))
      .observe(document.querySelector('.columns'), {childList: true, subtree: true}); }""")
    page.locator('[data-role="run"]').click()
    page.wait_for_selector(DONE)
    counts = page.evaluate("window.counts")
    assert len({c for c in counts if c}) > 6, "token by token"
    twin = fetch(f"{server.url}/steer?{settings(temperature=1, seed=5)}&as=json").json()["result"]
    for column in twin["columns"]:
        shown = page.locator(f'[data-column="{column["name"]}"] .token').all_text_contents()
        assert "".join(t for t in shown if t != "end").strip() == column["text"].strip()
    cells = page.locator(".summing tbody tr").first.locator("td").all_text_contents()
    by_name = {one["name"]: one["read"] for one in twin["columns"]}
    assert [float(c) for c in cells] == pytest.approx([by_name[n] for n in ("steered", "random", "plain")], abs=6e-3)
    assert "run=1" in page.url
    page.reload()
    page.wait_for_selector(DONE)
    assert page.locator('[name="seed"]').input_value() == "5"
    assert page.locator('[name="strength"]').input_value() == "1.5"


def test_a_token_tells_its_numbers_to_pointer_and_keys(page) -> None:
    page.go(f"/steer?{settings(run=1)}")
    page.wait_for_selector(DONE)
    box = page.locator('[data-column="steered"] .tokens')
    box.focus()
    page.keyboard.press("ArrowRight")
    said = page.locator('[data-column="steered"] [data-role="token"]')
    assert "readout by the plain model" in said.inner_text()
    assert "log-probability" in said.inner_text()
    page.locator('[data-role="colour"]').select_option("kl")
    colour = page.locator('[data-column="steered"] .token').first.evaluate("e => getComputedStyle(e).backgroundColor")
    assert colour != "rgba(0, 0, 0, 0)"
    page.locator('[data-column="steered"] summary').click()
    assert (
        page.locator('[data-column="steered"] tbody tr').count()
        == page.locator('[data-column="steered"] .token').count()
    )


def test_stop_and_leaving_end_the_job(page, server) -> None:
    long = settings(tokens=100, temperature=3, strength=4)
    for leave in ("stop", "away"):
        page.go(f"/steer?{long}&seed={71 if leave == 'stop' else 72}")
        page.locator('[data-role="run"]').click()
        page.wait_for_selector('[data-column="steered"] .token')
        job = next(job for job in server.desk.jobs.listed() if job.title == "Steered texts")
        if leave == "stop":
            page.locator('[data-role="stop"]').click()
            assert page.locator('[data-role="stop"]').is_disabled()
        else:
            page.go("/live")
        for _ in range(200):
            if job.over:
                break
            page.wait_for_timeout(100)
        assert job.state == "cancelled"


def test_what_is_wrong_is_said_on_the_page(browser, server) -> None:
    with opened(browser, server.url) as page:
        page.go(f"/steer?{settings()}&kind=head&layer=3&head=0")
        page.locator('[name="head"]').evaluate("e => { e.max = 999; e.value = 77; }")
        page.locator('[data-role="run"]').click()
        page.wait_for_selector(".said-error")
        assert "heads 0 to 7" in page.locator(".said-error").inner_text()
        assert page.evaluate("document.activeElement.tagName") in ("BUTTON", "BODY")


# -- patching ----------------------------------------------------------------------------------------------------------
def test_the_patching_map_leads_to_what_changes_downstream(page) -> None:
    page.go("/panel/patching")
    page.wait_for_selector('.patching[data-ready="yes"]')
    assert page.locator('[name="task"]').input_value() == TASK, "defaults are offered"
    assert page.locator('[name="prompt"]').input_value().startswith("The capital of")
    page.locator('[name="place"]').select_option("mlp")
    page.locator('.pairs button[type="submit"]').click()
    page.wait_for_selector('.patching-map[data-ready="yes"] canvas', timeout=120_000)
    canvas = page.locator('.patching-map [data-role="cells"] canvas').first
    canvas.focus()
    for key in ("ArrowUp", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    said = page.locator('.patching-map > [data-role="said"]').inner_text()
    assert said.startswith("L1, token 4")
    assert "random change" in said
    page.keyboard.press("Enter")
    page.wait_for_selector('.downstream[data-ready="yes"] canvas')
    assert "cell=1.4" in page.url
    assert page.locator(".prediction h4").all_text_contents() == [
        "Not patched",
        "Patched",
        "Random patch",
        "The other prompt",
    ]
    page.locator('[data-show="control"]').click()
    assert page.locator('[data-show="control"]').get_attribute("aria-pressed") == "true"
    with page.expect_download() as download:
        page.locator('.patching-map [data-export="svg"]').first.click()
    drawn = download.value.path().read_text()
    assert drawn.startswith("<svg") and drawn.count("<rect") > 30 and ">L1</text>" in drawn
    with page.expect_download() as download:
        page.locator('.patching-map [data-export="csv"]').first.click()
    assert download.value.path().read_text().startswith("layer,token,text,score,low,high,control,p,q")


def test_prompts_of_different_length_are_said(browser, server) -> None:
    with opened(browser, server.url) as page:
        query = {
            "prompt": "The capital of Norvia is",
            "corrupted": "Norvia is",
            "answer": "Astel",
            "distractor": "Delphor",
        }
        page.go(f"/panel/patching?{urlencode(query)}")
        page.wait_for_selector(".said-error")
        assert "same number" in page.locator(".said-error").inner_text()


# -- circuit -----------------------------------------------------------------------------------------------------------
def explained(id: str) -> Explained:
    control = np.array([0.01, -0.02, 0.0, 0.03])
    circuit = Circuit.from_edges(
        GraphShape(2, 2), EDGES, Provenance("by hand", 8, 0, model="small"), metric="logit_diff", control=control
    )
    return Explained(
        id, None, circuit, {"notes": [], "faithfulness": {"score": 0.9, "low": 0.8, "high": 1.0, "control": 0.1}}, 0.0
    )  # type: ignore[arg-type]


@pytest.fixture
def circuits(tmp_path):
    """A viewer over two circuits, without a model, that keeps notes."""
    known = {id: explained(id) for id in ("one", "two")}
    desk = Desk(
        Jobs(), notes=Notes(tmp_path / "notes"), explained=known, circuits={k: v.circuit for k, v in known.items()}
    )
    served = Served(desk)
    yield served
    served.close()


def test_a_circuit_is_thinned_pinned_grouped_and_kept(browser, circuits) -> None:
    with opened(browser, circuits.url) as page:
        page.go("/circuit?circuit=one")
        page.wait_for_selector('.circuit[data-ready="yes"]')
        assert page.locator(".cg-node").count() == 5
        assert "4 of 4 edges" in page.locator('[data-role="count"]').inner_text()
        page.locator('[data-role="threshold"]').fill("600")
        assert "2 of 4 edges" in page.locator('[data-role="count"]').inner_text()
        assert page.locator(".cg-edge.below").count() == 2
        page.locator(".cg-node", has_text="L1.H0").focus()
        page.keyboard.press("p")
        assert "4 of 4 edges" in page.locator('[data-role="count"]').inner_text(), "what touches a pinned node stays"
        page.keyboard.press("Enter")
        page.locator(".cg-node", has_text="L0.H1").focus()
        page.keyboard.press("Shift+Enter")
        assert page.locator(".circuit-side h3").first.inner_text() == "L1.H0, L0.H1"
        page.locator('[name="label"]').fill("<b>movers</b>")
        page.locator('[data-role="group-form"] button').click()
        page.wait_for_selector(".circuit:not([data-unsaved])")
        assert circuits.desk.notes.get("circuit", "one") == {
            "pinned": ["L1.H0"], "groups": [{"label": "<b>movers</b>", "nodes": ["L1.H0", "L0.H1"]}], "moved": {},
        }  # fmt: skip
        page.reload()
        page.wait_for_selector('.circuit[data-ready="yes"]')
        assert page.locator(".cg-group text").text_content() == "<b>movers</b>"
        assert page.locator(".cg-node.pinned").count() == 1
        page.go("/circuit?circuit=two")
        page.wait_for_selector('.circuit[data-ready="yes"]')
        assert page.locator(".cg-group").count() == 0, "notes belong to their circuit"


def test_a_node_can_be_moved_and_a_picture_saved(browser, circuits) -> None:
    with opened(browser, circuits.url) as page:
        page.go("/circuit?circuit=one")
        page.wait_for_selector('.circuit[data-ready="yes"]')
        box = page.locator(".cg-node", has_text="L1.H0").bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + 65, box["y"] + 5, steps=4)
        page.mouse.up()
        page.wait_for_selector(".circuit:not([data-unsaved])")
        assert "L1.H0" in circuits.desk.notes.get("circuit", "one")["moved"]
        for kind, begin in (("svg", b"<svg"), ("png", b"\x89PNG"), ("csv", b"rank,source,target,weights")):
            with page.expect_download() as download:
                page.locator(f'.circuit [data-export="{kind}"]').click()
            assert download.value.path().read_bytes().startswith(begin)
        rows = page.locator(".edge-table tbody tr")
        assert rows.count() == 4
        assert rows.first.locator("td").first.inner_text() == "+0.900"


def test_notes_that_make_no_sense_are_left_out(browser, circuits) -> None:
    circuits.desk.notes.put(
        "circuit",
        "one",
        {"pinned": "x", "groups": [1, {"label": 3}, {"label": "a", "nodes": ["nobody"]}], "moved": {"L1.H0": ["a"]}},
    )
    with opened(browser, circuits.url) as page:
        page.go("/circuit?circuit=one")
        page.wait_for_selector('.circuit[data-ready="yes"]')
        assert page.locator(".cg-node").count() == 5
        assert page.locator(".cg-group, .cg-node.pinned").count() == 0


# -- unit --------------------------------------------------------------------------------------------------------------
def test_a_unit_is_shown_and_its_neighbours_are_near(page, server) -> None:
    page.go("/unit?layer=2&head=1")
    page.wait_for_selector('.unit-texts[data-ready="yes"]')
    twin = fetch(f"{server.url}/panel/unit/weights?layer=2&head=1&as=json").json()["found"]
    first = page.locator("#unit-weights .logits").first.locator("li").first.locator(".token").all_text_contents()
    assert first == [twin["unit"]["ov"][0]["from"], twin["unit"]["ov"][0]["to"]]
    assert page.locator(".unit-examples li").count() == 12
    page.locator('[aria-label="the unit after"]').click()
    page.wait_for_url("**/unit?layer=2&head=2*")
    assert page.locator("h1").inner_text() == "L2.H2"
    page.go("/unit?layer=3&neuron=7")
    page.wait_for_selector('.unit-texts[data-ready="yes"]')
    page.locator(".run-here button").click()
    page.wait_for_selector(".unit-detectors", timeout=120_000)
    assert "vocabulary" in page.locator(".unit-detectors tbody th").all_text_contents()


# -- for everybody -----------------------------------------------------------------------------------------------------
PAGES = {
    "steer": (f"/steer?{settings(run=1)}", DONE),
    "patching": (
        f"/panel/patching?{urlencode({'task': TASK, 'place': 'mlp', 'cell': '1.4'})}",
        '.downstream[data-ready="yes"] canvas',
    ),
    "unit": ("/unit?layer=2&head=1", '.unit-texts[data-ready="yes"]'),
    "neuron": ("/unit?layer=3&neuron=7", '.unit-texts[data-ready="yes"]'),
}


def serious(page) -> list[tuple[str, str]]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("theme", "width"), [("light", 400), ("dark", 1280), ("light", 2560)])
def test_everybody_can_read_it_at_any_width(browser, server, name, theme, width) -> None:
    path, ready = PAGES[name]
    with opened(browser, server.url, color_scheme=theme) as page:
        page.set_viewport_size({"width": width, "height": 900})
        page.go(path)
        page.wait_for_selector(ready, timeout=120_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not serious(page)


@pytest.mark.parametrize(("theme", "width"), [("dark", 400), ("light", 1280), ("dark", 2560)])
def test_everybody_can_read_a_circuit(browser, circuits, theme, width) -> None:
    with opened(browser, circuits.url, color_scheme=theme) as page:
        page.set_viewport_size({"width": width, "height": 900})
        page.go("/circuit?circuit=one")
        page.wait_for_selector('.circuit[data-ready="yes"]')
        page.locator(".cg-node").nth(1).focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not serious(page)


def test_without_a_model_the_pages_say_why(browser, circuits) -> None:
    with opened(browser, circuits.url) as page:
        page.go("/steer")
        assert "--no-model" in page.locator(".warning").inner_text()
        assert page.locator('[data-role="run"]').is_disabled()
        page.go("/unit?layer=1&head=0")
        assert "no live model" in page.locator(".warning").inner_text()
        page.go("/circuit")
        page.wait_for_selector('.circuit[data-ready="yes"]')


# -- hostile text --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def hostile():
    """200 texts that a model may say, as its tokens, its labels and the groups of a circuit."""
    texts = [text[:80] for text in hostile_strings(200)]
    model = random_model(byte_tokenizer(texts[:60]))
    concept = SimpleNamespace(
        name=texts[0],
        texts=tuple(t.encode("utf-8", "replace").decode() or "x" for t in texts),
        labels=np.arange(len(texts)),
        class_names=tuple(texts),
    )
    groups = [{"label": text, "nodes": ["L1.H0"]} for text in texts]
    known = replace(explained("one"), record={"notes": texts[:40], "faithfulness": None})
    notes = SimpleNamespace(
        get=lambda kind, id: json.loads(
            json.dumps({"groups": groups, "pinned": texts, "moved": {t: [1, 2] for t in texts}})
        )
    )
    desk = Desk(
        Jobs(), live=LiveModel(texts[1], lambda: model), concept_set=[concept], notes=notes, explained={"one": known}
    )  # type: ignore[arg-type]
    served = Served(desk)
    yield served, texts
    served.close()


def unharmed(page) -> None:
    assert page.evaluate("window.pwned === undefined")
    assert page.locator("main iframe, main img, main object, main embed, main base, main meta, main link").count() == 0


def test_hostile_groups_notes_and_names_are_shown_as_text(browser, hostile) -> None:
    served, texts = hostile
    with opened(browser, served.url) as page:
        page.go("/circuit?circuit=one")
        page.wait_for_selector('.circuit[data-ready="yes"]')
        assert page.locator(".cg-group").count() == len(texts)
        shown = page.locator(".group-row input").evaluate_all("boxes => boxes.map((b) => b.value)")
        plain = [t.replace("\r", "").replace("\n", "") for t in texts]
        assert [s == p or "\x00" in p or not p.isprintable() for s, p in zip(shown, plain, strict=True)].count(
            False
        ) == 0
        unharmed(page)


def test_hostile_labels_and_tokens_of_a_unit_are_shown_as_text(browser, hostile) -> None:
    served, _ = hostile
    with opened(browser, served.url) as page:
        for unit in ("head=0", "neuron=3"):
            page.go(f"/unit?layer=1&{unit}")
            page.wait_for_selector('.unit-texts[data-ready="yes"]')
            page.wait_for_selector(".unit-weights")
            assert page.locator(".unit-examples li").count() == 12
            unharmed(page)


def test_hostile_prompts_are_steered_and_patched_as_text(browser, hostile) -> None:
    served, texts = hostile
    with opened(browser, served.url) as page:
        for text in [t.encode("utf-8", "replace").decode() for t in texts if t.strip()][:200:16]:
            head = {"kind": "head", "layer": 1, "head": 0, "strength": 5, "tokens": 6, "temperature": 2}
            page.go(f"/steer?{urlencode({**head, 'prompt': text, 'run': 1})}")
            page.wait_for_selector(f"{DONE}, .said-error")
            shown = page.locator('[data-column="plain"] [data-role="prompt"]').text_content()
            assert shown.replace("\r", "") == page.locator('[name="prompt"]').input_value().replace("\r", "")
            unharmed(page)
            page.go(
                f"/panel/patching?{urlencode({'prompt': text, 'corrupted': text + 'a', 'answer': text, 'distractor': 'b'})}"
            )
            page.wait_for_selector(".said-error, .patching-map[data-ready]")
            unharmed(page)
