"""Which heads say what comes next of the word that they look at (Monday -> Tuesday, 7 -> 8)? Share of ordinal words of which a
head's output alone says the successor more than any other member of the family; mean over families.

Read from the weights: embedding, first MLP, the head's values and output, unembedding (`model/ov_circuit.py`). Pairs across the end
of a family (Sunday, Monday) do not count. Control: other steps in place of +1 (back by one, on by two, ...), drawn for each family,
so that a head that blurs a word into its neighbours has its like in the null. Source: Gould et al. 2023, Successor Heads.
Departures: the mean over families (the paper's way to join them was not found); steps in place of random permutations; heads of
block 0 read the bare embedding, since its MLP comes after them. A head with such weights that looks elsewhere scores as well:
ablation tells. Cost: one forward of single words.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from conceptlab.data.ordinals import Ordinals
from conceptlab.find.detector import Behaviour, Detector, Scored
from conceptlab.find.heads.survey import LITTLE, HeadSurvey
from conceptlab.model import Batch, Model
from conceptlab.model.metric import log_prob
from conceptlab.model.ov_circuit import ov_answers
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "successor heads",
    "paper": "Gould et al. 2023, Successor Heads: Recurring, Interpretable Attention Heads In The Wild",
    "tags": ["heads", "weights"],
    "takes": "a model",
    "returns": "Units",
    "cost": "one forward of single words",
}
SHOWN = 3  # members before the one that is asked for


def successor(survey: HeadSurvey) -> Scored:
    """Succession score [layer, head], mean over families. Raises InputError where no family is kept as single tokens."""
    ordinals = survey.ordinals
    said = ov_answers(survey.model, ordinals.tokens, list(ordinals.families.values())).numpy()
    null = [_share(said, ordinals, steps).mean(-1) for steps in _other_steps(ordinals, survey.n_draws, survey.seed)]
    score = _share(said, ordinals, dict.fromkeys(ordinals.families, 1)).mean(-1)
    n, sizes = int((ordinals.following >= 0).sum()), {name: len(at) for name, at in ordinals.families.items()}
    return Scored(score, np.stack(null), n, {"families": sizes}, ordinals.left_out, LITTLE)


def succession(model: Model, ordinals: Ordinals, *, n_draws: int = 50, seed: int = 0) -> Scores:
    """The same by family: axes (layer, head, family): `score`, `copy` (the word itself), `back` (the one before), `control` (mean
    over other steps) and `control_high` (their 95 % point). Raises SiteError as `ov_answers`."""
    said = ov_answers(model, ordinals.tokens, list(ordinals.families.values())).numpy()
    null = np.stack([_share(said, ordinals, steps) for steps in _other_steps(ordinals, n_draws, seed)])
    columns = {name: _share(said, ordinals, dict.fromkeys(ordinals.families, step)) for name, step in
               (("score", 1), ("copy", 0), ("back", -1))}  # fmt: skip
    columns |= {"control": null.mean(0), "control_high": np.quantile(null, 0.95, axis=0)}
    data = xr.Dataset(
        {name: (("layer", "head", "family"), values) for name, values in columns.items()},
        coords={"family": list(ordinals.families)},
    )
    provenance = Provenance(
        "succession", int((ordinals.following >= 0).sum()), seed, model.name, model.revision,
        settings={"draws": n_draws}, passes=2 * len(ordinals.tokens), warnings=ordinals.left_out,
    )  # fmt: skip
    return Scores(data, provenance)


def _share(said: np.ndarray, ordinals: Ordinals, steps: Mapping[str, int]) -> np.ndarray:
    """Share of words with a next one of which a head says the member `steps` on [layer, head, family]; round the end for steps
    other than +1."""
    shares = []
    for name, places in ordinals.families.items():
        here = np.array(places)
        asked = np.flatnonzero(ordinals.following[here] >= 0)
        wanted = ordinals.following[here][asked] if steps[name] == 1 else (asked + steps[name]) % len(here)
        found = said[..., here[asked]]
        share = (found == wanted).mean(-1)
        shares.append(np.where((found < 0).any(-1), np.nan, share))
    return np.stack(shares, -1)


def _other_steps(ordinals: Ordinals, n: int, seed: int) -> list[dict[str, int]]:
    rng = np.random.default_rng(seed)
    return [{name: int(rng.integers(2, len(places))) for name, places in ordinals.families.items()} for _ in range(n)]


def counting_on(survey: HeadSurvey) -> Behaviour:
    """The next member after three that follow one another, nats; as many rows of every family."""
    ordinals, rng = survey.ordinals, np.random.default_rng(survey.seed)
    each = max(4, 2 * survey.task_rows // len(ordinals.families))
    rows, answers = [], []
    for family in ordinals.families:
        runs = ordinals.runs(family, SHOWN + 1)
        for i in rng.permutation(len(runs))[:each]:
            ids = [ordinals.tokens[at] for at in runs[i]]
            rows.append((*survey.prefix, *ids[:-1]))
            answers.append(ids[-1])
    return Behaviour("a series goes on", Batch(tuple(rows)), log_prob(answers))


DETECTOR = Detector(
    "successor", "says the next of the word that it looks at", successor, "latent reasoning", counting_on
)
