"""What sets of heads of an image tower do to what is read from pictures: `set_effects` for inputs that are no text.

Every set is silenced at all places (zero), and pictures are embedded again. Source: the soft pruning of Pruning the Paradox (2025).
Control: as many random heads outside all named sets, anywhere or with as many in every layer.
Cost: a forward a picture for every named and random set.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence.row_groups import row_groups
from conceptlab.measure.effects.set_effects import loss_table, random_like, unit_mask
from conceptlab.model.image_tower import ImageTower
from conceptlab.results import Edit, Provenance, Scores, Site

CARD = {
    "name": "effects of sets of heads on pictures",
    "paper": "Pruning the Paradox, 2025",
    "tags": ["effects", "ablation", "heads", "image-text"],
    "takes": "an image tower, pictures, named sets of heads, what is read from the embeddings",
    "returns": "Scores",
    "cost": "one forward a picture for each set and random set",
}


def picture_set_effects(  # noqa: PLR0913 - one experiment, fully stated
    tower: ImageTower, pictures: Tensor, sets: Mapping[str, Sequence[Site]], read: Callable[[Tensor], np.ndarray], *,
    same_layers: bool = False, n_random: int = 20, seed: int = 0,
) -> Scores:  # fmt: skip
    """Loss of what `read` makes of the embeddings [picture, d_joint] (a number a picture), clean less silenced, by set.

    Columns as those of `set_effects`; variable `losses` [set, picture]. Raises InputError for no or empty sets, units that the
    tower lacks, or too few others.
    """
    model, before = tower.model, tower.model.forwards
    if not sets or not all(sets.values()):
        raise InputError("no sets of heads were named, or one is empty; give at least one head in each")
    masks = {name: unit_mask(model, "z", name, units) for name, units in sets.items()}
    closed, items, place = np.any(list(masks.values()), axis=0), list(masks.values()), {}
    for name, mask in masks.items():
        place[name] = range(len(items), len(items) + n_random)
        items += list(random_like(name, mask, closed, n_random, seed, same_layers=same_layers))
    clean = read(tower.embedded(pictures))
    loss = np.stack([clean - read(_silenced(tower, pictures, mask)) for mask in items])
    data = loss_table(loss, masks, place, row_groups(None, len(pictures)), seed)
    data["losses"] = (("set", "picture"), loss[: len(masks)])
    data.attrs["clean"] = float(clean.mean())
    settings = {"op": "zero", "n_random": n_random, "same_layers": same_layers}
    listed = {name: [str(unit) for unit in units] for name, units in sets.items()}
    return Scores(data, Provenance(
        "effects of sets of heads on pictures", len(pictures), seed, model.name, model.revision, causal="ablation",
        settings={**settings, "sets": listed}, passes=round(model.forwards - before),
    ))  # fmt: skip


def _silenced(tower: ImageTower, pictures: Tensor, mask: np.ndarray) -> Tensor:
    """Embeddings without the heads of `mask` [layer, head]."""
    found = (Site("z", int(layer), tuple(np.flatnonzero(of).tolist())) for layer, of in enumerate(mask) if of.any())
    with tower.model.edited(*(Edit(site, "zero") for site in found)):
        return tower.embedded(pictures)
