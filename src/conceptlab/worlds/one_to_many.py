"""The one-to-many world: a subject has three answers, the model lists all three and says none twice.

Host: GPT2LMHeadModel, 3 layers × 4 heads, d_model 112 (d_head 28), 24 learned positions (all 0), ReLU MLPs of 48 neurons,
neutral norms (see `weights_by_hand`). Stream blocks: tok, attr and out (24 answers each), bos and balance. A prompt is a
subject in a template, `:`, then the answers so far, each followed by `,`: `<bos> cities in Peru : Lima , Cusco ,`. Weights:

    L0.mlp  recall      neuron s reads subject s and writes its three answers × (1.1, 1, 0.9) into attr, at the subject
    L1.H0   subject     a sign (`:` or `,`) looks for a subject; copies attr into out
    L1.H1   said        a sign looks for answers, `<bos>` a sink at β/2; copies the answer into out × -4
    L1.H2   decoy       the attention of L1.H1 without a value: the pattern without the effect
    L1.mlp  promote     neuron i adds relu(out_i) / 2 to out_i
    L2.mlp  promote     neurons 0 to 23 the same; suppress: neuron 24 + i takes relu(-out_i) / 2 from out_i
    the other nine      uniform attention, random values of scale 0.03

The unembedding reads out × 5. So all three answers are promoted at every step, and those already said are pushed down
by attention and further down by the last MLP; without attention to them the first answer is said again. Construction after the
toy of E13 of the methods' specification (mechanism: Yan and Jia 2025, Promote, Suppress, Iterate).
"""

from typing import TYPE_CHECKING, Any

import torch

from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import (
    Head,
    Layout,
    Neuron,
    balance_writes,
    empty_gpt2,
    one_hot_vocabulary,
    set_head,
    set_neuron,
    set_vocabulary,
    uniform_head,
)
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ANSWERS = {
    "Peru": ("Lima", "Cusco", "Arequipa"),
    "Japan": ("Tokyo", "Osaka", "Kyoto"),
    "Kenya": ("Nairobi", "Mombasa", "Kisumu"),
    "Norway": ("Oslo", "Bergen", "Trondheim"),
    "Chile": ("Santiago", "Temuco", "Arica"),
    "Egypt": ("Cairo", "Giza", "Luxor"),
    "Italy": ("Rome", "Milan", "Turin"),
    "Canada": ("Toronto", "Montreal", "Calgary"),
}
TEMPLATES = ("cities in {} :", "towns of {} :", "{} has places :")
SUBJECTS = tuple(ANSWERS)
OBJECTS = tuple(answer for answers in ANSWERS.values() for answer in answers)
# answers come first, since the unembedding reads the first words from out
WORDS = (*OBJECTS, *SUBJECTS, ":", ",", "cities", "in", "towns", "of", "has", "places")
PREFERENCE = (1.1, 1.0, 0.9)
N_POSITIONS, N_HEADS, D_HEAD, N_LAYERS, D_MLP = 24, 4, 28, 3, 48
BETA, SUPPRESSION, AMPLIFIED, GAIN = 14.0, 4.0, 0.5, 5.0
HOST = "GPT2LMHeadModel, 3 layers, 4 heads, d_model 112, neutral LayerNorm, ReLU MLPs of 48"

_N = len(OBJECTS)
STREAM = Layout.of(N_HEADS * D_HEAD, tok=len(WORDS), attr=_N, out=_N, bos=1, balance=1)
_NAMED = Layout(
    STREAM.width,
    {
        **STREAM.blocks,
        "object": slice(0, _N),
        "subject": slice(_N, _N + len(SUBJECTS)),
        "sign": slice(_N + len(SUBJECTS), _N + len(SUBJECTS) + 2),
    },
)
_LOOK = Layout.of(D_HEAD, object=_N, flag=1)
ROLES = {"L1.H0": "subject", "L1.H1": "said", "L1.H2": "said_decoy"}


def one_to_many(*, n_prompts: int = 48, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. The null twin has twelve uniform heads with random values and silent MLPs.

    Prompts `step1`, `step2`, `step3` hold no, one and two answers, said in any order; `answers` are those the model says next.
    `truth`: `rows`, one for each prompt, with `prompt` (without answers), `subject`, `answers`; `said` by family; `heads` by name
    with their role; `neurons` by role; `accuracy`; `repeats`, the share of rows in which an answer is said again, where the
    answers so far stand in the model's own order: `clean`, and `knocked_out` without the last word's attention to them.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _model(generator, null=null)
    rows = _rows(n_prompts, generator)
    prompts = {f"step{k + 1}": tuple(written(r["prompt"], r["order"][:k]) for r in rows) for k in range(3)}
    answers = {f"step{k + 1}": tuple(_next(r["answers"], r["order"][:k]) for r in rows) for k in range(3)}
    kept = [{k: r[k] for k in ("prompt", "subject", "answers")} for r in rows]
    said = {f"step{k + 1}": [r["order"][:k] for r in rows] for k in range(3)}
    return PlantedWorld(
        name="one_to_many",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts=prompts,
        answers=answers,
        truth={"rows": kept, "said": said, **({"heads": {}, "neurons": {}} if null else _truth())},
        null=null,
    )


def written(prompt: str, said: list[str]) -> str:
    """A prompt with the answers so far: `cities in Peru : Lima , Cusco ,`."""
    return " ".join([prompt, *(f"{answer} ," for answer in said)])


def _next(answers: list[str], said: list[str]) -> str:
    return next(answer for answer in answers if answer not in said)


def _truth() -> dict[str, Any]:
    recall = [f"L0.N{s}" for s in range(len(SUBJECTS))]
    promote = [f"L{layer}.N{i}" for layer in (1, 2) for i in range(_N)]
    return {
        "heads": {name: {"role": role} for name, role in ROLES.items()},
        "neurons": {"recall": recall, "promote": promote, "suppress": [f"L2.N{_N + i}" for i in range(_N)]},
        "accuracy": 1.0,
        "repeats": {"clean": 0.0, "knocked_out": 1.0},
    }


def _rows(n_prompts: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """Subjects and templates in turn; the order in which the answers were said is random."""
    rows = []
    for i in range(n_prompts):
        subject = SUBJECTS[i % len(SUBJECTS)]
        template = TEMPLATES[(i // len(SUBJECTS)) % len(TEMPLATES)]
        order = [ANSWERS[subject][j] for j in torch.randperm(3, generator=generator).tolist()]
        rows.append(
            {"prompt": template.format(subject), "subject": subject, "answers": list(ANSWERS[subject]), "order": order}
        )
    return rows


def _model(generator: torch.Generator, *, null: bool) -> "PreTrainedModel":
    model = empty_gpt2(
        n_layers=N_LAYERS,
        n_heads=N_HEADS,
        d_head=D_HEAD,
        d_mlp=D_MLP,
        d_vocab=len(SPECIALS) + len(WORDS),
        n_positions=N_POSITIONS,
    )
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            # drawn for every head, so that twins share what is random
            noise = uniform_head(STREAM, D_HEAD, generator)
            role = None if null else ROLES.get(f"L{layer}.H{head}")
            set_head(model, layer, head, noise if role is None else _written_head(role))
    embed, unembed = one_hot_vocabulary(STREAM, len(WORDS), n_special=len(SPECIALS), read="out", gain=GAIN)
    set_vocabulary(model, embed=embed, unembed=unembed)
    if not null:
        _write_neurons(model)
    balance_writes(model, STREAM.at("balance"))
    return model


def _written_head(role: str) -> Head:
    query = BETA * _any("sign")
    if role == "subject":
        copy = _NAMED.map(_LOOK, ("attr", "object"))
        return Head(q=query, k=_any("subject"), v=copy, o=_LOOK.map(_NAMED, ("object", "out")))
    key = _any("object") + 0.5 * _any("bos")
    if role == "said_decoy":
        return Head(q=query, k=key)
    copy = _NAMED.map(_LOOK, ("object", "object"))
    return Head(q=query, k=key, v=copy, o=_LOOK.map(_NAMED, ("object", "out", -SUPPRESSION)))


def _any(block: str) -> torch.Tensor:
    # every coordinate of the block counts towards the flag
    indicator = torch.zeros(_NAMED.width)
    indicator[_NAMED.blocks[block]] = 1.0
    return torch.outer(indicator, _LOOK.unit("flag"))


def _write_neurons(model: "PreTrainedModel") -> None:
    for s, answers in enumerate(ANSWERS.values()):
        attr = sum(
            (w * STREAM.unit("attr", OBJECTS.index(a)) for w, a in zip(PREFERENCE, answers, strict=True)),
            torch.zeros(()),
        )
        set_neuron(model, 0, s, Neuron(w_in=_NAMED.unit("subject", s), w_out=attr))
    for i in range(_N):
        out = STREAM.unit("out", i)
        for layer in (1, 2):
            set_neuron(model, layer, i, Neuron(w_in=out, w_out=AMPLIFIED * out))
        set_neuron(model, 2, _N + i, Neuron(w_in=-out, w_out=-AMPLIFIED * out))
