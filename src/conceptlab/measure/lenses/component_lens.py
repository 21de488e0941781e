"""Component lens: what each head, MLP or bias by itself says in the vocabulary, the final norm held at the real stream.

The reading of a component is its own share of the final logits, so readings of all components add up (a component's own norm would
make a faint one shout). Source: Elhage et al. 2021; Geva et al. 2022 (sublayers as additive updates in the vocabulary).
Control: random tokens of the same kind in the target's place (`evidence.random_tokens`).
Cost: one forward and one unembedding a component of the asked rows, in pieces within `budget_bytes`.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.random_tokens import token_pool
from conceptlab.evidence.row_groups import row_groups
from conceptlab.evidence.studentised import studentised_p
from conceptlab.measure.lenses.lens_pass import BUDGET_BYTES, token_chunks
from conceptlab.measure.lenses.targets import target_ids, token_texts
from conceptlab.model import Model
from conceptlab.model.components import By, component_sites, components, final_stream
from conceptlab.model.frozen_end import FrozenEnd, freeze_end
from conceptlab.model.model import Texts
from conceptlab.numerics.token_ranks import ranks
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "component lens",
    "paper": "Elhage et al. 2021; Geva et al. 2022",
    "tags": ["lens", "heads", "logits"],
    "takes": "a model, texts, target tokens",
    "returns": "Scores",
    "cost": "one forward, one unembedding a component of the rows",
}


@torch.no_grad()
def component_lens(  # noqa: PLR0913 - the lens and what to read through it
    model: Model,
    texts: Texts,
    targets: Sequence[Sequence[int]] | Tensor,
    *,
    target_names: Sequence[str] | None = None,
    by: By = "head",
    groups: Sequence[int | str] | None = None,
    pool: Sequence[int] | None = None,
    k: int = 5,
    n_random: int = 200,
    max_rows: int = 64,
    budget_bytes: int = BUDGET_BYTES,
    seed: int = 0,
) -> Scores:
    """Read every component at the last position; `targets` [row, target] token ids (-1: none in this row).

    Axes component, target: `score` mean logit (its share of the logits before a soft cap) less the mean over the vocabulary, `low`,
    `high` (bootstrap over rows), `control` for random tokens, `p` two-sided, `q` over components and targets, `rank` mean rank.
    `each` [row, component, target]; `top_id`, `top_text` [row, component, k].
    Raises InputError for targets that do not fit, SiteError where the stream is no sum of components.
    """
    batch = model.encode(texts)
    ids = target_ids(model, targets, len(batch))
    before, known = model.forwards, ids.numpy() >= 0
    drawn = token_pool(ids.numpy()[known], model.unembedding.shape[0], pool=pool, seed=seed)
    together = row_groups(groups, len(batch))
    places = np.random.default_rng(seed).integers(0, len(drawn), (int(together.max()) + 1, n_random))
    random = torch.from_numpy(drawn[places[together]])
    names: list[str] = []
    pieces: list[dict[str, np.ndarray]] = []
    for start in range(0, len(batch), max_rows):
        rows = list(range(start, min(start + max_rows, len(batch))))
        acts = model.capture(batch.select(rows), component_sites(model, by))
        end = freeze_end(model, final_stream(model, acts))
        found = list(components(model, acts, by))
        names = [name for block, _ in found for name in block]
        read = [_read(end, part, ids[rows], random[rows], k, budget_bytes) for _, part in found]
        pieces.append({name: np.concatenate([r[name] for r in read], 1) for name in read[0]})
    whole = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
    data = _table(whole, known, together, seed)
    data["top_text"] = (("row", "component", "k"), token_texts(model, whole["top_id"]))
    targets_named = list(target_names or map(str, range(ids.shape[1])))
    settings = {"by": by, "k": k, "n_random": n_random, "pool": len(drawn)}
    provenance = Provenance(
        "component lens", len(batch), seed, model.name, model.revision,
        settings=settings, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data.assign_coords(component=names, target=targets_named), provenance)


def _read(
    end: FrozenEnd, parts: Tensor, ids: Tensor, random: Tensor, k: int, budget_bytes: int
) -> dict[str, np.ndarray]:
    """Read-outs [row, component, ...] of parts [row, component, d_model]."""
    out: list[dict[str, Tensor]] = []
    for rows in token_chunks(len(parts), end.unembedding.shape[0] * parts.shape[1], budget_bytes):
        logits = end.select(torch.arange(len(parts))[rows]).logits(parts[rows])
        logits = logits - logits.mean(-1, keepdim=True)
        flat, n = logits.flatten(0, 1), parts.shape[1]
        wanted, drawn = (t[rows].repeat_interleave(n, 0).to(flat.device) for t in (ids.clamp_min(0), random))
        top = flat.topk(min(k, flat.shape[-1]), -1).indices
        read = {
            "each": flat.gather(1, wanted),
            "rank": ranks(flat, wanted),
            "random": flat.gather(1, drawn),
            "top_id": top,
        }
        out.append({name: value.unflatten(0, logits.shape[:2]) for name, value in read.items()})
    return {name: torch.cat([o[name] for o in out]).cpu().numpy() for name in out[0]}


def _table(found: dict[str, np.ndarray], known: np.ndarray, together: np.ndarray, seed: int) -> xr.Dataset:
    """Means over the rows that have the target, and random tokens' means over the same rows."""
    by = ("component", "target")
    each = np.where(known[:, None], found["each"], np.nan).astype(float)
    score, shape = np.nanmean(each, 0), each.shape[1:]
    low, high, null = np.zeros(shape), np.zeros(shape), np.zeros((found["random"].shape[-1], *shape))
    for t in range(shape[1]):
        rows = known[:, t]
        low[:, t], high[:, t] = bootstrap_mean(each[rows, :, t], together[rows], seed=seed)
        null[..., t] = found["random"][rows].astype(float).mean(0).T
    p = studentised_p(score, null)
    columns = {
        "score": score, "low": low, "high": high, "control": null.mean(0), "p": p,
        "q": q_values(p.ravel()).reshape(shape), "rank": np.nanmean(np.where(known[:, None], found["rank"], np.nan), 0),
    }  # fmt: skip
    data = {name: (by, column) for name, column in columns.items()}
    more = {"each": (("row", *by), each), "top_id": (("row", "component", "k"), found["top_id"])}
    return xr.Dataset({**data, **more})
