"""Direct logit attribution at one token of a prompt: what every layer, head, MLP and source token gives to the logit of a target.

The parts are those of `measure.attribution.direct_logit`, the final norm held at the real stream, so that they add up to the logit;
the page says by how much they do not. What the heads bring is split once more over the tokens they read: weight x value, through
the output projection (`token_lens` does the same for spans). Control: random tokens in the target's place; for source tokens the
values of the row in random order. Cost: one forward up to the token, and its attention once more on the kept pass, of one query.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from conceptlab.errors import InputError, SiteError
from conceptlab.measure.attribution.direct_logit import direct_logit
from conceptlab.model.batch import Batch
from conceptlab.model.blocks import CleanRun
from conceptlab.model.frozen_end import freeze_end
from conceptlab.model.output_map import output_map
from conceptlab.results import Scores
from conceptlab.web.jobs import Said
from conceptlab.web.live.attention_row import read_row
from conceptlab.web.live.lens_grid import names_of
from conceptlab.web.live.one_pass import Prompt, loaded, one_pass, read_prompt, token_id

if TYPE_CHECKING:
    from conceptlab.model import Model

DRAWS = 50


@dataclass(frozen=True, eq=False)
class Contributions:
    """`scores` of `direct_logit` at `token`; `sources` [layer, token] and their control `sources_control` [token] (95 % of draws in
    size, layers summed), or None with the reason in `no_sources`; `target` and `distractor` ids, `names` their texts."""

    prompt: Prompt
    token: int
    target: int
    distractor: int | None
    names: dict[int, str]
    scores: Scores
    sources: np.ndarray | None
    sources_control: np.ndarray | None
    no_sources: str


def contributions(
    live: Any, text: str, token: int | None = None, target: str = "", distractor: str = ""
) -> Generator[Said, None, Contributions]:
    """Attribute the logit of `target` (text or #id; default: the next token of the prompt, at its end the model's first choice), or
    its difference to `distractor`, at `token` (default: the last).

    Raises InputError for tokens that do not fit, SiteError where the stream is no sum of parts.
    """
    model = yield from loaded(live)
    prompt = read_prompt(model, text)
    at = len(prompt) - 1 if token is None else token
    if not 0 <= at < len(prompt):
        raise InputError(f"the prompt has tokens 0 to {len(prompt) - 1}; {token} was asked")
    wrong = token_id(model, distractor, "distractor") if distractor else None
    right = asked_target(model, prompt, at, target)
    if wrong == right:
        raise InputError("target and distractor are the same token; choose another distractor")
    until = Batch(
        (prompt.ids[: at + 1],)
    )  # what comes later cannot reach this token of a causal model, but does in others
    batch = until if is_causal(model) else prompt.batch
    yield Said(0.2, "heads and MLPs")
    scores = direct_logit(model, batch, [right], None if wrong is None else [wrong], position=at)
    yield Said(0.6, "source tokens")
    sources, control, why = None, None, ""
    try:
        sources, control = yield from by_source(one_pass(model, prompt), at, len(batch.ids[0]), right, wrong)
    except SiteError as error:
        why = str(error)
    ids = np.array([right] if wrong is None else [right, wrong])
    names = dict(zip(ids.tolist(), names_of(model, ids), strict=True))
    return Contributions(prompt, at, right, wrong, names, scores, sources, control, why)


def asked_target(model: "Model", prompt: Prompt, at: int, target: str) -> int:
    """The target's id: the given one, else the next token, at the end the model's first choice."""
    if target:
        return token_id(model, target, "target")
    if at + 1 < len(prompt):
        return prompt.ids[at + 1]
    model.unembedding  # noqa: B018 - raises with the reason where the model has none
    return int(model.lens(one_pass(model, prompt).streams[-1, 0, -1:])[0].argmax())


def is_causal(model: "Model") -> bool:
    """Whether a token sees nothing of what comes later, tried on two short prompts."""
    known = _CAUSAL.get(model)
    if known is None:
        ids = [5, 6, 7, 8]
        size = model.unembedding.shape[0]
        rows = [Batch((tuple(min(i, size - 1) for i in row),)) for row in (ids, [*ids[:3], 9])]
        first, second = (model.capture(row, "resid_post", positions=[0])["resid_post"] for row in rows)
        known = _CAUSAL[model] = bool(torch.allclose(first, second, rtol=1e-4, atol=1e-5))
    return known


_CAUSAL: "WeakKeyDictionary[Model, bool]" = WeakKeyDictionary()


@torch.no_grad()
def by_source(
    run: CleanRun, at: int, n_keys: int, right: int, wrong: int | None
) -> Generator[Said, None, tuple[np.ndarray, np.ndarray]]:
    """What attention brings from each of the first `n_keys` tokens to `at` in logits, [layer, token] float64, and 95 % of what
    values in random order bring, [token]. Raises SiteError where a layer has no readable pattern."""
    model, layers = run.model, run.model.layers_with("attn_out")
    for layer in layers or (0,):
        for site in ("attn_out", "pattern", "v", "z"):
            model.tap(site, layer)
    end = freeze_end(model, run.streams[-1, 0, at : at + 1])
    asked = torch.tensor([[right]])
    direction = end.directions(asked) if wrong is None else end.between(asked, torch.tensor([[wrong]]))
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(n_keys, generator=generator) for _ in range(DRAWS)])
    found, null = np.zeros((model.n_layers, n_keys)), torch.zeros(DRAWS, n_keys, dtype=torch.float64)
    for layer in layers:
        row = read_row(run, layer, at)
        through = output_map(model, "z", layer, row.z, row.added)
        pulled = through.pull(direction)[0, 0].unflatten(-1, row.v.shape[1:])
        said = torch.einsum("khd,hd->hk", row.v[:n_keys].double(), pulled.to(row.v.device)).cpu()
        weights = row.pattern[:, :n_keys]
        found[layer] = (weights * said).sum(0).numpy()
        null += torch.stack([(weights * said[:, order]).sum(0) for order in orders])
        yield Said(0.5 + 0.5 * (layer + 1) / model.n_layers, f"tokens that layer {layer} reads")
    return found, null.abs().quantile(0.95, dim=0).numpy()
