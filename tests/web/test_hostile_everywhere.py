"""Two thousand hostile texts as prompts, tokens, targets, names, classes, labels, texts and groups: shown as text, never run.

In the browser many stand on one page: pages that cut a list are told to show all of it. Here one in eight is taken, and every
one that was written by hand. With CONCEPTLAB_HOSTILE=all nothing is thinned; `make reliability` does so in its bar `hostile_texts`,
which tells the counts that the tests record.
"""

import json
import os
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pytest

from conceptlab.atlas.saving import slug
from conceptlab.plot.naming import visible
from conceptlab.web.app import create_app
from conceptlab.web.desk import Desk, LiveModel, open_desk
from conceptlab.web.jobs import Jobs
from conceptlab.web.notes import Notes
from conceptlab.web.pages import compare, concept, home
from conceptlab.web.protocol import GuardedProtocol
from tests.web import hostile_server as hostile
from tests.web.conftest import Served, opened
from tests.web.hostile_atlas import direction, hostile_atlas
from tests.web.hostile_strings import FIXED, TAGS, hostile_strings
from tests.web.prompt_models import byte_tokenizer, random_model, until
from tests.web.test_change_pages import explained
from tests.web.wire import Wire

ALL = os.environ.get("CONCEPTLAB_HOSTILE") == "all"
BY_HAND = len(FIXED) + len(TAGS)
TEXTS = hostile_strings() if ALL else [*hostile_strings()[:BY_HAND], *hostile_strings()[BY_HAND::8]]
TOKENS = hostile.tokens_of(TEXTS)
NAMES = [text for text in TEXTS if len(text) < 400]
STEP = 1 if ALL else 20  # of what is sent alone
SOME = TEXTS[::STEP]
CONTEXT = 1024


@pytest.fixture(scope="module")
def model():
    """One block whose vocabulary holds every hostile text that a tokenizer can hold."""
    return random_model(byte_tokenizer(TOKENS), layers=1, context=CONTEXT)


@pytest.fixture(scope="module")
def desk(model, tmp_path_factory):
    """The model, two atlases of all names, and labelled texts for the first concept of one."""
    base = tmp_path_factory.mktemp("hostile")
    folders = [hostile_atlas(base / "one", TEXTS), hostile_atlas(base / "other", SOME[::-1], score=0.5)]
    made = open_desk(folders, live=LiveModel(TEXTS[14], lambda: model), notes=Notes(base / "notes"))
    yield made
    made.jobs.close()


@pytest.fixture(scope="module")
def wire(desk):
    found = Wire(create_app(desk), GuardedProtocol)
    yield found
    found.close()


# -- through the server ------------------------------------------------------------------------------------------------
def test_prompts_come_back_exactly_or_are_refused_in_a_line(model, record_property) -> None:
    alone = Wire(create_app(Desk(Jobs(), live=LiveModel("random", lambda: model))), GuardedProtocol)
    odd = [text for text in TEXTS if hostile.half(text) or not text]
    some = list(dict.fromkeys([*SOME, *(text for text in TEXTS if len(text) > 400), *odd[::STEP]]))
    counts = hostile.as_prompts(alone, some)
    assert sum(counts.values()) == len(some)
    assert counts["exact"] > len(SOME) * 0.8 and counts["refused"] >= 5 and counts["halved"] >= len(odd[::STEP]) - 1
    record_property("prompts exactly", counts["exact"])
    record_property("prompts that no address holds refused or mended", counts["refused"] + counts["halved"])
    steered = hostile.as_steered(alone, SOME)
    assert steered >= 0.8 * len(SOME)
    record_property("steered", steered)
    pairs = [text for text in TOKENS if "\r\n" not in text][::STEP]
    patched = hostile.as_pairs(alone, pairs)
    assert patched >= 0.8 * len(pairs)
    record_property("pairs patched", patched)
    alone.close()


def test_all_of_them_are_tokens_and_targets(model, record_property) -> None:
    alone = Wire(create_app(Desk(Jobs(), live=LiveModel("random", lambda: model))), GuardedProtocol)
    tokens, targets = hostile.as_tokens(alone, TOKENS), hostile.as_targets(alone, TOKENS[::STEP])
    assert tokens > 0.97 * len(TOKENS) and targets > 0.9 * len(TOKENS[::STEP])
    record_property("tokens", tokens)
    record_property("targets", targets)
    alone.close()


def test_all_of_them_are_names_of_concepts_and_classes(wire, record_property) -> None:
    assert hostile.as_names(wire, TEXTS, [slug(text) for text in TEXTS], 1 if ALL else 40) == len(TEXTS)
    record_property("names", len(TEXTS))


# -- in the browser ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def view(browser, desk, monkeypatch_module):
    """A page of a viewer that shows whole lists; any script of theirs, dialog, request or word of the console fails the test."""
    monkeypatch_module.setattr(home, "ON_ONE_PAGE", len(TEXTS))
    monkeypatch_module.setattr(compare, "PAGE", len(TEXTS))
    monkeypatch_module.setattr(concept, "PAGE", len(TEXTS))
    served = Served(desk)
    with opened(browser, served.url) as page:
        page.on("dialog", lambda d: page.problems.append(f"a dialog: {d.message}"))
        yield page
    served.close()


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def texts_of(page, selector: str) -> list[str]:
    """What the elements hold, read at once."""
    return page.evaluate("s => [...document.querySelectorAll(s)].map((e) => e.textContent)", selector)


def unharmed(page) -> None:
    assert page.evaluate("window.pwned === undefined && document.title !== '' && location.hostname === '127.0.0.1'")
    bad = "main :is(iframe, img, object, embed, base, meta, link, style, marquee, video, audio, math, form[action*=script])"
    assert page.locator(bad).count() == 0
    assert page.evaluate("document.querySelectorAll('script:not([src]):not([type=\"application/json\"])').length") == 0
    assert (
        page.evaluate(
            "[...document.querySelectorAll('*')].some((e) => [...e.attributes].some((a) => a.name.startsWith('on')))"
        )
        is False
    )
    assert not page.problems, page.problems


@pytest.mark.browser
def test_every_token_is_shown_as_text(browser, model, record_property) -> None:
    served = Served(Desk(Jobs(), live=LiveModel("random", lambda: model)))
    with opened(browser, served.url) as page:
        page.on("dialog", lambda d: page.problems.append(f"a dialog: {d.message}"))
        shown = shown_tokens(page)
    assert shown > 0.97 * len(TOKENS)
    record_property("tokens in the browser", shown)
    served.close()


def shown_tokens(view) -> int:
    """Every batch as chips of the prompt and as cells of the lens; how many texts."""
    shown = 0
    for number, batch in enumerate(hostile.in_batches(TOKENS)):
        asked = urlencode({"prompt": hostile.prompt_of(batch)})
        for path, ready in (("readouts", ".chip"), ("lens", "[data-widget=lens][data-ready]"))[
            : 2 if ALL or not number else 1
        ]:
            view.go(f"/panel/{path}?{asked}")
            view.wait_for_selector(ready)
            if path == "readouts":
                chips = [t for t in texts_of(view, '[data-part="strip"] .chip bdi') if t not in ("¤", "(rest)")]
                assert chips == [hostile.shown_token(text) for text in batch]
            else:
                named = json.loads(view.locator("script.data").text_content())["names"]
                assert set(batch) <= set(named.values()), "raw in the page's data"
            unharmed(view)
        shown += len(batch)
    return shown


@pytest.mark.browser
def test_every_name_is_shown_as_text(view, record_property) -> None:
    record_property("names in the browser", len(TEXTS))
    names = [visible(text) for text in TEXTS]
    view.go("/?atlas=one&sort=order")
    view.wait_for_selector(".heat[data-painted]")
    assert texts_of(view, ".summary tbody th bdi") == [visible(text, 40) for text in TEXTS]
    view.locator(".heat-box").focus()
    for _ in range(3):
        view.keyboard.press("ArrowDown")
    unharmed(view)
    view.go("/compare?atlas=one&other=other&sort=name")
    assert sorted(texts_of(view, "table.compare tbody th bdi")) == sorted(visible(text, 40) for text in SOME)
    unharmed(view)
    for path in ("/steer", "/prompt"):
        view.go(f"{path}?atlas=one&prompt=ab")
        view.wait_for_selector("select[name=concept]")
        options = [t.removesuffix(" (not found)") for t in texts_of(view, "select[name=concept] option")]
        assert [o for o in options if o != "none"] == names
        unharmed(view)
    for text in TEXTS[:: len(TEXTS) // (200 if ALL else 4)]:
        view.go(f"/concept?atlas=one&concept={slug(text)}")
        assert texts_of(view, "h1") == [visible(text)]
        unharmed(view)


@pytest.mark.browser
def test_every_group_of_a_circuit_is_shown_as_text(browser, record_property) -> None:
    record_property("groups of circuits", len(NAMES))
    groups = {f"c{i}": NAMES[i : i + 250] for i in range(0, len(NAMES), 250)}
    known = {id: replace(explained(id), record={"notes": texts, "faithfulness": None}) for id, texts in groups.items()}
    notes = SimpleNamespace(
        get=lambda kind, id: {
            "groups": [{"label": text, "nodes": ["L1.H0"]} for text in groups[id]],
            "pinned": [],
            "moved": {},
        }
    )
    desk = Desk(Jobs(), notes=notes, explained=known, circuits={k: v.circuit for k, v in known.items()})
    served = Served(desk)
    with opened(browser, served.url) as page:
        for id, texts in groups.items():
            page.go(f"/circuit?circuit={id}")
            page.wait_for_selector('.circuit[data-ready="yes"]')
            assert page.locator(".cg-group").count() == len(texts)
            shown = page.evaluate("[...document.querySelectorAll('.group-row input')].map((e) => e.value)")
            whole = [t.replace("\r", "").replace("\n", "") for t in texts]
            assert [s for s, w in zip(shown, whole, strict=True) if s != w] == []
            unharmed(page)
    served.close()


@pytest.mark.browser
def test_every_labelled_text_is_shown_as_text(browser, model, tmp_path, monkeypatch, record_property) -> None:
    texts = [text for text in TEXTS if text.strip() and not hostile.half(text) and len(text) < 400]
    record_property("labelled texts", len(texts))
    atlas = hostile_atlas(tmp_path / "texts", ["planted"], whole=1, direction=direction(16, (texts[0], texts[1])))
    monkeypatch.setattr(concept, "PAGE", len(texts))
    labelled = SimpleNamespace(
        name="planted", kind="nominal", texts=tuple(texts), labels=np.arange(len(texts)) % 2, class_names=(texts[0], texts[1]),
        spans=(None,) * len(texts), groups=None, n=len(texts), read_at="last",
    )  # fmt: skip
    desk = open_desk([atlas], live=LiveModel("random", lambda: model))
    monkeypatch.setattr(desk, "texts", lambda shelf, name: (labelled, ""))
    served = Served(desk)
    with opened(browser, served.url) as page:
        page.go("/concept/texts?concept=planted&order=file")
        until(page, "document.querySelectorAll('.examples li').length > 0")
        assert texts_of(page, ".example-label bdi") == [visible(texts[i % 2], 24) for i in range(len(texts))]
        shown = page.evaluate("[...document.querySelectorAll('.example-text')].map((p) => p.textContent)")
        assert shown == ["".join(visible(t, 200) for t in row) for row in [[text] for text in texts]]
        unharmed(page)
    served.close()
