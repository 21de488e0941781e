"""The phrase world: dropping the phrase, a mild word or one praising word changes the answer as stated."""

import pytest
import torch

from conceptlab.worlds.saturated_phrase import FILLERS, PRAISING, saturated_phrase

from .plain_hooks import last_logits, logit_diff


def drops(world, n=16):
    """Mean fall of the logit difference with fillers in place of the phrase, the first mild word, one word of the phrase."""
    yes, no = world.answer_ids("clean")[:n], world.answer_ids("other")[:n]
    texts = [text.split() for text in world.prompts["clean"][:n]]
    found = {}
    for name in ("phrase", "mild", "one_word"):
        changed = []
        for row, words in enumerate(texts):
            start, stop = world.truth["phrases"][row]
            place = world.truth["mild"][row][0]
            at = {"phrase": range(start, stop), "mild": [place], "one_word": [start]}[name]
            unused = iter(w for w in FILLERS if w not in words)
            changed.append(" ".join(next(unused) if i + 1 in at else w for i, w in enumerate(words)))
        gap = logit_diff(last_logits(world, world.prompts["clean"][:n]), yes, no) - logit_diff(
            last_logits(world, changed), yes, no
        )
        found[name] = float(gap.mean())
    return found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("saturated", [True, False])
def test_what_is_dropped_is_missed_as_stated(saturated, seed):
    world = saturated_phrase(saturated=saturated, seed=seed)
    for name, value in drops(world).items():
        assert value == pytest.approx(world.truth["drop"][name], abs=world.truth["tolerance"])
    clean = logit_diff(last_logits(world, world.prompts["clean"]), world.answer_ids("clean"), world.answer_ids("other"))
    assert float(clean.mean()) == pytest.approx(world.truth["logit_diff"], abs=world.truth["tolerance"])


def test_the_phrase_is_where_it_is_said_to_be():
    world = saturated_phrase()
    for text, (start, stop) in zip(world.prompts["clean"], world.truth["phrases"], strict=True):
        words = ["<bos>", *text.split()]
        assert [i for i, word in enumerate(words) if word in PRAISING] == list(range(start, stop))


def test_the_null_twin_answers_nothing_and_shares_the_texts():
    world, null = saturated_phrase(), saturated_phrase(null=True)
    assert world.prompts == null.prompts and "drop" not in null.truth
    assert max(abs(v) for v in drops(null).values()) < 0.1
    assert torch.isfinite(last_logits(null, null.prompts["clean"])).all()
