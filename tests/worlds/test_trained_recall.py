"""The model trained on recall and reasoning puzzles: what it is shown, what it never is, and that it is kept."""

from collections import Counter

import numpy as np
import pytest
import torch

from conceptlab.train import Schedule
from conceptlab.worlds.line_puzzles import LinePuzzle
from conceptlab.worlds.recall_puzzles import pairs_of
from conceptlab.worlds.trained_recall import (
    N_NAMES,
    WORDS,
    _batches,
    facts_of,
    tokenizer,
    trained_recall,
    unseen_puzzles,
)

FEW = Schedule(steps=3, learning_rate=8e-3, warmup=1)
TASKS = ("recall", "reasoning")


def shown(seed=0, n=20):
    """Texts of the batches as lists of words, and the weights."""
    source, words = _batches(facts_of(seed), np.random.default_rng(seed)), ("<pad>", "<bos>", "<unk>", *WORDS)
    for _ in range(n):
        batch = next(source)
        for ids, weights in zip(batch.ids.tolist(), batch.weights.tolist(), strict=True):
            yield [words[i] for i in ids], weights


def people(text):
    """The names that a text's sentences say, with how often."""
    return Counter(word for i in (1, 4, 7) for word in text[i : i + 2])


def test_a_puzzle_is_what_its_words_say():
    puzzle, facts = LinePuzzle((0, 3, 1, 2), (2, 0, 1), 0), [5, 4, 6, 7]
    said = "Ben Cleo . Ada Dan . Dan Ben ."
    assert puzzle.text("reasoning") == f"{said} find Ada" and puzzle.answer("reasoning", facts) == "Cleo"
    assert (
        puzzle.text("recall", other=True) == f"{said} know Cleo" and puzzle.answer("recall", facts, other=True) == "Gia"
    )


def test_every_weighted_word_is_the_answer_of_its_question():
    facts, modes = facts_of(0), Counter()
    assert sorted(facts) == list(range(N_NAMES)) and all(fact != own for own, fact in enumerate(facts))
    for text, weights in shown():
        assert [i for i, weight in enumerate(weights) if weight] == [12] and text[3:10:3] == [".", ".", "."]
        mode, asked, answer = text[10:]
        ends = {name for name, times in people(text).items() if times == 1}
        assert asked in ends and len(people(text)) == 4
        known = {name: WORDS[facts[WORDS.index(name)]] for name in ends}
        assert answer == known[asked] if mode == "know" else {asked, answer} == ends
        assert not set(known.values()) & set(people(text))  # no fact of an end is said
        modes[mode] += 1
    assert 0.2 < modes["know"] / modes.total() < 0.3


def test_tested_people_are_never_shown_in_one_line():
    seen = {frozenset(people(text)) for text, _ in shown(n=60)}
    puzzles = unseen_puzzles(300, 0)
    tested = {frozenset(WORDS[i] for i in p.line) for p in puzzles}
    assert len(seen) > 300 and len(tested) > 60 and not tested & seen
    recall, reasoning = (pairs_of(puzzles, task, facts_of(0)) for task in TASKS)
    assert set(recall.answer) == set(reasoning.answer) == set(WORDS[:N_NAMES])
    assert {len(t.split()) for t in recall.clean + reasoning.corrupted} == {11}
    assert [t.replace("know", "find") for t in recall.clean] == list(reasoning.clean)


def test_it_is_kept_and_the_same_again(tmp_path):
    first = trained_recall(seed=3, schedule=FEW, cache=tmp_path)
    again = trained_recall(seed=3, schedule=FEW, cache=tmp_path)
    other = trained_recall(seed=3, schedule=FEW, cache=tmp_path / "elsewhere")
    assert not first.from_cache and again.from_cache and not other.from_cache
    ids = torch.tensor(tokenizer()(["Ada Ben . know Ada"])["input_ids"])
    with torch.no_grad():
        logits = [found.model(input_ids=ids).logits for found in (first, again, other)]
    assert torch.equal(logits[0], logits[1])
    assert logits[0].numpy() == pytest.approx(logits[2].numpy(), abs=1e-4)
