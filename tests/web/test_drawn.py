"""What a page built of an atlas: given again while the concept is the same, built anew when it was read anew, bounded."""

import dataclasses
import json
from urllib.parse import urlencode

from conceptlab.pages.templates import data_block
from conceptlab.web.drawn import MOST, kept
from conceptlab.web.pages.concept import charts, concept_view
from tests.web.prompt_models import fetch


def test_a_thing_is_built_once_for_the_same_source(desk) -> None:
    shelf, built, one, other = desk.atlas(), [], object(), object()
    for source in (one, one, other, other, one):
        assert kept(shelf, "thing", source, lambda: built.append(1) or len(built)) == len(built)
    assert len(built) == 3
    for i in range(MOST + 1):
        kept(shelf, ("more", i), one, lambda: i)  # noqa: B023 - called at once
    assert kept(shelf, "thing", one, lambda: "again") == "again", "the longest unused went"
    assert kept(shelf, ("more", MOST), one, lambda: "again") == MOST


def test_the_page_shows_the_same_charts_and_links_only_where_asked(desk) -> None:
    shelf = desk.atlas()
    for id in shelf.concepts:
        for linked in (True, False, True):
            view = concept_view(desk, shelf, {"concept": id}, linked=linked)
            fresh = charts(shelf, shelf.concept(id), linked=linked)
            assert {k: v.drawing() for k, v in view.content["charts"].items()} == {
                k: v.drawing() for k, v in fresh.items()
            }


def test_a_concept_that_was_read_anew_is_drawn_anew(desk, monkeypatch) -> None:
    shelf = desk.atlas()
    id = next(iter(shelf.concepts))
    made = shelf.concept(id)
    first = concept_view(desk, shelf, {"concept": id}, linked=True)
    monkeypatch.setattr(shelf, "concept", lambda _: dataclasses.replace(made, heads=None))
    assert first.content["heads"]
    assert concept_view(desk, shelf, {"concept": id}, linked=True).content["heads"] == []


def test_repeated_pages_are_equal(desk, server) -> None:
    id = next(iter(desk.atlas().concepts))
    address = f"{server.url}/concept?{urlencode({'concept': id})}"
    first = fetch(address)
    assert fetch(address).content == first.content


def test_a_data_block_cannot_end_its_element() -> None:
    block = str(data_block({"a": "</script><b>&\u2028\u2029 \ud800"}))
    assert not set("<>&\u2028\u2029") & set(block)
    assert json.loads(block)["a"].startswith("</script><b>&\u2028\u2029 ")
