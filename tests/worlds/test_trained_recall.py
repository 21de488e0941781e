"""The model trained on recall and reasoning puzzles: what it is shown, what it never is, and that it is kept."""

import numpy as np
import pytest
import torch

from conceptlab.train import Schedule
from conceptlab.worlds.recall_puzzles import pairs_of
from conceptlab.worlds.trained_recall import WORDS, _batches, facts_of, tokenizer, trained_recall, unseen_puzzles

FEW = Schedule(steps=3, learning_rate=8e-3, warmup=1)


def shown(seed=0, n=20):
    """Texts of the batches as lists of words, and the weights."""
    source, words = _batches(facts_of(seed), np.random.default_rng(seed)), ("<pad>", "<bos>", "<unk>", *WORDS)
    for _ in range(n):
        batch = next(source)
        for ids, weights in zip(batch.ids.tolist(), batch.weights.tolist(), strict=True):
            yield [words[i] for i in ids], weights


def test_every_weighted_word_is_the_answer_of_its_question():
    facts, attributes = facts_of(0), WORDS[16:24]
    for text, weights in shown():
        said = {a: b for a, b in (text[i : i + 2] for i in (1, 4, 7, 10))}  # a subject's middle, a middle's attribute
        wanted = {
            "know": lambda word: attributes[facts[WORDS.index(word)]],
            "via": said.get,
            "find": lambda word, said=said: said[said[word]],
        }
        assert [i for i, weight in enumerate(weights) if weight] == list(range(15, 45, 4))
        for at in range(13, 45, 4):
            mode, word, answer, stop = text[at : at + 4]
            assert wanted[mode](word) == answer and stop == "."


def test_tested_pairs_of_subject_and_middle_are_never_shown():
    seen = {tuple(text[i : i + 2]) for text, _ in shown(n=100) for i in (7, 10)}
    puzzles = unseen_puzzles(100, 0)
    tested = {(WORDS[p.subjects[p.asked]], p.middle_words[p.asked]) for p in puzzles}
    assert len(tested) == 8 and len(seen) == 48 and not tested & seen
    recall, reasoning = (pairs_of(puzzles, task, facts_of(0)) for task in ("recall", "reasoning"))
    assert set(recall.answer) <= set(WORDS) and {len(t.split()) for t in recall.clean + reasoning.corrupted} == {14}


def test_it_is_kept_and_the_same_again(tmp_path):
    first = trained_recall(seed=3, schedule=FEW, cache=tmp_path)
    again = trained_recall(seed=3, schedule=FEW, cache=tmp_path)
    other = trained_recall(seed=3, schedule=FEW, cache=tmp_path / "elsewhere")
    assert not first.from_cache and again.from_cache and not other.from_cache
    ids = torch.tensor(tokenizer()(["Ada ant . know Ada"])["input_ids"])
    with torch.no_grad():
        logits = [found.model(input_ids=ids).logits for found in (first, again, other)]
    assert torch.equal(logits[0], logits[1])
    assert logits[0].numpy() == pytest.approx(logits[2].numpy(), abs=1e-4)
