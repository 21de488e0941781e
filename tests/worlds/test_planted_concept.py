"""A concept at a chosen layer: readable from there on and used, beside one that is readable and not used."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.worlds.concept_at_layer import FAMILIES, LABEL_WORDS, concept_at_layer

from .plain_hooks import (
    accuracy,
    all_heads,
    blocks,
    down_projection,
    last_logits,
    out_hooks,
    patched_head,
    pre_hooks,
    record,
    stream,
    tokens,
)

WRITERS = ("neurons", "head")
N_ABLATED = 32  # texts of an ablation: two rounds of all sixteen combinations of classes


@cache
def world(writer: str, null: bool = False, appears_at: int = 3, unused_at: int | None = None):
    return concept_at_layer(writer=writer, null=null, appears_at=appears_at, unused_at=unused_at)


@cache
def streams(*arguments):
    planted = world(*arguments)
    return stream(planted, planted.prompts["clean"])


def probe_accuracy(x, labels) -> float:
    """Ridge regression on the signs of one half, accuracy on the other."""
    x, y = x.double() - x.double().mean(0), torch.tensor(2.0 * labels - 1).double()
    half, width = len(x) // 2, x.shape[1]
    gram = x[:half].T @ x[:half] + 1e-3 * torch.eye(width, dtype=torch.float64)
    weights = torch.linalg.solve(gram, x[:half].T @ y[:half])
    return float(((x[half:] @ weights > 0) == (y[half:] > 0)).double().mean())


def log_odds(planted) -> torch.Tensor:
    """Log-odds [row] of the right label words against the wrong ones, judged by the concept `used`."""
    logits = last_logits(planted, planted.prompts["clean"][:N_ABLATED])
    no, yes = (logits[:, planted.tokenizer.convert_tokens_to_ids(list(words))].logsumexp(-1) for words in LABEL_WORDS)
    return torch.tensor(2.0 * planted.concepts["used"].labels[:N_ABLATED] - 1) * (yes - no)


def place(name: str) -> tuple[int, int]:
    layer, unit = name.replace("N", "H").split(".H")
    return int(layer[1:]), int(unit)


def zero_neuron(planted, name):
    layer, index = place(name)

    def change(neurons):
        neurons = neurons.clone()
        neurons[..., index] = 0.0
        return neurons

    return pre_hooks((down_projection(planted.model, layer), change))


def along(planted, concept, factor):
    """Multiply the stream's component along a concept's direction, from the layer where it appears."""
    truth = planted.truth["concepts"][concept]
    direction = torch.tensor(truth["direction"])
    block = blocks(planted.model)[truth["appears_at"]]
    return out_hooks((block, lambda x: x + (factor - 1) * (x @ direction)[..., None] * direction))


@pytest.mark.parametrize("writer", WRITERS)
def test_every_text_is_answered(writer):
    assert accuracy(world(writer)) == world(writer).truth["accuracy"] == 1.0


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("layers", [(3, None), (1, 4), (5, 2)])
@pytest.mark.parametrize("concept", ["used", "unused"])
def test_a_probe_reads_the_concept_from_its_layer_on_and_not_before(writer, layers, concept):
    arguments = (writer, False, *layers)
    planted, labels = world(*arguments), world(*arguments).concepts[concept].labels
    appears_at = planted.truth["concepts"][concept]["appears_at"]
    assert appears_at == (layers[0] if concept == "used" or layers[1] is None else layers[1])
    found = [probe_accuracy(x, labels) for x in streams(*arguments).unbind(1)]
    assert found[appears_at + 1 :] == [1.0] * (6 - appears_at)
    # 240 test rows: a standard error of 0.032
    assert max(found[: appears_at + 1]) < 0.6


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("concept", ["used", "unused"])
def test_the_direction_holds_the_label(writer, concept):
    planted = world(writer)
    truth, signs = planted.truth["concepts"][concept], torch.tensor(2.0 * planted.concepts[concept].labels - 1)
    direction = torch.tensor(truth["direction"])
    assert float(direction.norm()) == pytest.approx(1.0, abs=1e-5)
    coordinate = streams(writer) @ direction * signs[:, None]
    above = coordinate[:, truth["appears_at"] + 1 :] - truth["coordinate"]
    assert float(above.abs().max()) < planted.truth["tolerance"]["coordinate"]
    assert float(coordinate[:, : truth["appears_at"] + 1].abs().max()) < 1e-5


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("concept", ["used", "unused"])
def test_ablations_move_the_label_words_as_stated(writer, concept):
    planted = world(writer)
    truth = planted.truth["concepts"][concept]
    interventions = {
        "unchanged": [out_hooks()],
        "projected_out": [along(planted, concept, 0.0)],
        "reversed": [along(planted, concept, -1.0)],
        "head_ablated": [patched_head(planted.model, *place(name), 0.0) for name in truth["heads"]],
        "neuron_ablated": [zero_neuron(planted, name) for name in truth["neurons"]],
    }
    assert set(interventions) == set(truth["log_odds"])
    for name, each in interventions.items():
        for intervention in each:
            with intervention:
                found = float(log_odds(planted).mean())
            assert found == pytest.approx(truth["log_odds"][name], abs=planted.truth["tolerance"]["log_odds"])


@pytest.mark.parametrize("writer", WRITERS)
def test_random_directions_do_far_less_than_the_concepts_own(writer):
    planted, generator = world(writer), torch.Generator().manual_seed(7)
    base, moved = log_odds(planted), []
    for _ in range(20):
        direction = torch.randn(64, generator=generator)
        direction /= direction.norm()
        with out_hooks((blocks(planted.model)[3], lambda x, d=direction: x - (x @ d)[..., None] * d)):
            moved.append(float((log_odds(planted) - base).mean().abs()))
    # projecting out the concept's own direction moves them by 11; a random one shares 1 / 64 of it on average
    assert np.mean(moved) < 0.05 * 11 and max(moved) < 0.25 * 11


@pytest.mark.parametrize("writer", WRITERS)
def test_no_other_head_is_needed(writer):
    planted = world(writer)
    needed = planted.truth["concepts"]["used"]["heads"]
    for name, layer, head in all_heads(planted.model):
        with patched_head(planted.model, layer, head, 0.0):
            found = float(log_odds(planted).mean())
        assert (found < 1.0) == (name in needed), name


@pytest.mark.parametrize("writer", WRITERS)
def test_only_the_named_neurons_tell_the_label(writer):
    planted = world(writer)
    projections = [down_projection(planted.model, layer) for layer in range(6)]
    texts = planted.prompts["clean"][:160]
    last = tokens(planted, texts)["attention_mask"].sum(-1) - 1
    # the last word is `so`, the one before it `,`
    read = last if writer == "neurons" else last - 1
    seen = torch.stack(record(planted, texts, projections))[:, torch.arange(len(last)), read]
    for concept in planted.concepts:
        named = planted.truth["concepts"][concept.name]["neurons"]
        positive = torch.tensor(concept.labels[:160] == 1)
        auroc = (seen[:, positive, None] > seen[:, None, ~positive]).float().mean((1, 2))
        auroc += 0.5 * (seen[:, positive, None] == seen[:, None, ~positive]).float().mean((1, 2))
        for name, truth in named.items():
            # where its gate is shut a neuron is 0 but for rounding, so ties may fall either way
            assert float(auroc[place(name)]) == pytest.approx(truth["auroc"], abs=0.13)
            auroc[place(name)] = 0.5
        assert float((auroc - 0.5).abs().max()) < 0.2


@pytest.mark.parametrize("concept", ["used", "unused"])
def test_the_null_twin_tells_nothing(concept):
    twin = world("neurons", True)
    assert twin.truth["concepts"] == {}
    assert twin.prompts == world("neurons").prompts
    found = [probe_accuracy(x, twin.concepts[concept].labels) for x in streams("neurons", True).unbind(1)]
    assert max(found) < 0.6
    assert float(log_odds(twin).mean().abs()) < 1e-3


def test_labels_are_the_xor_of_two_classes_and_are_balanced():
    concepts = world("neurons").concepts
    second = {word for first, other in FAMILIES.values() for word in other}
    for concept, pair in (("used", ("colour", "animal")), ("unused", ("tool", "weather"))):
        own = {word for family in pair for classes in FAMILIES[family] for word in classes}
        for text, label in zip(concepts[concept].texts, concepts[concept].labels, strict=True):
            assert sum(word in second & own for word in text.split()) % 2 == label
    used, unused = concepts["used"].labels, concepts["unused"].labels
    assert np.bincount(2 * used + unused).tolist() == [120] * 4


def test_a_layer_that_does_not_exist_is_refused():
    for arguments in ({"appears_at": 6}, {"unused_at": -1}, {"appears_at": 0, "writer": "head"}):
        with pytest.raises(ValueError, match="appears at a layer from"):
            concept_at_layer(**arguments)
