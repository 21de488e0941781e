"""Needles: the prompt is as long as asked, the needle where it is said to be, and what cannot be hidden is one line."""

import json

import pytest

from conceptlab.data.needles import Needle, given_needles, hide_needles, read_needles, recall, without_needles
from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.worlds.haystack import haystack, needles_of
from conceptlab.worlds.word_tokenizer import word_tokenizer
from tests.conformance.tiny_models import tiny_model
from tests.model.tiny import decoder


@pytest.fixture(scope="module")
def world():
    return haystack(n_needles=5, seed=3)


@pytest.fixture(scope="module")
def model(world):
    return load_model(world.model, tokenizer=world.tokenizer)


def test_every_needle_stands_where_it_is_said_to_be(world, model):
    needles, filler = needles_of(world), world.prompts["filler"][0]
    stacks = hide_needles(model, needles, filler, lengths=[30, 77], depths=[0, 0.3, 1])
    assert len(stacks) == 30 and stacks.batch.lengths == list(stacks.lengths) == [30] * 15 + [77] * 15
    for ids, (start, stop), which, depth in zip(
        stacks.batch.ids, stacks.spans, stacks.which, stacks.depths, strict=True
    ):
        assert model.tokenizer.decode(ids[start:stop]) == needles[which].needle
        text = model.tokenizer.decode(ids)
        assert text.endswith(needles[which].question) and text.count(needles[which].needle) == 1
        assert abs((start - 1) - depth * (len(ids) - 1 - 6 - 3)) <= 0.5
    bare = without_needles(model, stacks, needles, filler)
    assert bare.lengths == stacks.batch.lengths
    assert not any(
        needles[which].needle in model.tokenizer.decode(ids) for ids, which in zip(bare.ids, stacks.which, strict=True)
    )


def test_a_needle_goes_to_the_end_of_a_sentence():
    words = word_tokenizer((*(f"w{i}" for i in range(20)), "end."), 64)
    model = load_model(tiny_model("llama"), tokenizer=words)
    needle, filler = Needle("w1 w2", "w3", "w2"), "w5 w6 w7 w8 w9 w10 end. " * 8
    stacks = hide_needles(model, [needle], filler, lengths=[44], depths=[0, 0.45, 0.5, 1])
    # forty words of filler after <bos>, sentences of seven; the depth itself where it is an end of the text
    assert [start for start, _ in stacks.spans] == [1, 1 + 21, 1 + 21, 1 + 40]


def test_without_sentences_it_goes_to_the_depth_itself():
    stacks = hide_needles(decoder("llama"), [Needle("w1 w2", "w3", "w2")], "w9 " * 40, lengths=[20], depths=[0.5])
    assert stacks.spans == ((8, 10),)


def test_prompts_that_hold_their_needles(model):
    stacks = given_needles(model, ["the road Ada bell drum went on what of Ada"], ["Ada bell drum"], ["bell drum"])
    assert stacks.spans == ((3, 6),)
    with pytest.raises(InputError, match=r"row 0: the prompt does not hold its needle 'Ada bell kite'"):
        given_needles(model, ["the road Ada bell drum"], ["Ada bell kite"], ["bell"])
    with pytest.raises(InputError, match="row 0: the prompt says the answer 'bell' after the needle too"):
        given_needles(model, ["Ada bell drum what of bell"], ["Ada bell drum"], ["bell"])


GOOD = Needle("Ada bell drum", "what of Ada", "bell drum")


@pytest.mark.parametrize(
    ("needles", "given", "says"),
    [
        ([], {}, "no needles were given"),
        ([GOOD], {"depths": [1.5]}, "depths are shares from 0 to 1"),
        ([GOOD], {"depths": []}, "depths are shares from 0 to 1"),
        ([GOOD], {"lengths": [5]}, "longer than the context of 5"),
        ([GOOD], {"lengths": [300]}, "exceeds the context"),
        ([GOOD], {"lengths": [100]}, "the filler has 40 tokens"),
        ([Needle("Ada bell drum", "what of bell drum", "bell drum")], {}, "the question .* contains the answer"),
        ([Needle("Ada bell drum", "what of Ada", "kite")], {}, "does not contain its answer"),
    ],
)
def test_what_cannot_be_hidden_is_one_line(model, needles, given, says):
    with pytest.raises(InputError, match=says) as caught:
        hide_needles(model, needles, "the road " * 20, **{"lengths": [20], "depths": [0.5], **given})
    assert "\n" not in str(caught.value)


def test_a_file_of_needles(tmp_path):
    path = tmp_path / "needles.json"
    row = {"needle": "Ada bell", "question": "what of Ada", "answer": "bell", "filler": "the road"}
    path.write_text(json.dumps([row, {**row, "filler": "went on"}]), encoding="utf-8")
    needles, filler = read_needles(path)
    assert needles == [Needle("Ada bell", "what of Ada", "bell")] * 2 and filler == "the road went on"
    path.write_text(json.dumps([{**row, "filler": ""}]), encoding="utf-8")
    with pytest.raises(DataError, match="'filler' is empty"):
        read_needles(path)


def test_recall_counts_words():
    assert recall("The Bell, and a drum.", "bell drum") == 1 and recall("bells", "bell") == 0
