"""One forward of a prompt, kept: the stream before and after every block, which all panels of the prompt read.

The lens reads it out, concepts are projected on it, and any block runs again alone on it, so that five panels cost one pass. Passes
are kept per model, the least recently used go first, together at most `KEPT` bytes. All this happens in the engine's thread.
"""

import time
from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from conceptlab.errors import InputError
from conceptlab.measure.lenses.targets import token_text
from conceptlab.model.batch import Batch
from conceptlab.model.blocks import CleanRun, record_run
from conceptlab.plot.naming import visible
from conceptlab.web.jobs import Said

if TYPE_CHECKING:
    from conceptlab.model import Model

KEPT = 2**28
LARGEST = 2**30  # bytes of one pass
MOST_CHARACTERS = 60_000
BROKEN = "\ufffd"  # what a part of a character is decoded to


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt as the model reads it: `tokens` are texts as they stand in it, `shown` the same for the eye; `limit` is the model's
    context, `kept` the bytes of a pass."""

    text: str
    batch: Batch
    tokens: tuple[str, ...]
    shown: tuple[str, ...]
    limit: int
    kept: int

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids."""
        return self.batch.ids[0]

    def __len__(self) -> int:
        return len(self.ids)


def loaded(live: Any) -> "Generator[Said, None, Model]":
    """The live model, saying so while it is still being loaded."""
    while live.state == "loading":
        yield Said(None, f"{live.name} is being loaded")
        time.sleep(0.05)
    return live.model


def read_prompt(model: "Model", text: str) -> Prompt:
    """Tokenise a prompt and say what cannot be done before anything runs.

    Raises InputError for an empty or an endless prompt, or one whose pass is too large to keep; ModelError beyond the context.
    """
    if not text:
        raise InputError("the prompt is empty; type some text")
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"the prompt has {len(text)} characters; the page takes {MOST_CHARACTERS}, so shorten it")
    batch = model.encode(text)
    size = pass_bytes(model, len(batch.ids[0]))
    if size > LARGEST:
        fits = int(len(batch.ids[0]) * LARGEST / size)
        raise InputError(
            f"a pass of {len(batch.ids[0])} tokens keeps {size / 2**30:.1f} GiB; this page keeps at most "
            f"{LARGEST / 2**30:.0f} GiB, so give at most {fits} tokens"
        )
    decoded = [token_text(model, i) for i in batch.ids[0]]
    tokens = cut_tokens(text, batch, decoded)
    pairs = zip(tokens, decoded, strict=True)
    shown = tuple(shown_token(own or ("" if BROKEN in other else other)) for own, other in pairs)
    return Prompt(text, batch, tokens, shown, model.max_length, size)


def pass_bytes(model: "Model", n_tokens: int) -> int:
    """What the kept stream of so many tokens needs: (layers + 1) x tokens x d_model values."""
    width = next(model.module.parameters()).element_size()
    return (model.n_layers + 1) * n_tokens * model.d_model * width


def cut_tokens(text: str, batch: Batch, decoded: Sequence[str]) -> tuple[str, ...]:
    """The text of every token, cut from the prompt where the tokenizer says where it stands, else `decoded`.

    What several tokens share goes to the one that reads so, else to the first, so that the cut texts add up to the prompt.
    """
    if batch.offsets is None:
        return tuple(decoded)
    cut: list[str] = []
    reached = 0
    for (start, end), own in zip(batch.offsets[0], decoded, strict=True):
        whole = text[start:end]
        if start < reached and own == whole == cut[-1]:
            cut[-1] = ""
            reached = start
        cut.append(text[max(start, reached) : end] if end > start else own)
        reached = max(reached, end)
    return tuple(cut)


def shown_token(token: str, limit: int = 24) -> str:
    """A token for the eye: spaces as an open box, nothing invisible, nothing endless; nothing at all is the rest of a character."""
    return visible(token.replace(" ", "␣"), limit) if token else "(rest)"


_PASSES: "WeakKeyDictionary[Model, OrderedDict[tuple[int, ...], CleanRun]]" = WeakKeyDictionary()


def one_pass(model: "Model", prompt: Prompt) -> CleanRun:
    """The kept run of this prompt; one forward where there is none."""
    kept = _PASSES.setdefault(model, OrderedDict())
    found = kept.pop(prompt.ids, None)
    kept[prompt.ids] = found = record_run(model, prompt.batch) if found is None else found
    while len(kept) > 1 and sum(run.streams.nbytes for run in kept.values()) > KEPT:
        kept.popitem(last=False)
    return found


def token_id(model: "Model", given: str, role: str) -> int:
    """The id of a token given as `#id`, as its text, or as its piece in the vocabulary.

    Raises InputError where it is no single token of this model, saying which tokens it is made of.
    """
    size = model.unembedding.shape[0]
    if given[:1] == "#" and given[1:].isdecimal():
        if len(given) < 12 and int(given[1:]) < size:
            return int(given[1:])
        raise InputError(f"the {role} {visible(given)} is outside the vocabulary; ids run from #0 to #{size - 1}")
    if model.tokenizer is None:
        raise InputError(f"{model.name} has no tokenizer; give the {role} by its id, as #17")
    coded = list(model.tokenizer(given, add_special_tokens=False, verbose=False)["input_ids"])
    raw = model.tokenizer.convert_tokens_to_ids(given)
    if len(coded) != 1 and isinstance(raw, int) and raw != getattr(model.tokenizer, "unk_token_id", None):
        coded = [raw]
    if len(coded) != 1 or coded[0] >= size:
        pieces = " ".join(shown_token(token_text(model, i)) for i in coded[:6]) or "none"
        raise InputError(
            f"the {role} {visible(given)} is {len(coded)} tokens of {model.name} ({pieces}); give one token, or its id as #17"
        )
    return coded[0]
