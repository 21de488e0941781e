"""Hidden chains: planted steps are read below the filler, null twins and steps of other texts are not; decoding is the model's."""

import copy
from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.measure.lenses.filler_steps import filler_steps
from conceptlab.measure.lenses.hidden_chain import best_besides, hidden_chain, shuffled_steps, take_over
from conceptlab.measure.lenses.hidden_decoding import hidden_decoding
from conceptlab.model import load_model
from conceptlab.model.batch import Batch
from conceptlab.results import Scores
from conceptlab.worlds.hidden_steps import hidden_steps
from tests.model.tiny import decoder

FILLER = 40
ROWS = Batch(
    ((20, 31, FILLER, FILLER, 42), (33, 24, 15, FILLER, FILLER, FILLER, 39), (41, 22, FILLER, FILLER, FILLER, 25))
)
STEPS = [[50, 51], [52, 50, 53], [51, 51, 52]]


@cache
def world(null=False, seed=0):
    planted = hidden_steps(seed=seed, null=null)
    return planted, load_model(planted.model, tokenizer=planted.tokenizer)


def read(null=False, seed=0, skip=True, **options):
    planted, model = world(null, seed)
    truth = planted.truth
    marks = truth["skip"] if skip else ()
    return hidden_chain(model, planted.prompts["hidden"], truth["steps"], filler=truth["filler"], skip=marks, **options)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_steps_are_read_where_they_stand(seed, skip, tmp_path):
    planted, _ = world(seed=seed)
    found = read(seed=seed, skip=skip)
    assert found.data.attrs["overwrite"] == planted.truth["overwrite"]
    assert found.data.attrs["read"] == planted.truth["read"]
    for layer, share in planted.truth["recovered"].items():
        at = found.data.sel(layer=layer)
        assert float(at["score"]) == share == float(at["high"]) and float(at["q"]) <= 0.05
        assert float(at["low"]) > 0.9 and max(float(at["control"]), float(at["renamed"])) < 0.25
    assert found["filler_top1"].values.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert found["true_rank"].values[1:].tolist() == [1.0, 1.0, 2.0]
    assert float(found["score"].sel(layer="embed")) < 0.1
    found.save(tmp_path / "chain")
    assert Scores.load(tmp_path / "chain").data.equals(found.data)


@pytest.mark.parametrize("seed", range(5, 11))
def test_steps_that_their_words_do_not_name_are_not_found(seed):
    planted, model = world(null=True, seed=seed)
    found = read(null=True, seed=seed)
    assert (found["q"].values > 0.05).all() and (found["score"].values < 0.4).all()
    decoded = hidden_decoding(
        model, planted.prompts["hidden"], planted.truth["steps"], planted.answer_ids("hidden"),
        filler=planted.truth["filler"], skip=planted.truth["skip"],
    )  # fmt: skip
    assert float(decoded["recovered"].sel(variant="as text")) < 0.4


def test_steps_of_other_texts_are_not_found():
    planted, model = world()
    wrong = planted.truth["steps"][1:] + planted.truth["steps"][:1]
    found = hidden_chain(model, planted.prompts["hidden"], wrong, filler=planted.truth["filler"])
    assert (found["q"].values > 0.05).all()


def test_random_steps_are_found_as_often_as_chance_says():
    """Steps that one text repeats in every place: what the model says about a text is one observation, not four."""
    planted, model = world()
    rng, p = np.random.default_rng(0), []
    for _ in range(40):
        steps = np.repeat(rng.integers(10, 21, (16, 1)), 4, axis=1)
        found = hidden_chain(
            model, planted.prompts["hidden"][:16], steps.tolist(), filler=planted.truth["filler"], n_shuffles=99
        )
        p.append(float(found["p"].sel(layer="1")))
    assert np.mean(np.array(p) <= 0.1) <= 0.2 and np.mean(np.array(p) <= 0.5) <= 0.7


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_every_number_is_that_of_a_plain_pass(kind):
    model = decoder(kind)
    plain = copy.deepcopy(model.module)  # transformers leaves hooks where hidden states were asked for
    found = hidden_chain(model, ROWS, STEPS, filler=FILLER, skip=[60])
    want = {"score": [], "filler_top1": [], "filler_rank": [], "true_rank": [], "within_two": []}
    for ids, own in zip(ROWS.ids, STEPS, strict=True):
        with torch.no_grad():
            done = plain(torch.tensor([ids]), output_hidden_states=True)
            # the last hidden state comes with the final norm already on it
            logits = [model.lens(h[0]) for h in done.hidden_states[:-1]] + [done.logits[0]]
        places = [p for p, after in enumerate(ids[1:]) if after == FILLER]
        for p, step in zip(places, own, strict=True):
            rows = torch.stack([layer[p].float() for layer in logits])
            rank = (rows > rows[:, [step]]).sum(1) + 1
            place = (rows > rows[:, [FILLER]]).sum(1) + 1
            want["true_rank"].append(rank)
            want["filler_rank"].append(place)
            want["within_two"].append(rank <= 2)
            want["filler_top1"].append(place == 1)
            want["score"].append(best_besides(rows, FILLER, [60]) == step)
    for name, values in want.items():
        np.testing.assert_allclose(found[name].values, torch.stack(values).double().mean(0).numpy(), err_msg=name)
    assert found.provenance.n == 3 and found["best"].shape == (model.n_layers + 1, 8)


def test_the_last_layer_from_which_the_filler_stays_counts():
    assert [take_over(np.array(t)) for t in ([0, 1, 0, 1.0], [0, 0.5, 0.9], [1.0, 1, 1], [1.0, 0.2])] == [3, 1, 0, 2]
    never = hidden_chain(decoder(), ROWS, STEPS, filler=FILLER)
    assert never.data.attrs["overwrite"] == "never" and never.data.attrs["read"] == str(decoder().n_layers - 1)


def test_whole_chains_change_places_among_texts_of_their_length():
    row = np.repeat(np.arange(5), [2, 3, 2, 3, 4])
    true = np.arange(len(row))
    drawn = shuffled_steps(true, row, 50, 0)
    assert all(set(d.tolist()) == set(true.tolist()) for d in drawn) and (drawn[:, row == 4] == true[row == 4]).all()
    assert {tuple(d[row == 0].tolist()) for d in drawn} == {(0, 1), (5, 6)}
    assert {tuple(d[row == 3].tolist()) for d in drawn} == {(2, 3, 4), (7, 8, 9)}


@pytest.mark.parametrize("layer", [None, "1"])
def test_the_decoder_shows_the_steps_and_keeps_the_answers(layer):
    planted, model = world()
    found = hidden_decoding(
        model, planted.prompts["hidden"], planted.truth["steps"], planted.answer_ids("hidden"),
        filler=planted.truth["filler"], skip=planted.truth["skip"], layer=layer,
    )  # fmt: skip
    assert found["score"].values.tolist() == found["unchanged"].values.tolist() == [1.0, 1.0, 1.0]
    assert found["recovered"].values.tolist() == [0.0, 1.0, 1.0]
    assert (found["recovered_control"].values < 0.25).all() and (found["control"].values < 0.6).all()
    assert (found["recovered_low"].values[1:] > 0.9).all() and (found["low"].values > 0.9).all()


def test_what_is_written_is_what_the_model_generates():
    model = decoder()
    answers = []
    for ids, own in zip(ROWS.ids, STEPS, strict=True):
        start = ids.index(FILLER)
        tokens = list(ids[:start])
        while len(tokens) <= len(ids):
            with torch.no_grad():
                tokens.append(int(model.module(torch.tensor([tokens])).logits[0, -1].argmax()))
        answers.append(tokens[-1])
        assert len(own) == ids.count(FILLER)
    found = hidden_decoding(model, ROWS, STEPS, answers, filler=FILLER)
    assert found["score"].sel(variant=["as it is", "as text"]).values.tolist() == [1.0, 1.0]


def test_filler_and_steps_are_found_by_comparing_texts():
    planted, model = world()
    filler, steps = filler_steps(model, planted.prompts["hidden"], planted.prompts["shown"])
    assert filler == planted.truth["filler"] and steps == planted.truth["steps"]
    short = planted.prompts["shown"][0].replace(" =", "")
    for hidden, written, says in (
        (planted.prompts["hidden"][:2], planted.prompts["shown"][:1], "1 written texts came with 2"),
        (planted.prompts["hidden"][:1], [short], "row 0: 14 tokens with fillers and 13"),
        (planted.prompts["hidden"][:1], planted.prompts["hidden"][:1], "row 0: nothing differs"),
        (
            planted.prompts["hidden"][:2],
            [planted.prompts["shown"][0], planted.prompts["hidden"][1].replace("hide", "show")],
            "row 1: .* kept where a step should be",
        ),
    ):
        with pytest.raises(InputError, match=says):
            filler_steps(model, hidden, written)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": STEPS[:2]}, "2 texts came with 3 texts"),
        ({"steps": [[50], *STEPS[1:]]}, "row 0: 1 steps came for 2 fillers"),
        ({"steps": [[50, FILLER], *STEPS[1:]]}, "row 0: the step 40 is the filler"),
        ({"steps": [[50, 60], *STEPS[1:]]}, "row 0: the step 60 is .* a skipped token"),
        ({"steps": [[50, 10**6], *STEPS[1:]]}, "outside the vocabulary"),
        ({"filler": 31, "steps": [[50], [50], [50]]}, "row 1 has no filler"),
        ({"filler": -1}, "the filler -1 is outside the vocabulary"),
    ],
)
def test_input_that_cannot_work_is_one_line(change, says):
    options = {"steps": STEPS, "filler": FILLER, "skip": [60], **change}
    steps = options.pop("steps")
    with pytest.raises(InputError, match=says):
        hidden_chain(decoder(), ROWS, steps, **options)
    with pytest.raises(InputError, match=says):
        hidden_decoding(decoder(), ROWS, steps, [1, 2, 3], **options)


def test_the_decoder_wants_an_answer_a_text_and_a_layer_that_is_there():
    with pytest.raises(InputError, match="2 answers came for 3 texts"):
        hidden_decoding(decoder(), ROWS, STEPS, [1, 2], filler=FILLER)
    with pytest.raises(InputError, match="no layer '99' on its lens; the layers are embed, 0"):
        hidden_decoding(decoder(), ROWS, STEPS, [1, 2, 3], filler=FILLER, layer="99")
