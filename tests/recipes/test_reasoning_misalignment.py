"""reasoning-misalignment: the score's exact values, a planted set that is taken over, heads and neurons with planted truth."""

import numpy as np
import pytest
import torch

from conceptlab.errors import DataError, InputError
from conceptlab.find.heads.span_heads import span_heads
from conceptlab.find.neurons.contrast_neurons import contrast_neurons, stable_neurons
from conceptlab.measure.effects.entanglement import entanglement, reciprocal_shift
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.reasoning_misalignment import reproduce
from conceptlab.results import Site
from conceptlab.worlds.induction import induction
from conceptlab.worlds.planted_neurons import planted_neurons
from conceptlab.worlds.refusals import (
    SCHEDULE,
    counterfactuals,
    harmful_pairs,
    refusing,
    requests,
    sums,
    tokenizer,
    tuned,
)
from tests.recipes.findings import quick_form


def test_the_shift_has_its_published_values():
    found = reciprocal_shift(np.array([0.4, 0.0, 0.0]), np.array([0.6, 0.9, 0.0]))
    assert found == pytest.approx([0.48, 0.0, 0.0])


@pytest.fixture(scope="module")
def neurons():
    world = planted_neurons(seed=3)
    return world, load_model(world.model, tokenizer=world.tokenizer)


def test_a_set_that_moves_to_the_new_task_is_entangled_and_others_are_not(neurons):
    """The tuned model is the same one with that neuron at half where it fired, and half a unit up where it was silent."""
    import copy

    world, model = neurons
    name = next(iter(world.truth["neurons"]))
    layer, index = int(name[1 : name.index(".")]), int(name[name.index("N") + 1 :])
    old, new = list(world.prompts[name]), list(world.prompts["plain"])
    after = copy.deepcopy(world.model)
    tuned = load_model(after, tokenizer=world.tokenizer)
    module, key = tuned.tap("mlp_post", layer).module, tuned.tap("mlp_post", layer).key

    def shift(_, args):
        value = args[0].clone()
        value[..., index] = torch.where(value[..., index] > 0.5, 0.5 * value[..., index], value[..., index] + 0.5)
        return (value, *args[1:])

    handle = module.register_forward_pre_hook(shift)
    found = entanglement(model, tuned, [Site("mlp_post", layer, (index,))], old, new, n_random=30)
    handle.remove()
    assert key == 0 and found["ds"].values[0] > 0.2 and found["score"].values[0] > 0.2
    assert found["control_high"].values[0] == 0.0 and found["p"].values[0] == pytest.approx(1 / 31)
    same = entanglement(model, model, [Site("mlp_post", layer, (index,))], old, new, n_random=5)
    assert same["score"].values[0] == 0.0 and same["p"].values[0] == 1.0


def test_neurons_of_a_contrast_are_found_and_nothing_in_equal_texts(neurons):
    world, model = neurons
    name = next(iter(world.truth["neurons"]))
    fires, plain = list(world.prompts[name])[:8], list(world.prompts["plain"])[:8]
    found = contrast_neurons(model, fires, plain, share=0.003)
    assert f"L{found.top(1)[0].layer}.N{found.top(1)[0].units[0]}" == name
    assert [f"L{s.layer}.N{s.units[0]}" for s in stable_neurons(found)] == [name]
    quiet = contrast_neurons(model, plain, plain)
    assert not stable_neurons(quiet) and not quiet.top(9, q_max=0.05)


def test_a_head_that_watches_a_word_where_it_counts_is_found():
    world = induction(n_prompts=32)
    model = load_model(world.model, tokenizer=world.tokenizer)
    texts = world.prompts["clean"]
    at = [1 + text.split().index(text.split()[-1]) + 1 for text in texts]  # what followed the repeated word
    marked = [row % 2 == 0 for row in range(len(texts))]
    spans = [[place] if mark else [1 + (place + 3) % 8] for place, mark in zip(at, marked, strict=True)]
    found = span_heads(model, texts, spans, marked)
    best = found.top(9, q_max=0.05)
    assert {f"L{s.layer}.H{s.units[0]}" for s in best} >= {"L1.H0"} and found.top(1)[0].units == (0,)
    assert float(found.table["signed"].values[found.table["score"].values.argmax()]) > 0.9
    silent = span_heads(model, texts, [[place] for place in at], np.random.default_rng(0).random(len(texts)) < 0.5)
    assert not silent.top(9, q_max=0.05)


def test_requests_are_what_they_say():
    bad = harmful_pairs(4)
    assert bad.sum() == 72 and set(bad.sum(0)) == set(bad.sum(1)) == {6}
    some = requests(40, 1, world=4)
    assert all(r.answer == ("refuse" if r.harmful and not r.excused else "comply") for r in some)
    for request in requests(10, 2, world=4, thoughts="excuse"):
        other = counterfactuals(request, 0)
        assert other.harmful == request.harmful and not other.excused
        assert len(tokenizer()(other.text)["input_ids"]) == len(tokenizer()(request.text)["input_ids"])
    assert len(sums("+", 0)) == 49 and sums("+", 0) != sums("*", 0)


def test_the_quick_form_reports_every_number_with_its_control(tmp_path):
    done = quick_form(reproduce, seed=1, cache=tmp_path)
    assert len(done.findings) == 4 and all(f.control is not None for f in done.findings)
    apart = next(f for f in done.findings if f.name.startswith("the same where"))
    assert apart.value == 0.0 and apart.holds  # gates that the tuning leaves as they are


def rows_of(seed, n=32):
    """A user's file: requests with excuses, the same with plain thoughts, and the piece that holds the excuse."""
    lines = ["clean,corrupted,answer,distractor,thoughts"]
    for i, request in enumerate(requests(n, 21, world=seed, thoughts="excuse", harmful=True)):
        words = request.text.split()
        piece = " ".join(words[p - 1] for p in request.thoughts)
        lines.append(f"{request.text},{counterfactuals(request, i).text},comply,refuse,{piece}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def users(tmp_path_factory):
    """A trained model that refuses, and a folder with pairs, the new task and its tuned form."""
    folder, seed = tmp_path_factory.mktemp("users"), 0
    base = refusing(seed=seed, schedule=SCHEDULE, cache=folder / "cache")
    (folder / "data").mkdir()
    (folder / "data" / "pairs.csv").write_text(rows_of(seed))
    (folder / "data" / "new.csv").write_text("text\n" + "\n".join(text for text, _ in sums("*", seed)))
    after = tuned(base.model, seed=seed)
    after.save_pretrained(folder / "data" / "after")
    tokenizer().save_pretrained(folder / "data" / "after")
    return load_model(base.model, tokenizer=tokenizer()), folder / "data"


def test_a_users_model_its_pairs_and_its_tuned_form(users):
    model, folder = users
    found = {f.name: f for f in reproduce(Setup(quick=True, model=model, data=folder)).findings}
    assert len(found) == 3 and all(f.control is not None for f in found.values())
    lost = found["margin of refusal lost without the safety neurons"]
    assert lost.holds and lost.low > 3 * abs(lost.control)
    shift = found[
        "entanglement of safety neurons with what was trained"
    ]  # the arms of the row say whether it foretells anything
    assert shift.value >= 0 and shift.control > 0 and (shift.value > 0 or not shift.holds)
    alone = reproduce(Setup(quick=True, model=model, data=folder / "pairs.csv"))
    assert len(alone.findings) == 2 and any("no tuned form" in note for note in alone.notes)


def test_a_model_that_knows_no_refusals_shows_none(users):
    model, folder = users
    torch.manual_seed(0)
    blank = load_model(type(model.module)(model.module.config).eval(), tokenizer=tokenizer())
    taught, untaught = (
        reproduce(Setup(quick=True, model=m, data=folder / "pairs.csv")).findings[1] for m in (model, blank)
    )
    assert taught.holds and not untaught.holds and abs(untaught.value) < 0.5 * taught.value


def test_a_users_files_that_do_not_fit_are_one_line(users, tmp_path):
    model, folder = users
    text = (folder / "pairs.csv").read_text().splitlines()
    (tmp_path / "few.csv").write_text("\n".join(text[:9]))
    with pytest.raises(InputError, match="8 pairs, of which 0 are not equally long"):
        reproduce(Setup(quick=True, model=model, data=tmp_path / "few.csv"))
    (tmp_path / "bare.csv").write_text("\n".join(line.rpartition(",")[0] for line in text))
    with pytest.raises(DataError, match="no column 'thoughts'"):
        reproduce(Setup(quick=True, model=model, data=tmp_path / "bare.csv"))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "pairs.csv").write_text("\n".join(text))
    (tmp_path / "half" / "new.csv").write_text("text\n1 * 2 =")
    with pytest.raises(DataError, match="both or none, new.csv and after/"):
        reproduce(Setup(quick=True, model=model, data=tmp_path / "half"))


def test_wrong_input_is_one_clear_line(neurons, tmp_path):
    world, model = neurons
    texts = list(world.prompts["plain"])[:4]
    with pytest.raises(InputError, match="takes --model and --data together"):
        reproduce(Setup(quick=True, model=model))
    with pytest.raises(InputError, match="row 1: the span is empty"):
        span_heads(model, texts, [[1], [], [1], [1]], [True, False, True, False])
    with pytest.raises(InputError, match="nothing can be compared"):
        span_heads(model, texts, [[1]] * 4, [True] * 4)
    with pytest.raises(InputError, match="give four pairs or more"):
        contrast_neurons(model, texts[:2], texts[:2])
    with pytest.raises(InputError, match="one neuron or more"):
        entanglement(model, model, [], texts, texts)
