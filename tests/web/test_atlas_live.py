"""What the Concept page asks of the live model: the planted is found, nothing else, and the numbers are those of plain code."""

import dataclasses

import numpy as np
import pytest
import torch

from conceptlab import default_concepts, default_model_path, load_model
from conceptlab.errors import InputError
from conceptlab.find.directions.mean_difference import mean_difference
from conceptlab.measure.lenses.targets import token_texts
from conceptlab.measure.probing.streams import locate, stream_at
from conceptlab.model.neuron_weights import end_gain
from conceptlab.results import Provenance, Site, Subspace
from conceptlab.web.live.examples import examples
from conceptlab.web.live.nearest_tokens import nearest_tokens


class Live:
    """A live model that is there at once."""

    state, name, said = "ready", "embedded", "ready"

    def __init__(self, model):
        self.model = model


@pytest.fixture(scope="module")
def model():
    return load_model(str(default_model_path()))


def ended(steps):
    """The result of a generator job."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def along(model, vector, *, revision=""):
    vector = vector / vector.norm()
    return Subspace(
        vector[None], torch.zeros(len(vector)), Site("resid_post", 3), "planted", ("no", "yes"), torch.tensor([[-1.0], [1.0]]),
        Provenance("planted", n=2, seed=0, model="embedded", revision=revision),
    )  # fmt: skip


def test_the_token_that_a_direction_was_made_of_is_the_nearest(model):
    rows = model.unembedding.detach().double() * end_gain(model).gain.double()
    for token in (40, 123, 400):
        wanted = torch.linalg.pinv(rows)[
            :, token
        ].float()  # the step that raises this token and as little else as can be
        found = ended(nearest_tokens(Live(model), along(model, wanted)))
        assert found.tokens[0, 0] == token_texts(model, np.array([token]))[0]
        assert found.scores[0, 0] > found.control_high > found.control and found.p[0] < 0.02


def test_random_directions_have_no_token_beyond_chance(model):
    p = []
    for seed in range(40):
        vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(100 + seed))
        p += ended(nearest_tokens(Live(model), along(model, vector))).p
    assert np.mean(np.array(p) <= 0.05) < 0.12 and 0.3 < np.mean(p) < 0.7


def test_scores_are_those_of_the_plain_product(model):
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    subspace = along(model, vector)
    found = ended(nearest_tokens(Live(model), subspace))
    plain = model.unembedding.detach().double() @ (subspace.vector.double() * end_gain(model).gain.double())
    plain = (plain - plain.mean()) / plain.std()
    np.testing.assert_allclose(found.scores[0], torch.topk(plain, 12).values, rtol=1e-4)


@pytest.fixture(scope="module")
def concept():
    full = default_concepts()["sentiment"]
    keep = slice(0, 60)
    return dataclasses.replace(
        full, texts=full.texts[keep], labels=full.labels[keep], spans=full.spans[keep],
        groups=None if full.groups is None else full.groups[keep],
    )  # fmt: skip


@pytest.fixture(scope="module")
def direction(model, concept):
    batch, read = locate(model, concept)
    stream = stream_at(model, batch, read)[:, 4]
    made = Provenance("mean difference", n=60, seed=0, model=model.name, revision=model.revision)
    return mean_difference(
        stream, concept.labels, site=Site("resid_post", 3), concept="sentiment", class_names=concept.class_names, provenance=made
    )  # fmt: skip


def test_readouts_are_those_of_each_text_alone(model, concept, direction):
    found = ended(examples(Live(model), concept, direction))
    assert found.total == len(found.rows) == 60 and found.unit.startswith("−1 is the mean of")
    low, high = direction.class_points[:, 0].tolist()
    for i in (0, 17, 59):
        stream = model.capture(concept.texts[i], "resid_post", layers=[3], positions="all")["resid_post"][:, 0]
        plain = (stream - direction.mean) @ direction.vector
        np.testing.assert_allclose(
            found.values[i], ((plain - (low + high) / 2) / ((high - low) / 2)).numpy(), rtol=1e-4, atol=1e-4
        )
        assert "".join(found.tokens[i][1:]).strip() == concept.texts[i].strip()
        assert found.labels[i] == concept.class_names[concept.labels[i]]
    means = [found.readout[np.array(found.labels) == name].mean() for name in concept.class_names]
    np.testing.assert_allclose(means, [-1, 1], atol=1e-3)
    assert found.r > found.r_control


def test_labels_that_say_nothing_do_not_fit(model, concept, direction):
    beyond = []
    for seed in range(10):
        shuffled = dataclasses.replace(concept, labels=np.random.default_rng(seed).permutation(concept.labels))
        found = ended(examples(Live(model), shuffled, direction))
        beyond.append(abs(found.r) > found.r_control)
    assert np.mean(beyond) <= 0.3


def test_a_direction_of_another_model_is_refused_in_a_line(model, concept):
    for bad, words in (
        (along(model, torch.ones(5)), "5 numbers"),
        (along(model, torch.ones(model.d_model), revision="0" * 16), "at revision 0000"),
    ):
        for steps in (nearest_tokens(Live(model), bad), examples(Live(model), concept, bad)):
            with pytest.raises(InputError, match=words) as caught:
                ended(steps)
            assert "\n" not in str(caught.value)
