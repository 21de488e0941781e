"""The same words in the terminal and in the report, and plain values for programs."""

import dataclasses
import json
import math

import pytest

from conceptlab.atlas.notebook import as_text, atlas_bundle
from conceptlab.atlas.table import number, percent, record, spark, summary_row, terminal_table

from . import synthetic


@pytest.fixture(scope="module")
def whole():
    return synthetic.atlas(synthetic.NAMES[:2] + synthetic.NAMES[-1:])


def test_the_terminal_shows_every_number_beside_its_control(whole):
    lines = as_text(terminal_table(whole), width=200).splitlines()
    assert "2 of 3 concepts found" in lines[0]
    for concept in whole.concepts:
        line = next(line for line in lines if concept.name in line)
        assert line.lstrip().startswith("●" if concept.found else "○")
        row = summary_row(concept)
        words = [row.score, row.score_interval, row.control, row.effect, row.effect_interval, row.effect_control]
        places = [line.index(word) for word in words]
        assert places == sorted(places)
        assert all(head in line for head in row.top_heads.split())


def test_markup_and_control_characters_of_a_name_stay_text(whole):
    concept = dataclasses.replace(whole.concepts[0], name="[bold]\x1b[31mx\n[/]")
    text = as_text(terminal_table(dataclasses.replace(whole, concepts=(concept,), geometry=None)))
    assert "[bold]\\x1b[31mx\\n[/]" in text and "\x1b" not in text


def test_the_record_is_json_with_the_fields_of_the_command(whole):
    concept = dataclasses.replace(whole.concepts[0], effect=None, effect_interval=None, settled=math.nan)
    given = record(dataclasses.replace(whole, concepts=(concept,)))
    read = json.loads(json.dumps(given, allow_nan=False))
    assert (
        read["model"] == whole.model["name"] and read["revision"] == whole.model["revision"] and read["seconds"] == 61.4
    )
    one = read["concepts"][0]
    wanted = ("name", "found", "n", "best_layer", "score", "score_interval", "control", "jump", "settled", "effect",
              "effect_interval", "effect_control", "top_heads", "top_neurons")  # fmt: skip
    assert set(wanted) <= set(one)
    assert one["score"] == concept.score and one["score_interval"] == list(concept.score_interval)
    assert one["effect"] is None and one["settled"] is None and one["top_heads"] == list(concept.top_heads)


def test_numbers_in_words():
    assert [number(v) for v in (0.5, 0.0301, 1e-3, 0.0, -0.2, 1234.5, math.nan, None)] == [
        "0.500", "0.030", "0.0010", "0.000", "-0.200", "1234", "–", "–"
    ]  # fmt: skip
    assert percent(0.375) == "38\u00a0%" and percent(None) == "–"
    assert spark([0.0, 0.25, 0.5, math.nan]) == "▁▅█▁" and len(spark([0.1] * 100)) == 12 and spark([]) == ""


def test_a_notebook_shows_the_atlas_offline(whole):
    shown = atlas_bundle(whole)
    assert "2 of 3 concepts found" in shown["text/plain"]
    assert "data:image/svg+xml;base64," in shown["text/html"] and "http" not in shown["text/html"]
    assert whole.concepts[0].name in shown["text/html"]
    assert whole._repr_mimebundle_().keys() == shown.keys()
    assert "shuffled labels" in whole.concepts[0]._repr_mimebundle_()["text/plain"]
