"""Which neurons of an arithmetic model stand for a heuristic: a range, a residue, a digit, equal operands, a condition on both?

A neuron's map over the operand grid is its activation at the last position, and, for conditions on the result, also that times
what it writes directly towards the right answer, above the mean of all answers. A heuristic of P cells matches by the precision
of the P highest cells of the map; a neuron that falls far below 0 (gated MLPs) is read upside down, too. The best heuristic is
the one with the largest chance-corrected match, and it is the neuron's own where precision >= 0.6, lift over what chance reaches
>= 0.25 and q <= 0.05. Source: Nikankin et al. 2024 (maps, precision, 0.6). Departures: a residue modulo 2 reaches 0.5 by chance,
so lift and q are ours. The paper reads conditions on the result off the second map alone; a neuron that fires at random but
writes towards a range of answers matches that range there by its writes alone (neurons of the rote world: 80 of 120 named), so of
the second map only what exceeds shuffled activations with the real writes counts. And activations below a tenth of the neuron's
largest count as silence: their order would fill the top P of a neuron that fires on few cells (30 of 120 named). Control: the
same search with every neuron's activations shuffled over the grid (its best of the whole library in each draw). A neuron of which
one cell alone holds 60 % of the map's mass is an exact pair; shuffling says nothing of it, so it is named apart and has no q. The
thresholds were fixed on worlds of seeds 0 to 4. Cost: one forward of the cells; (1 + n_random) x neurons x heuristics x cells
multiplications.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from conceptlab.data.arithmetic import Arithmetic
from conceptlab.data.heuristics import Heuristics, heuristic_library
from conceptlab.errors import InputError
from conceptlab.evidence import q_values
from conceptlab.evidence.studentised import studentised_p
from conceptlab.measure.attribution.direct_logit import in_chunks
from conceptlab.model import Model
from conceptlab.model.components import final_stream
from conceptlab.model.frozen_end import freeze_end
from conceptlab.model.output_map import output_map
from conceptlab.numerics.top_cells import chance_corrected, shuffled_precision, top_cell_precision
from conceptlab.results import Provenance, Scores, Site, Units

CARD = {
    "name": "heuristic neurons",
    "paper": "Nikankin et al. 2024, Arithmetic Without Algorithms",
    "tags": ["neurons", "arithmetic"],
    "takes": "a model, cells of an operand grid with one-token answers, neurons",
    "returns": "Units",
    "cost": "one forward of the cells",
}
MATCH, LIFT, Q, ALONE, SILENT = 0.6, 0.25, 0.05, 0.6, 0.1
ROWS, N_MEAN = 64, 20  # cells pulled back at once; shuffles that say what the writes do alone


def heuristic_neurons(
    model: Model,
    cells: Arithmetic,
    answers: Sequence[int],
    neurons: Sequence[Site],
    *,
    n_random: int = 50,
    seed: int = 0,
) -> Units:
    """Match `neurons` (sites such as L5.N17.mlp_post) against the library of heuristics; `answers` [cell] are token ids.

    Axis unit: `score` chance-corrected match of the best heuristic, `control` its mean over shuffled grids, `p`, `q`; `best` and
    `kind` (its name; "" where it is not the neuron's own), `match`, `lift`, `alone` (share of the map's mass in its largest
    cell). `covers` [unit, cell]: the cells of the neuron's heuristic. `matches` [unit, heuristic]: precision. `member` [unit,
    heuristic]: at or above the thresholds, of neurons with q <= 0.05. `named_shuffled` [draw]: share of neurons whose best match
    in a shuffled grid is as good as the least of those named. Raises InputError for no neurons, neurons named twice, or answers
    that do not fit."""
    if not neurons or len(answers) != len(cells):
        raise InputError(
            f"{len(neurons)} neurons and {len(answers)} answers came for {len(cells)} cells; give one answer a cell"
        )
    at = [(site.layer or 0, unit) for site in neurons for unit in site.units]
    if len(set(at)) < len(at):
        raise InputError("a neuron is named twice; name each once")
    before, library = model.forwards, heuristic_library(cells)
    fired, writes = neuron_maps(model, cells.prompts, answers, at)
    fired = np.where(np.abs(fired) >= SILENT * np.abs(fired).max(1, keepdims=True), fired, 0)
    data = _table(library, cells, fired, *_matched(fired, writes, library, n_random, seed))
    data = data.assign(layer=("unit", np.array([a[0] for a in at])), index=("unit", np.array([a[1] for a in at])))
    settings = {"match": MATCH, "lift": LIFT, "q": Q, "alone": ALONE, "library": len(library), "operator": cells.operator,
                "n_random": n_random}  # fmt: skip
    provenance = Provenance(
        "heuristic neurons", len(cells), seed, model.name, model.revision, settings=settings,
        passes=round(model.forwards - before),
    )  # fmt: skip
    return Units("neuron", Scores(data, provenance))


@torch.no_grad()
def neuron_maps(
    model: Model, prompts: Sequence[str], answers: Sequence[int], at: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Activation at the last position, and what one unit of it writes directly to the answer above the mean answer, [neuron, cell]
    each; the norms are held at each cell's real stream."""
    acts = model.capture(model.encode(prompts), ["mlp_post", "mlp_out", "resid_post"])
    end = freeze_end(model, final_stream(model, acts))
    ids, every = torch.as_tensor(answers, dtype=torch.long), torch.unique(torch.as_tensor(answers))
    fired, writes = np.zeros((2, len(at), len(prompts)), dtype=np.float32)
    for layer in sorted({layer for layer, _ in at}):
        these = [i for i, (its, _) in enumerate(at) if its == layer]
        units = [at[i][1] for i in these]
        post, added = acts.at("mlp_post", layer), acts.at("mlp_out", layer)
        fired[these] = post[:, units].float().T.cpu().numpy()
        for rows in in_chunks(len(prompts), ROWS):
            here = end.select(torch.tensor(rows))
            mean = here.directions(every.expand(len(rows), -1)).mean(1, keepdim=True)
            through = output_map(model, "mlp_post", layer, post[rows], added[rows])
            pulled = through.pull(here.directions(ids[rows][:, None]) - mean)[:, 0, units]
            writes[np.ix_(these, rows)] = pulled.T.cpu().numpy()
    return fired, writes


def _matched(
    fired: np.ndarray, writes: np.ndarray, library: Heuristics, n_random: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and chance-corrected match [neuron, heuristic], and the largest of the latter in each shuffled grid [draw,
    neuron]."""
    every = np.tile(np.arange(fired.shape[1]), (n_random + N_MEAN, 1))
    orders = np.random.default_rng(seed).permuted(every, axis=1)
    precision = np.zeros((len(fired), len(library)))
    best = np.full((n_random, len(fired)), -np.inf)
    below = np.flatnonzero(fired.min(1) < -0.5 * fired.max(1))
    for maps, rows in ((fired, np.arange(len(fired))), (-fired[below], below)):
        if len(rows):
            precision[rows] = np.maximum(precision[rows], top_cell_precision(maps, library.masks))
            best[:, rows] = np.maximum(best[:, rows], shuffled_precision(maps, library.masks, orders[N_MEAN:]))
    kappa, result = chance_corrected(precision, library.masks), np.flatnonzero(library.reads_result)
    if len(result):
        masks = library.masks[result]
        shuffled = (chance_corrected(top_cell_precision(fired[:, o] * writes, masks), masks) for o in orders)
        blind = sum(next(shuffled) for _ in range(N_MEAN)) / N_MEAN  # by the writes alone
        found = top_cell_precision(fired * writes, masks)
        beyond = chance_corrected(found, masks) - blind
        better = beyond > kappa[:, result]
        precision[:, result] = np.where(better, found, precision[:, result])
        kappa[:, result] = np.where(better, beyond, kappa[:, result])
        for draw, one in enumerate(shuffled):
            best[draw] = np.maximum(best[draw], (one - blind).max(1))
    return precision, kappa, best


def _table(
    library: Heuristics, cells: Arithmetic, fired: np.ndarray, matches: np.ndarray, kappa: np.ndarray, null: np.ndarray
) -> xr.Dataset:
    # among equals the heuristic of more cells says more
    best = np.argmax(np.round(kappa, 6) + 1e-9 * library.masks.sum(1), axis=1)
    here = np.arange(len(matches))
    score, base = kappa[here, best], library.base
    p = studentised_p(score, null, sided=1)
    q = q_values(p)
    lift = kappa * (1 - base)  # precision above what chance, or the writes alone, reach
    member = (matches >= MATCH) & (lift >= LIFT) & (q <= Q)[:, None]
    own = member[here, best]
    alone, peak = _concentration(fired)
    pair = alone >= ALONE
    covers = np.where(own[:, None], library.masks[best], False)
    covers[pair] = np.arange(len(cells)) == peak[pair, None]
    names = np.where(own, np.array(library.names, dtype=object)[best], "")
    names[pair] = [f"left = {cells.left[c]} and right = {cells.right[c]}" for c in peak[pair]]
    kinds = np.where(own, np.array(library.kinds, dtype=object)[best], "")
    kinds[pair] = "exact pair"
    least = score[own].min() if own.any() else np.inf
    columns = {"score": score, "control": null.mean(0), "p": p, "q": q, "match": matches[here, best],
               "lift": lift[here, best], "alone": alone, "best": names.astype(str), "kind": kinds.astype(str)}  # fmt: skip
    return xr.Dataset(
        {
            **{name: ("unit", column) for name, column in columns.items()},
            "covers": (("unit", "cell"), covers),
            "matches": (("unit", "heuristic"), matches),
            "member": (("unit", "heuristic"), member),
            "named_shuffled": ("draw", (null >= least).mean(1)),
        },
        coords={"heuristic": list(library.names)},
        attrs={"kind": "neuron"},
    )


def _concentration(fired: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of a map's mass above its median that lies in its largest cell [neuron], and that cell [neuron]."""
    above = np.maximum(fired - np.median(fired, axis=1, keepdims=True), 0)
    total = above.sum(1)
    return np.where(total > 0, above.max(1) / np.where(total > 0, total, 1), 0.0), above.argmax(1)
