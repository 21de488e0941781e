"""Which heads speak about a concept? Sparse coding of a head's outputs with the unembedding rows of the concept's words.

Simultaneous orthogonal matching pursuit picks words so that few of them span a head's outputs over many texts; the score is the
share of variance explained (FVE) with the concept's words alone (Head Pursuit, 2025). One step on one output is the logit lens.
Control: as many random words of the vocabulary, the concept's own among them, the same number of steps.
Choices that the paper leaves open, both kept as options: outputs are centred over the texts (`centre`), atoms have length 1
(`unit`); without both a single step names exactly the lens's largest logit. The final norm is in the atoms (its gain, its
centring), its scale in neither.
Cost: one forward a text; per head `n_steps` products of texts x words; the null `n_draws` times that on lists as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.find.detector import DRAWS, Scored, ranked
from conceptlab.model import Model
from conceptlab.model.frozen_end import freeze_end
from conceptlab.model.head_outputs import head_outputs
from conceptlab.model.model import Texts
from conceptlab.numerics.matching_pursuit import Pursuit, pursue, pursue_many
from conceptlab.results import Provenance, Scores, Units

CARD = {
    "name": "head pursuit",
    "paper": "Head Pursuit: Probing Attention Specialization in Multimodal Transformers, 2025",
    "tags": ["heads", "unembedding", "sparse coding"],
    "takes": "a model, texts, the tokens of a concept",
    "returns": "Units",
    "cost": "one forward a text, and a few products a head",
}
N_STEPS = 16


@dataclass(frozen=True, eq=False)
class Spoken:
    """What heads add at the last token of each text: `outputs` [layer -> [text, head, d_model]], and the unembedding's rows seen
    through the final norm, `atoms` [d_vocab, d_model]."""

    outputs: dict[int, Tensor]
    atoms: Tensor

    def of(self, layer: int, head: int, *, centre: bool = True) -> Tensor:
        """Outputs [text, d_model] of one head."""
        values = self.outputs[layer][:, head]
        return values - values.mean(0) if centre else values

    def words(self, tokens: Tensor, *, unit: bool = True) -> Tensor:
        """Atoms [token, d_model] of some tokens; rows of zero stay zero."""
        rows = self.atoms[tokens]
        return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30) if unit else rows


@torch.no_grad()
def spoken(model: Model, texts: Texts) -> Spoken:
    """Run the texts once. Raises SiteError where the model has no lens or no layer's heads can be told apart."""
    layers = model.layers_with("z")
    if not layers:
        model.tap("z", 0)  # says why no layer has it
    batch, last = model.encode(texts), model.n_layers - 1
    acts = model.capture(batch, ["z", "attn_out"], layers=layers)
    final = model.capture(batch.select([0]), "resid_post", layers=[last])["resid_post"][:, 0]
    every = torch.arange(model.unembedding.shape[0])
    atoms = torch.cat([freeze_end(model, final).directions(part[None])[0].float() for part in every.split(8192)])
    return Spoken({layer: head_outputs(model, acts, layer).each for layer in layers}, atoms)


def head_pursuit(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    concept: Sequence[int],
    *,
    n_steps: int = N_STEPS,
    centre: bool = True,
    unit: bool = True,
    n_draws: int = DRAWS,
    seed: int = 0,
    heard: Spoken | None = None,
) -> Units:
    """Rank every head by the variance of its outputs that words of `concept` (token ids) explain.

    Besides the usual columns, axis step: `atoms` (token ids in the order taken, -1: none left) and `fve`. `heard` holds the outputs
    of the same texts where they are known. Raises InputError for fewer than two texts or words, unknown ids, or a concept that
    leaves too few other words; SiteError as `spoken`.
    """
    before, batch = model.forwards, model.encode(texts)
    tokens = _checked(model, concept, len(batch))
    heard = heard or spoken(model, batch)
    lists = [tokens, *_random_lists(model, tokens, n_draws, seed)]
    n_steps = min(n_steps, len(tokens))
    shape = (len(lists), model.n_layers, model.n_heads, n_steps)
    fve, atoms = np.full(shape, np.nan), np.full(shape[1:], -1)
    words = torch.stack([heard.words(ids, unit=unit) for ids in lists]).double()  # [list, word, d_model]
    gram = words @ words.transpose(1, 2)
    for layer, outputs in heard.outputs.items():
        values = (outputs - outputs.mean(0) if centre else outputs).double()  # [text, head, d_model]
        products = torch.einsum("thd,lwd->lhtw", values, words)
        whole = values.square().sum((0, 2)).expand(len(lists), -1)
        found = pursue_many(products, gram[:, None], whole, n_steps)
        fve[:, layer, : values.shape[1]] = found.fve.numpy()
        atoms[layer, : values.shape[1]] = _named(found.atoms[0], tokens)
    settings = {
        "n_steps": n_steps,
        "n_words": len(tokens),
        "centre": centre,
        "unit": unit,
        "n_draws": n_draws,
    }
    scored = Scored(fve[0, ..., -1], fve[1:, ..., -1], len(batch), settings)
    provenance = Provenance(
        "head pursuit",
        len(batch),
        seed,
        model.name,
        model.revision,
        settings=settings,
        passes=round(model.forwards - before),
    )
    units = ranked("head", scored, provenance)
    at = units.table["layer"].values, units.table["index"].values
    more = {"atoms": (("unit", "step"), atoms[at]), "fve": (("unit", "step"), fve[0][at])}
    return replace(units, scores=Scores(units.table.assign(more), provenance))


def said_words(  # noqa: PLR0913 - one experiment, fully stated
    model: Model, texts: Texts, layer: int, head: int, *, n_steps: int = N_STEPS, centre: bool = True, unit: bool = True,
    heard: Spoken | None = None,
) -> Pursuit:  # fmt: skip
    """The words of the whole vocabulary that span one head's outputs, best first. Raises SiteError as `spoken`."""
    heard = heard or spoken(model, texts)
    if layer not in heard.outputs or not 0 <= head < heard.outputs[layer].shape[1]:
        raise InputError(f"{model.name} has no L{layer}.H{head} whose output can be told apart; name another head")
    every = torch.arange(len(heard.atoms))
    return pursue(heard.of(layer, head, centre=centre), heard.words(every, unit=unit), n_steps)


def _checked(model: Model, concept: Sequence[int], n_texts: int) -> Tensor:
    tokens, size = torch.tensor(sorted(set(concept))), model.unembedding.shape[0]
    if n_texts < 2 or len(tokens) < 2:
        raise InputError(
            f"{n_texts} texts and {len(tokens)} words cannot show what a head varies over; give two of each at least"
        )
    if int(tokens[0]) < 0 or int(tokens[-1]) >= size:
        raise InputError(f"the concept names token {int(tokens[-1])}; {model.name} has tokens 0 to {size - 1}")
    return tokens


def _random_lists(model: Model, tokens: Tensor, n_draws: int, seed: int) -> list[Tensor]:
    """As many words of the vocabulary, the concept's among them, `n_draws` times; special ones and rows of zero are left out."""
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    used = model.unembedding.detach().float().norm(dim=1).cpu() > 0
    pool = np.array([i for i in used.nonzero()[:, 0].tolist() if i not in special])
    if len(pool) < 2 * len(tokens):
        raise InputError(
            f"a concept of {len(tokens)} words among {len(pool)} leaves too few others to compare with; use fewer words"
        )
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.choice(pool, len(tokens), replace=False)) for _ in range(n_draws)]


def _named(taken: Tensor, tokens: Tensor) -> np.ndarray:
    return torch.where(taken >= 0, tokens[taken.clamp_min(0)], -1).numpy()
