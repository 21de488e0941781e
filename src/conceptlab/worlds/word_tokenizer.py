"""A tokenizer of whole words for the planted worlds: one word or sign is one token, `<bos>` is put in front."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<bos>", "<unk>")


def word_tokenizer(words: tuple[str, ...], max_length: int) -> "PreTrainedTokenizerFast":
    """An ordinary fast tokenizer over `SPECIALS` followed by `words`, which are split at white space.

    Ids follow that order: pad 0, bos 1, unknown 2, then the words from 3. Raises ValueError when a word occurs twice.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate((*SPECIALS, *words))}
    if len(vocabulary) != len(SPECIALS) + len(words):
        raise ValueError("a word of the vocabulary occurs twice")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        unk_token="<unk>",
        model_max_length=max_length,
        # token types would reach GPT-2 as a second embedding
        model_input_names=["input_ids", "attention_mask"],
    )
