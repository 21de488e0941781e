"""Which heads attend, and which neurons fire, otherwise on the prompts of one task than on those of another?

At the last position every head is read by five numbers (attention to the first token, to itself, mean distance in tokens,
entropy, norm of its output) and every neuron by its activation. Statistic: the largest |correlation| of these with the task.
Correlational by design: a part that tells the two kinds of prompts apart need not serve either, and a part that serves one may
look alike on both; `selective_units` and `double_dissociation` ask what is used. Source: after Disentangling Recall and Reasoning
in Transformer Models (layer-wise attention and activation analysis). Control: the same statistic under shuffled tasks, pooled
over heads and over neurons; q is over all of them together. Cost: one forward of the rows with patterns; 2 x rows x neurons x (1
+ permutations) flops.
"""

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.evidence import permuted_labels, pooled_p, q_values
from conceptlab.find.neurons.readable_neurons import association
from conceptlab.measure.effects.paired_tasks import PairedTask, two_tasks
from conceptlab.measure.probing.columns import Problem
from conceptlab.model import Model
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "task contrast",
    "paper": "Disentangling Recall and Reasoning in Transformer Models (attention and activation analysis)",
    "tags": ["heads", "neurons", "attention"],
    "takes": "a model, the prompts of two tasks",
    "returns": "Scores",
    "cost": "one forward of the rows",
}
READINGS = ("first token", "itself", "distance", "entropy", "output norm")


def task_contrast(model: Model, tasks: Mapping[str, PairedTask], *, n_permutations: int = 200, seed: int = 0) -> Scores:
    """Search every head and neuron that the model has. Axis unit: `score` (|r|), `control` mean under shuffled tasks, `p`, `q`,
    `kind`, `layer`, `index`, and `reading`, which of `READINGS` it was (a head's; "activation" for a neuron).

    Raises InputError as `two_tasks`; SiteError where the model has neither heads nor neurons. Attention that cannot be read
    leaves a head's output norm, and `warnings` says so.
    """
    names, before = two_tasks(tasks), model.forwards
    labels = np.repeat([0, 1], [len(task) for task in tasks.values()])
    shuffled = permuted_labels(labels, None, n_permutations, seed)
    problem = Problem(np.concatenate([labels[None], shuffled]), np.zeros(len(labels), dtype=int), "binary", "accuracy")
    parts = [*_heads(model, tasks, problem), *_neurons(model, tasks, problem)]
    if not parts:
        raise SiteError(f"{model.name} has neither heads nor neurons that can be told apart; nothing can be contrasted")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    data = xr.Dataset({name: ("unit", values) for name, values in {**columns, "q": q_values(columns["p"])}.items()})
    dark = [layer for layer in model.layers_with("z") if layer not in model.layers_with("pattern")]
    warnings = (
        (f"attention cannot be read in layers {dark}; their heads stand with the norm of their output",) if dark else ()
    )
    return Scores(data, Provenance(
        "task contrast", len(labels), seed, model.name, model.revision, passes=round(model.forwards - before), warnings=warnings,
        settings={"tasks": list(names), "n_permutations": n_permutations, "positions": "last"},
    ))  # fmt: skip


def attention_readings(pattern: Tensor, lengths: Tensor) -> Tensor:
    """The first four of `READINGS` [row, head, 4] of last rows of attention `pattern` [row, head, key], 0 beyond `lengths`."""
    own = (lengths - 1).to(pattern.device)
    places = torch.arange(pattern.shape[-1], device=pattern.device)
    away = (own[:, None] - places).clamp_min(0).to(pattern)
    mine = pattern.gather(2, own[:, None, None].expand(*pattern.shape[:2], 1))[..., 0]
    entropy = -torch.xlogy(pattern, pattern).sum(-1)
    return torch.stack([pattern[..., 0], mine, (pattern * away[:, None]).sum(-1), entropy], -1)


def _heads(model: Model, tasks: Mapping[str, PairedTask], problem: Problem) -> list[dict[str, np.ndarray]]:
    found = []
    seen = set(model.layers_with("pattern"))
    for layer in model.layers_with("z"):
        sites = ["z", "pattern"] if layer in seen else ["z"]
        rows = []
        for task in tasks.values():
            acts = model.capture(task.clean, sites, layers=[layer])
            norm = acts["z"][:, 0].float().norm(dim=-1)[..., None]
            read = (
                [attention_readings(acts["pattern"][:, 0].float(), torch.tensor(task.clean.lengths))]
                if layer in seen
                else []
            )
            rows.append(torch.cat([*read, norm], -1).cpu())
        values = torch.cat(rows)  # [row, head, reading]
        each = association(values.flatten(1), problem).unflatten(1, values.shape[1:]).numpy()  # [draw, head, reading]
        named = np.array(READINGS[-values.shape[2] :])[each[0].argmax(-1)]
        found.append((layer, each.max(-1), named))
    return _columns("head", found)


def _neurons(model: Model, tasks: Mapping[str, PairedTask], problem: Problem) -> list[dict[str, np.ndarray]]:
    found = []
    for layer in model.layers_with("mlp_post"):
        acts = [model.capture(task.clean, "mlp_post", layers=[layer])["mlp_post"][:, 0] for task in tasks.values()]
        parts = [association(part.cpu(), problem) for part in torch.cat(acts).split(8192, dim=1)]
        each = torch.cat(parts, 1).numpy()
        found.append((layer, each, np.full(each.shape[1], "activation")))
    return _columns("neuron", found)


def _columns(kind: str, found: list[tuple[int, np.ndarray, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """One table of all layers; p under the null of all units of the kind."""
    if not found:
        return []
    scores = np.concatenate([each for _, each, _ in found], 1)  # [draw, unit]
    return [{
        "score": scores[0], "control": scores[1:].mean(0), "p": np.where(scores[0] > 0, pooled_p(scores[0], scores[1:]), 1.0),
        "kind": np.full(scores.shape[1], kind), "layer": np.concatenate([np.full(e.shape[1], layer) for layer, e, _ in found]),
        "index": np.concatenate([np.arange(e.shape[1]) for _, e, _ in found]), "reading": np.concatenate([n for *_, n in found]),
    }]  # fmt: skip
