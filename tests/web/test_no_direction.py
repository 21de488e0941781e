"""A concept without a direction (its classes have the same mean there) is said in a sentence, and no number of it is shown."""

import dataclasses

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.find.directions.mean_difference import mean_difference
from conceptlab.results import Provenance, Site
from conceptlab.web.live.continuations import continuations
from conceptlab.web.live.examples import examples
from conceptlab.web.live.nearest_tokens import nearest_tokens
from conceptlab.web.live.readouts import Direction, readouts
from conceptlab.web.live.steering import Steering, push_of, readout_of
from conceptlab.web.pages.compare import cosine
from conceptlab.web.pages.concept import no_direction
from conceptlab.web.pages.prompt import directions_of
from tests.web.prompt_models import Ready, fetch, finish

GRADED = np.linspace(0, 1, 12)
TWO, THREE = np.arange(12) % 2, np.arange(12) % 3


def direction_of(x, labels, names, site=Site("embed")):  # noqa: B008 - a plain value
    return mean_difference(
        x, labels, site=site, concept="tense", class_names=names, provenance=Provenance("by hand", 12, 0)
    )


@pytest.fixture(scope="module")
def model(desk):
    return desk.live.model


@pytest.fixture(scope="module")
def nothing(model):
    return direction_of(torch.ones(12, model.d_model), TWO, ("past", "present"))


@pytest.mark.parametrize(("labels", "names"), [(TWO, ("a", "b")), (THREE, ("a", "b", "c")), (GRADED, ())])
@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_equal_means_give_no_direction_and_different_ones_do(labels, names, noise) -> None:
    generator = torch.Generator().manual_seed(0)
    same = 3 + noise * torch.randn(12, 20, generator=generator)
    none = direction_of(same, labels, names)
    assert not none.exists
    assert torch.equal(none.vector, torch.zeros(20))
    with pytest.raises(InputError, match="tense has no direction at embed") as said:
        none.check_exists()
    assert len(str(said.value).splitlines()) == 1
    step = torch.zeros(12, 20)
    step[:, 4] = torch.from_numpy(labels).float()
    some = direction_of(same + 1e-3 * step, labels, names)
    assert some.exists
    assert abs(float(some.vector[4])) == pytest.approx(1.0, abs=1e-3)


def test_the_directions_of_a_real_atlas_exist(desk) -> None:
    shelf = desk.atlas()
    for id in shelf.concepts:
        direction = shelf.concept(id).direction
        assert direction is None or direction.exists == bool(direction.vector.norm() > 0.5)


def test_every_use_of_it_says_so_in_a_line(model, nothing, desk) -> None:
    live, concept = Ready(model), next(iter(desk.concept_set))
    uses = [
        lambda: finish(nearest_tokens(live, nothing)),
        lambda: finish(examples(live, concept, nothing)),
        lambda: finish(readouts(live, "The capital", [Direction("tense", "tense", 0, nothing)])),
        lambda: finish(continuations(model, Steering(prompt="The capital", n_new=1), nothing)),
        lambda: push_of(model, Steering(prompt="The capital"), nothing),
        lambda: readout_of(nothing, 1),
    ]
    for use in uses:
        with pytest.raises(InputError, match="tense has no direction at embed") as said:
            use()
        assert len(str(said.value).splitlines()) == 1


def test_a_head_is_still_steered_where_the_concept_has_no_direction(model, nothing) -> None:
    asked = Steering(kind="head", layer=1, unit=0, strength=0.0, prompt="The capital of", n_new=2)
    found = finish(continuations(model, asked, nothing))
    assert len(found["columns"]) == 3
    assert all(token.get("readout") is None for column in found["columns"] for token in column["tokens"])


def test_the_pages_say_it_and_show_no_number(desk, server, nothing, monkeypatch) -> None:
    shelf = desk.atlas()
    id, other = list(shelf.concepts)[:2]
    made = dataclasses.replace(shelf.concept(id), direction=nothing)
    before = shelf.concept
    monkeypatch.setattr(shelf, "concept", lambda asked: made if asked == id else before(asked))
    said = no_direction(made)
    assert "there is no direction at embed" in said
    assert "its score beats the control in" in said
    listed = [d.id for d in directions_of(shelf, id)]
    assert listed
    assert id not in listed
    page = fetch(f"{server.url}/steer?concept={id}").content.decode()
    assert "there is no direction at embed" in page
    assert "there is no direction" not in fetch(f"{server.url}/steer?concept={other}").content.decode()
    asked = fetch(f"{server.url}/steer?concept={id}&tokens=1&as=json").json()
    assert "has no direction" in str(asked)
    tokens = fetch(f"{server.url}/concept/tokens?concept={id}&as=json").json()
    assert "there is no direction at embed" in str(tokens)
    assert set(tokens["arrays"]) == set()
    read = fetch(f"{server.url}/panel/readouts?concept={id}&prompt=The+capital&as=json").json()
    assert "there is no direction at embed" in str(read)


def test_no_cosine_of_nothing(desk, nothing, monkeypatch) -> None:
    shelf = desk.atlas()
    id = next(iter(shelf.concepts))
    monkeypatch.setattr(shelf, "part", lambda _id, _part: nothing)
    found = cosine(shelf, shelf, id)
    assert found["cosine"] is None
    assert "no direction at embed" in found["cosine_said"]
