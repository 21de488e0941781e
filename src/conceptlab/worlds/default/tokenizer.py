"""The word-level tokenizer: one token a word or punctuation mark, `<bos>` in front."""

import random
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from conceptlab.worlds.default.skills import SKILLS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNK)
MAX_LENGTH = 128
_DRAWS = 6000  # samples a skill from which the vocabulary is collected; a test shows that no later one is missing


@cache
def vocabulary() -> tuple[str, ...]:
    """Special tokens, then every word and mark of the world's texts in alphabetical order."""
    from tokenizers.pre_tokenizers import Whitespace

    rng = random.Random(0)
    split = Whitespace()
    words: set[str] = set()
    for generator, _ in SKILLS.values():
        text = " ".join(generator(rng).text for _ in range(_DRAWS))
        words.update(word for word, _ in split.pre_tokenize_str(text))
    return (*SPECIAL, *sorted(words))


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """The tokenizer of the embedded model; `save_pretrained` writes files that AutoTokenizer loads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # joins words and closes up punctuation
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=MAX_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """Write tokenizer.json and tokenizer_config.json into `folder`."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    return tokenizer
