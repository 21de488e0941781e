"""The sentences say what the numbers say, for what was found and for what was not."""

import dataclasses

import pytest

from conceptlab.atlas.words import findings, headline, is_used, lede

from . import synthetic


@pytest.fixture(scope="module")
def found():
    return synthetic.concept_map("truth", 3)


@pytest.fixture(scope="module")
def absent():
    return synthetic.concept_map("random_labels", 9)


def test_what_was_found(found):
    said = findings(found, 10)
    assert said["Reading"].startswith(f"At layer {found.best_layer} a linear probe reaches accuracy {found.score:.3f}")
    assert f"shuffled labels {found.control:.3f}" in said["Reading"] and "over 10 concepts" in said["Reading"]
    assert "jumps at" in said["Depth"] and "3 heads and 4 neurons" in said["Parts"]
    assert said["Use"].startswith("The model uses it: “ablate direction”") and "p = 0.0099" in said["Use"]


def test_what_was_not_found(absent):
    said = findings(absent, 1)
    assert said["Reading"].startswith("Not found.") and "over 1 concept)" in said["Reading"]
    assert "Depth" not in said and said["Parts"].startswith("No heads and no neurons")
    assert said["Use"].startswith("No sign that the model uses it")


def test_use_is_judged_by_the_random_controls(found):
    assert headline(found)["readout"] == synthetic.READOUTS[0]
    assert is_used(found)
    alone = dataclasses.replace(found, effects=None)
    assert headline(alone) is None and is_used(alone)
    assert not is_used(dataclasses.replace(alone, effect_control=1.0))
    assert findings(dataclasses.replace(found, effect=None), 2)["Use"] == "Not measured."


def test_the_lede_counts():
    whole = synthetic.atlas(synthetic.NAMES[:2] + synthetic.NAMES[-1:])
    assert lede(whole).startswith("2 of 3 concepts can be read") and "For 2 of them" in lede(whole)
    assert lede(dataclasses.replace(whole, concepts=())).startswith("0 of 0 concepts")
