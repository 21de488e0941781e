"""The world of two checkpoints: after post-training, a head that only looked says where the answer stood.

Host: GPT2LMHeadModel, 2 layers × 4 heads, d_model 96 (d_head 24), 24 learned positions, MLPs zero, neutral norms: the induction
world (`worlds/induction`), whose stream has a block `ans` that nobody wrote. Both checkpoints continue a repeated word (L0.H0 and
L1.H0). L1.H1 attends as L1.H0 does, and writes nothing in the base; in the post-trained checkpoint it writes the place (1 to 12) of
the word that it attends to, so a second alphabet says where the answer was found. `skill` between 0 and 1: a checkpoint on the way.
Construction after D9 of the methods' specification, whose host has no norm.
"""

import torch

from conceptlab.data.answer_pairs import AnswerPairs
from conceptlab.worlds.induction import (
    BETAS,
    D_HEAD,
    N_HEADS,
    N_POSITIONS,
    ROLES,
    STREAM,
    WORDS,
    induction_prompts,
    written_head,
)
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import (
    Head,
    Layout,
    balance_writes,
    empty_gpt2,
    set_head,
    set_vocabulary,
    uniform_head,
)
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

PLACES = tuple(f"place{i}" for i in range(1, len(WORDS) + 1))
NEW = "L1.H1"
HOST = "GPT2LMHeadModel, 2 layers, 4 heads, d_model 96, neutral LayerNorm, MLPs zero"
_SEEN = Layout(STREAM.width, {**STREAM.blocks, "place": slice(STREAM.at("pos", 1), STREAM.at("pos", 1) + len(PLACES))})
_PLACE = Layout.of(D_HEAD, place=len(PLACES))


def post_trained(*, skill: float = 1.0, n_prompts: int = 80, seed: int = 0, data_seed: int = 0) -> PlantedWorld:
    """One checkpoint: the base with `skill` 0. All checkpoints of a `seed` share everything but the new head's values.

    `prompts`: `clean` and `corrupted` (two cue words of the context swapped), drawn with `data_seed`; `answers`: `word` and
    `word_corrupted` (the follower), `place` and `place_corrupted` (where it stands). `truth`: `emergent`, the new head.
    """
    generator = torch.Generator().manual_seed(seed)
    model = empty_gpt2(
        n_layers=2, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=8, d_vocab=len(SPECIALS) + len(WORDS) + len(PLACES),
        n_positions=N_POSITIONS,
    )  # fmt: skip
    for name, role in ROLES.items():
        noise = uniform_head(STREAM, D_HEAD, generator)
        head = noise if role == "uniform" else written_head(role, BETAS["hard"])
        set_head(model, int(name[1]), int(name[4]), _new_head(skill) if name == NEW else head)
    embed, unembed = torch.zeros(2, len(SPECIALS) + len(WORDS) + len(PLACES), STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
        unembed[len(SPECIALS) + i] = 10 * STREAM.unit("out", i)
        unembed[len(SPECIALS) + len(WORDS) + i] = 10 * STREAM.unit("ans", i)
    set_vocabulary(
        model, embed=embed, unembed=unembed, positions=torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    )
    balance_writes(model, STREAM.at("balance"))
    prompts, answers = induction_prompts(n_prompts, torch.Generator().manual_seed(data_seed))
    return PlantedWorld(
        name="post_trained",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer((*WORDS, *PLACES), N_POSITIONS),
        prompts={"clean": prompts["clean"], "corrupted": prompts["key"]},
        answers={
            "word": answers["clean"],
            "word_corrupted": answers["key"],
            "place": _places(prompts["clean"]),
            "place_corrupted": _places(prompts["key"]),
        },
        truth={"emergent": [NEW] if skill else [], "old": ["L0.H0", "L1.H0"], "skill": skill},
        null=not skill,
    )


def pairs_of(world: PlantedWorld, task: str) -> AnswerPairs:
    """The pairs of the task `word` or `place`."""
    answers = world.answers[task], world.answers[f"{task}_corrupted"]
    return AnswerPairs(task, world.prompts["clean"], world.prompts["corrupted"], *answers)


def _new_head(skill: float) -> Head:
    """Attention of the induction head; values are places."""
    like = written_head("induction", BETAS["hard"])
    value = _SEEN.map(_PLACE, ("place", "place", skill))
    return Head(q=like.q, k=like.k, q_bias=like.q_bias, v=value, o=_PLACE.map(STREAM, ("place", "ans")))


def _places(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Where what followed the last word's first saying stands; `<bos>` is place 0."""
    found = []
    for text in texts:
        *context, last = text.split()
        found.append(PLACES[context.index(last) + 1])
    return tuple(found)
