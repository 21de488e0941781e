"""Patch a state of cases that succeed into cases that fail: how many are repaired, layer by layer.

One position's stream, as it enters a block, is taken from a donor (a prompt that succeeds and shares what the failing one may
lack, a relation say) and set in the failing prompt; a case is repaired when its first choice becomes the right answer. Source:
The Curious Case of Analogies (patching relation states into failing analogies). Control: donors that succeed but do not share it
(another relation): a patch that helps whatever it brings is no repair of that. Cost: one forward of the donors and the wrong
donors, and a sweep of two edits a layer over the failing rows.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.row_groups import row_groups
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.metric import right
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Provenance, Scores, Site

CARD = {
    "name": "patch and repair",
    "paper": "The Curious Case of Analogies",
    "tags": ["patching", "depth", "stream"],
    "takes": "a model, failing texts, donors and wrong donors, positions, answer tokens",
    "returns": "Scores",
    "cost": "a sweep of two edits a layer over the failing rows",
}
At = int | Sequence[int]  # one real-token position for all rows, or one a row; negative from the end


def patch_and_repair(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    failing: Texts,
    donors: Texts,
    wrong_donors: Texts,
    answers: Sequence[int],
    *,
    at: At,
    donor_at: At | None = None,
    wrong_at: At | None = None,
    site: str = "resid_pre",
    groups: Sequence[int | str] | None = None,
    seed: int = 0,
) -> Scores:
    """Repair rates of `failing` when position `at` gets the state of `donors` at `donor_at` (default: the same), row by row.

    Axis layer (the block whose `site` is set): `score` share of rows whose first choice becomes `answers` (token ids [row]),
    `low`, `high` (bootstrap over rows, or `groups`), `control`, `control_low`, `control_high` the same with `wrong_donors`, `p`
    that donors repair more than wrong ones, `q` over layers; `each`, `each_control` [layer, row], `group` [row]. Attribute
    `right_before`: share that was right unpatched. Raises InputError for counts that differ and positions that do not exist,
    SiteError where the model lacks the site.
    """
    batches = [model.encode(texts) for texts in (failing, donors, wrong_donors)]
    if len({len(b) for b in batches} | {len(answers)}) > 1:
        raise InputError(
            f"{len(batches[0])} failing texts, {len(batches[1])} donors, {len(batches[2])} wrong donors and {len(answers)} answers "
            "came; give one of each a row"
        )
    wanted = (at, at if donor_at is None else donor_at, at if wrong_at is None else wrong_at)
    places = [_places(batch, asked) for batch, asked in zip(batches, wanted, strict=True)]
    before, together, layers = model.forwards, row_groups(groups, len(answers)), model.layers_with(site)
    model.tap(site, layers[0] if layers else 0)  # says why, where no layer has it
    edits = []
    for batch, place in zip(batches[1:], places[1:], strict=True):
        acts = model.capture(batch, site, positions=place)
        edits += [Edit(Site(site, layer), "set", value=acts.at(site, layer), positions=places[0]) for layer in layers]  # type: ignore[arg-type]
    found = sweep(model, batches[0], edits, right(answers))
    real, wrong = found.values[: len(layers)], found.values[len(layers) :]  # [layer, row]
    data = _table(real, wrong, together, seed).assign_coords(layer=list(layers))
    data.attrs["right_before"] = float(found.clean.mean())
    warnings = (
        ()
        if found.clean.max() == 0
        else (f"{int(found.clean.sum())} of the failing rows are right unpatched; leave them out",)
    )
    provenance = Provenance(
        "patch and repair", len(answers), seed, model.name, model.revision, settings={"site": site},
        passes=round(model.forwards - before), causal="patching", warnings=(*warnings, *found.notes),
    )  # fmt: skip
    return Scores(data, provenance)


def _places(batch: Batch, at: At) -> list[list[int]]:
    """The position of each row, counted from the start, as capture and edits take it."""
    asked = [at] * len(batch) if isinstance(at, int) else list(at)
    if len(asked) != len(batch):
        raise InputError(f"{len(asked)} positions came for {len(batch)} texts; give one for all or one a text")
    found = [p + n if p < 0 else p for p, n in zip(asked, batch.lengths, strict=True)]
    for row, (p, n) in enumerate(zip(found, batch.lengths, strict=True)):
        if not 0 <= p < n:
            raise InputError(f"row {row} has {n} tokens; there is no position {asked[row]}")
    return [[p] for p in found]


def _table(real: np.ndarray, wrong: np.ndarray, together: np.ndarray, seed: int) -> xr.Dataset:
    low, high = bootstrap_mean(real.T, together, seed=seed)
    wrong_low, wrong_high = bootstrap_mean(wrong.T, together, seed=seed)
    by_group = np.stack([(real - wrong)[:, together == g].mean(1) for g in range(int(together.max()) + 1)])
    p = sign_flip_p(by_group, seed=seed)
    columns = {
        "score": real.mean(1),
        "low": low,
        "high": high,
        "control": wrong.mean(1),
        "control_low": wrong_low,
        "control_high": wrong_high,
        "p": p,
        "q": q_values(p),
    }
    data = xr.Dataset({name: ("layer", column) for name, column in columns.items()})
    return data.assign(each=(("layer", "row"), real), each_control=(("layer", "row"), wrong), group=("row", together))


def choose_donors(
    failing: Sequence[int], solved: Sequence[int], labels: Sequence[str], *, each: int = 3, seed: int = 0
) -> tuple[list[int], list[int], list[int]]:
    """Row numbers of failing cases (`each` times), donors and wrong donors: solved cases with the same and another label.

    Failing cases without a solved one of either kind are left out.
    """
    rng, label, known = np.random.default_rng(seed), np.asarray(labels), np.asarray(solved)
    rows, donors, wrong = [], [], []
    for row in failing:
        same, other = known[label[known] == label[row]], known[label[known] != label[row]]
        if len(same) and len(other):
            rows += [int(row)] * each
            donors += rng.choice(same, each).tolist()
            wrong += rng.choice(other, each).tolist()
    return rows, donors, wrong


def held_out_repair(repair: Scores, *, seed: int = 0) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """The layer that repairs most on half of the cases, and on the others: repaired, repaired by wrong donors, case [row]."""
    each, wrong, case = (repair[name].values for name in ("each", "each_control", "group"))
    half = np.isin(case, np.random.default_rng(seed).permutation(np.unique(case))[::2])
    best = int(each[:, half].mean(1).argmax())
    return int(repair["layer"].values[best]), each[best, ~half], wrong[best, ~half], case[~half]
