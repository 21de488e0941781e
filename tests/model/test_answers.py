"""First tokens of answers: as they follow their own texts, and a clear line where they cannot be told."""

import pytest

from conceptlab.errors import InputError
from conceptlab.model import load_model
from conceptlab.model.answers import first_token_pairs, first_tokens
from conceptlab.worlds.fact_and_copy import fact_and_copy


@pytest.fixture(scope="module")
def words():
    world = fact_and_copy(n_prompts=4)
    return load_model(world.model, tokenizer=world.tokenizer)


@pytest.fixture(scope="module")
def pieces(words):
    """The same model with a tokenizer that knows pieces of words and marks the space before them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["<unk>", "▁so", "▁a", "b", "▁ab", "▁c", "d", "▁", "a", "c"]
    inner = Tokenizer(
        models.BPE({w: i for i, w in enumerate(known)}, [("▁", "a"), ("▁a", "b"), ("▁", "c")], unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return load_model(words.module, tokenizer=PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>"))


def test_a_space_stands_between_unless_one_is_there(words):
    vocabulary = words.tokenizer.get_vocab()
    assert (
        first_tokens(words, ["Ada is", "Ada is ", "Ada is"], ["blue", "blue", " blue so"]) == [vocabulary["blue"]] * 3
    )


def test_the_first_piece_is_the_one_in_context(pieces):
    vocabulary = pieces.tokenizer.get_vocab()
    assert first_tokens(pieces, ["a c", "a c"], ["ab", "cd"]) == [vocabulary["▁ab"], vocabulary["▁c"]]


@pytest.mark.parametrize(
    ("texts", "answers", "says"),
    [
        (["Ada is"], ["blue", "dun"], "2 answers came with 1 texts"),
        (["Ada is", "Ben is"], ["blue", ""], "row 1: the answer '' is empty"),
        (["Ada is"], ["purple"], "row 0: the answer 'purple' is empty, or no word"),
    ],
)
def test_what_cannot_be_told_is_one_line(words, texts, answers, says):
    with pytest.raises(InputError, match=says) as caught:
        first_tokens(words, texts, answers)
    assert "\n" not in str(caught.value)


def test_an_answer_that_melts_into_its_text_is_refused(words):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(
        models.BPE({w: i for i, w in enumerate(["<unk>", "i", "s", " ", "s ", "b"])}, [("s", " ")], unk_token="<unk>")
    )
    joined = load_model(words.module, tokenizer=PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>"))
    with pytest.raises(
        InputError, match="melts into the last token"
    ):  # this tokenizer joins a space to the word before it
        first_tokens(joined, ["is"], ["b"])
    assert first_tokens(joined, ["is "], ["b"]) == [5]


def test_answers_that_share_their_first_token_are_refused_with_their_number(words):
    with pytest.raises(InputError, match=r"row 1: 'blue' and 'blue so' share their first token.*1 other rows"):
        first_token_pairs(words, ["Ada is"] * 3, ["dun", "blue", "blue"], ["blue", "blue so", "blue it"])
