"""What every sender of the model's graph writes otherwise on the corrupted rows than on the clean ones.

Senders are the embedding, every head (its slice of the output projection, then the sublayer's own norm, then the residual
multiplier) and every MLP. Where a sublayer norms its own output (Gemma-2, OLMo-2), a head's part is taken with the norm's scale
of the run that it stands in, so that the changes of all senders add up to the change of the last stream; that they do is checked.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.gradients import Place, kept_positions
from conceptlab.model.model import Model
from conceptlab.model.output_map import OutputMap, output_map
from conceptlab.results import GraphShape

SAME = 1e-5  # of a stream's size: rounding between two batches
EXACT, ROUGH = 1e-4, 5e-2
Values = Mapping[Place, Tensor]


def sender_places(shape: GraphShape) -> list[Place]:
    """What must be read on both rows: the first and the last stream, and what heads and MLPs hold and add."""
    places: list[Place] = [("embed", None), ("resid_post", shape.n_layers - 1)]
    for layer in range(shape.n_layers):
        places += [("z", layer), ("attn_out", layer)]
        places += [] if layer in shape.attention_only else [("mlp_out", layer)]
    return places


def changed_positions(clean: Values, corrupted: Values) -> Tensor:
    """Positions [kept] at which anything is written otherwise (in a causal model, those from the first differing token on)."""
    moved = torch.zeros(clean["embed", None].shape[1], dtype=torch.bool)
    for place, ours in clean.items():
        if place[0] in ("z", "attn_out") or place not in corrupted:
            continue
        change = (corrupted[place] - ours).float().norm(dim=-1)
        moved |= (change > SAME * ours.float().norm(dim=-1)).any(0).cpu()
    return moved.nonzero().flatten()


def sender_changes(model: Model, shape: GraphShape, clean: Values, corrupted: Values, keep: Tensor) -> Tensor:
    """[sender, row, pos, d_model], float32: corrupted - clean at the kept positions [pos], in the graph's order.

    Raises SiteError where the changes do not add up to that of the last stream.
    """
    at_positions = kept_positions(keep)

    def pair(place: Place) -> tuple[Tensor, Tensor]:
        return clean[place][:, at_positions], corrupted[place][:, at_positions]

    first, other = pair(("embed", None))
    out = torch.empty(len(shape.senders), *first.shape, device=first.device)
    out[0] = other.float() - first.float()
    at = 1
    for layer in range(shape.n_layers):
        heads = out[at : at + shape.n_heads]
        _heads(model, layer, pair(("z", layer)), pair(("attn_out", layer)), heads.flatten(1, 2))
        at += shape.n_heads
        if layer not in shape.attention_only:
            ours, theirs = pair(("mlp_out", layer))
            out[at] = theirs.float() - ours.float()
            at += 1
    _add_up(model, out, pair(("resid_post", shape.n_layers - 1)))
    return out


def _heads(model: Model, layer: int, z: Sequence[Tensor], added: Sequence[Tensor], out: Tensor) -> None:
    """Fill `out` [head, token, d_model]."""
    clean, other = (t.flatten(0, 1) for t in z)
    few = slice(0, 4)
    made = output_map(model, "z", layer, clean[few], added[0].flatten(0, 1)[few])
    if made.norm is not None:
        made = output_map(model, "z", layer, clean, added[0].flatten(0, 1))
        moved = output_map(model, "z", layer, other, added[1].flatten(0, 1))
        change = other.float() * _scale(moved) - clean.float() * _scale(made)
    else:
        change = other.float() - clean.float()
    torch.bmm(change.transpose(0, 1), _weights(made, len(out)), out=out)


def _scale(made: OutputMap) -> Tensor:
    return made.norm.inverse.float()[:, None, None]  # type: ignore[union-attr]


def _weights(made: OutputMap, n_heads: int) -> Tensor:
    """The projection by head [head, d_head, d_model], with the norm's gain (and centring) and the residual multiplier in it."""
    matrix = made.matrix.float()
    if made.norm is not None:
        matrix = matrix - matrix.mean(-1, keepdim=True) if made.norm.centred else matrix
        matrix = matrix * made.norm.gain.float()
    matrix = matrix if made.scale == 1.0 else matrix * made.scale
    return matrix.unflatten(0, (n_heads, -1))


def _add_up(model: Model, out: Tensor, ends: tuple[Tensor, Tensor]) -> None:
    """Tried at the last position of every row."""
    ours, theirs = (t[:, -1].float() for t in ends)
    error = (out[:, :, -1].sum(0) - (theirs - ours)).norm()
    limit, rounding = EXACT, 0.0
    if ends[0].dtype not in (torch.float32, torch.float64):  # a deep model's stream is rounded at every sublayer
        limit, rounding = ROUGH, torch.finfo(ends[0].dtype).eps * (2 * model.n_layers) ** 0.5
    if error > limit * (theirs - ours).norm() + (0.1 * limit + rounding) * ours.norm():
        raise SiteError(
            f"{model.name}: what embedding, heads and MLPs write otherwise is not the change of the last stream (a bias before a "
            "sublayer's own norm?), so edges cannot be scored"
        )
