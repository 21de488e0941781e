"""Which heads copy out of a long context while the answer is written? Their favourite key is the needle's token that comes next.

At a step that writes token w, a head copies where its most attended position lies in the needle and holds w. The score is the
share of the needle's positions that a head copied (a set: a position counts once), mean over the prompts answered right
(Wu et al. 2024, Retrieval Head Mechanistically Explains Long-Context Factuality, section 2).
Control: the same statistic with the needle's tokens exchanged in a circle, by a step drawn for each needle: at the time of w
another written token of the needle counts. A head that looks anywhere, or at certain words, or at the needle without following
it, scores as much; what lies less than half the published threshold above that is not found. Spans elsewhere in the prompt hold
other words: against them a head that merely likes the needle's words would be found.
Departures: the published code counts repeats. A head that looks and writes nothing scores as well: ablation tells.
Cost: one prefill and a step of decoding a token; of every pattern the place of its largest entry is kept, never queries x keys.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from conceptlab.data.needles import Haystacks, answer_length, answered_right
from conceptlab.errors import InputError
from conceptlab.find.detector import DRAWS, Behaviour, Detector, Scored, ranked
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.model import Batch, Model
from conceptlab.model.decoding import Decoded, greedy_decode
from conceptlab.model.metric import log_prob
from conceptlab.results import Provenance, Units

CARD = {
    "name": "retrieval heads",
    "paper": "Wu et al. 2024, Retrieval Head Mechanistically Explains Long-Context Factuality",
    "tags": ["heads", "attention", "long context"],
    "takes": "a model, prompts with a needle each, their answers",
    "returns": "Units",
    "cost": "one prefill and greedy decoding of the answers",
}
RETRIEVAL, STRONG = 0.1, 0.5  # the published classes
FLOOR = 0.05  # of the score is of no interest: half of what is called a retrieval head
NEEDLE = 6  # random words of the survey's needles


@dataclass(frozen=True, eq=False)
class Looked:
    """What was written and looked at: new ids [row, step], favourite keys [row, step, layer, head], and rows answered right."""

    stacks: Haystacks
    decoded: Decoded
    right: np.ndarray

    def copied(self, exchanged: np.ndarray | None = None) -> np.ndarray:
        """Share of the needle that each head copied, [row, layer, head]; NaN in layers whose attention cannot be seen.

        `exchanged` [row] turns the needle's written tokens by so many places (modulo their number less one, plus one); None: not
        at all.
        """
        keys = self.decoded.keys
        if keys is None:
            raise InputError("nobody looked while these prompts were decoded; decode them with top_keys=True")
        rows = []
        for row, (ids, (start, stop)) in enumerate(zip(self.stacks.batch.ids, self.stacks.spans, strict=True)):
            same = (
                self.decoded.ids[row][:, None] == torch.tensor(ids[start:stop])[None]
            )  # [step, place]: is it written?
            place = torch.arange(stop - start) if exchanged is None else _turned(same, int(exchanged[row]))
            hit = (keys[row][..., None] == start + place) & same[:, None, None]  # [step, layer, head, place]
            rows.append(hit.any(0).float().mean(-1))
        found = torch.stack(rows).numpy().astype(float)
        found[:, (keys < 0).all(1).all(0).numpy()] = np.nan
        return found


def _turned(same: torch.Tensor, by: int) -> torch.Tensor:
    """The places [place] that count in place of each: the next written one but `by`, in a circle."""
    place, written = torch.arange(same.shape[1]), same.any(0).nonzero()[:, 0]
    if len(written) < 2:
        written = place
    place[written] = written.roll(1 + by % (len(written) - 1))
    return place


def look(model: Model, stacks: Haystacks, *, n_new: int | None = None) -> Looked:
    """Decode the answers and keep what every head looked at. `n_new`: tokens (default: as many as each answer has, at most 50)."""
    decoded = greedy_decode(model, stacks.batch, n_new or answer_length(model, stacks.answers), top_keys=True)
    return Looked(stacks, decoded, answered_right(model, decoded, stacks.answers))


def retrieval_scores(looked: Looked, *, n_draws: int = DRAWS, seed: int = 0) -> Scored:
    """Score and null over the rows answered right. Raises InputError where there is none, or where a needle is one token."""
    kept = np.flatnonzero(looked.right).tolist()
    if not kept:
        raise InputError(
            f"none of {len(looked.right)} prompts was answered right, so nothing was retrieved; ask shorter or easier ones"
        )
    right = Looked(looked.stacks.select(kept), _rows(looked.decoded, kept), looked.right[kept])
    short = [row for row, (start, stop) in enumerate(right.stacks.spans) if stop - start < 2]
    if short:
        raise InputError(
            f"the needle of prompt {kept[short[0]]} is one token, which leaves nothing to compare; use longer needles"
        )
    together = _same_needle(right.stacks)
    turns = np.random.default_rng(seed).integers(0, 2**31, (n_draws, together.max() + 1))
    null = np.stack([right.copied(turn[together]).mean(0) for turn in turns])
    score = right.copied().mean(0)
    settings = {"asked": len(looked.right), "answered right": len(kept), "floor": FLOOR}
    return Scored(score, null, len(kept), settings, floor=FLOOR)


def retrieval_heads(
    model: Model, stacks: Haystacks, *, n_new: int | None = None, n_draws: int = DRAWS, seed: int = 0
) -> Units:
    """Rank every head; `active` says in how many of the prompts answered right it copied anything.

    Raises as `retrieval_scores` and `greedy_decode`.
    """
    before = model.forwards
    looked = look(model, stacks, n_new=n_new)
    scored = retrieval_scores(looked, n_draws=n_draws, seed=seed)
    provenance = Provenance(
        "retrieval heads", scored.n, seed, model.name, model.revision, settings=scored.settings,
        passes=round(model.forwards - before), warnings=scored.warnings,
    )  # fmt: skip
    active = (looked.copied()[looked.right] > 0).mean(0)
    return ranked("head", replace(scored, more={"active": active}), provenance)


def _rows(decoded: Decoded, rows: list[int]) -> Decoded:
    return Decoded(decoded.ids[rows], None if decoded.keys is None else decoded.keys[rows])


def _same_needle(stacks: Haystacks) -> np.ndarray:
    """A number [row] for each different needle: prompts that share theirs are turned together, as they are not independent."""
    needles = [ids[start:stop] for ids, (start, stop) in zip(stacks.batch.ids, stacks.spans, strict=True)]
    known = {needle: number for number, needle in enumerate(dict.fromkeys(needles))}
    return np.array([known[needle] for needle in needles])


def survey_stacks(survey: HeadSurvey) -> Haystacks:
    """Prompts of the survey's random words, all different: a needle among them, whose first word stands at the end again.

    Raises InputError where the model has too few words or too little room.
    """
    rng, size = np.random.default_rng([survey.seed, 7]), min(NEEDLE, survey.n)
    rows, spans, answers = [], [], []
    for _ in range(survey.n_rows):
        words = rng.choice(survey.words, 2 * survey.n - 1, replace=False).tolist()
        at = int(rng.integers(0, len(words) - size + 1))
        start = len(survey.prefix) + at
        rows.append((*survey.prefix, *words, words[at]))
        spans.append((start, start + size))
        answers.append(survey.model.tokenizer.decode(words[at + 1 : at + size]))
    return Haystacks(Batch(tuple(rows)), tuple(spans), tuple(answers))


def retrieval(survey: HeadSurvey) -> Scored:
    """Share of a needle of random words copied, [layer, head]. Raises as `survey_stacks` and `retrieval_scores`."""
    stacks = survey_stacks(survey)
    sizes = [stop - start for start, stop in stacks.spans]
    return retrieval_scores(look(survey.model, stacks, n_new=max(sizes) - 1), seed=survey.seed)


def continuation(survey: HeadSurvey) -> Behaviour:
    """The word after the needle's first, nats."""
    stacks = survey_stacks(survey)
    answers = [ids[start + 1] for ids, (start, _) in zip(stacks.batch.ids, stacks.spans, strict=True)]
    return Behaviour("a needle is continued", stacks.batch, log_prob(answers))


DETECTOR = Detector(
    "retrieval",
    "attention to the token that is copied while an answer is written",
    retrieval,
    "in-context identification",
    continuation,
)
