"""The identities that every model must satisfy, tested through the public API against plain hooks and the plain forward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.errors import ConceptlabError, SiteError
from conceptlab.model import Model
from conceptlab.results import Edit, Site

from .case import ENDS, Case, Outcome, judged, relative, site_table
from .references import disturbed, library_attentions, plain_values, sublayers

ROUNDING = 1e-5  # float32, where sums are taken in another order
PATTERN = 1e-6  # where the pattern has to be formed explicitly
GENERATED = 1e-4  # float32, after six steps through another kernel
PARTS = ("attn_out", "cross_attn_out", "mixer_out", "mlp_out", "extra_out")


# -- the identities ----------------------------------------------------------------------------------------------------
def same_logits(case: Case) -> Outcome:
    """With every site read at once, the model's output is bit-identical to the plain forward's, and so it is afterwards."""
    plain, table = _output(case), site_table(case.model)
    names = [n for n, layers in table.items() if isinstance(layers, list)]
    for layers in _capturable(case, names):
        read = case.capture(*names, layers=layers)
        if case.model.has_logits and not torch.equal(read["logits"], plain.reshape(-1, plain.shape[-1])):
            return Outcome("FAIL", relative(read["logits"], plain[0]), "logits differ while sites are read")
    again = _output(case)
    return Outcome("pass" if torch.equal(plain, again) else "FAIL", relative(again, plain))


def _capturable(case: Case, names: list[str]) -> list[list[int] | None]:
    """All layers in one call, or the layers that have every site one by one where their shapes differ."""
    try:
        case.capture(*names)
    except ConceptlabError:
        inner = [set(case.model.layers_with(n)) for n in names if n not in ENDS]
        return [[layer] for layer in sorted(set.intersection(*inner))]
    return [None]


def _output(case: Case) -> Tensor:
    """The plain forward's logits, or its last stream."""
    with torch.no_grad():
        output = case.model.runner(**case.plain)
    found = getattr(output, "logits", None)
    found = found if isinstance(found, Tensor) else getattr(output, "last_hidden_state", None)
    return found if isinstance(found, Tensor) else next(v for v in output.values() if isinstance(v, Tensor))


def equals_hooks(case: Case) -> Outcome:
    """What `capture` gives is bitwise what plain hooks on modules picked by name see."""
    stack = case.model.stack
    values, _ = plain_values(case.model.runner, case.plain, case.model.n_layers, stack.name)
    wrong, seen, worst, gated = [], set(), 0.0, []
    for (site, layer), value in sorted(values.items()):
        if layer not in case.model.layers_with(site):
            continue
        mine = case.capture(site, layers=[layer])[site][:, 0].flatten(1)
        if site.startswith("mlp_pre") and value.numel() == 2 * mine.numel():
            continue  # gate and up in one map, which the name does not tell apart
        error = relative(mine, value.reshape(len(mine), -1)) if value.numel() == mine.numel() else math.inf
        if site == "z" and error > 0 and _mixed(case, layer) <= ROUNDING:
            gated.append(layer)  # the projection reads z after a gate; z itself is pattern @ v
            continue
        seen.add(site)
        worst = max(worst, error)
        wrong += [f"L{layer}.{site}"] if error > 0 else []
    note = f"compared: {', '.join(sorted(seen))}" + (f"; z before a gate at layers {gated}" if gated else "")
    if not seen:
        return Outcome("missing", None, "the modules' names do not tell where the blocks are")
    return Outcome("FAIL", worst, f"differ: {', '.join(wrong)}") if wrong else Outcome("pass", worst, note)


def parts_add_up(case: Case) -> Outcome:
    """resid_pre + what the sublayers add = resid_post; in post-norm blocks, a norm of the sum."""
    worst, told = None, []
    for layer, block in enumerate(case.model.stack.blocks):
        names = [n for n in PARTS if n in block.taps]
        if not names:
            told.append(block.missing.get("attn_out", "no parts"))
            continue
        mid = ["resid_mid"] if "resid_mid" in block.taps else []
        acts = case.capture("resid_pre", *names, *mid, "resid_post", layers=[layer])
        error = _sum_error(acts, names, block.module, bool(mid))
        if error == math.inf and "no outputs" in block.missing.get("attn_out", ""):
            told.append(block.missing["attn_out"])
            continue
        worst = max(worst or 0.0, error)
    if worst is None:
        return Outcome("missing", None, "; ".join(dict.fromkeys(told)))
    return judged(worst, ROUNDING, "; ".join(dict.fromkeys(told)))


def _sum_error(acts: Any, names: list[str], block: nn.Module, has_mid: bool) -> float:
    pre, post = acts["resid_pre"][:, 0], acts["resid_post"][:, 0]
    parts = [acts[n][:, 0] for n in names]
    error = relative(pre + sum(parts), post)
    if has_mid and error <= ROUNDING:
        error = max(error, relative(pre + parts[0], acts["resid_mid"][:, 0]))
    if error <= ROUNDING or not has_mid or not _norms(block, pre):
        return error if error <= 1e-2 else math.inf
    error, stream = 0.0, pre
    for part, wanted in zip(parts, [acts["resid_mid"][:, 0], *[None] * (len(parts) - 2), post], strict=True):
        normed = _norms(block, stream + part)
        if wanted is None:  # between cross-attention and MLP no site is read; its norm stands between the other two
            stream = normed[len(normed) // 2]
            continue
        stream = min(normed, key=lambda n, wanted=wanted: relative(n, wanted))
        error = max(error, relative(stream, wanted))
    return error


def _norms(block: nn.Module, given: Tensor) -> list[Tensor]:
    """What each norm of the block makes of a stream, in order."""
    with torch.no_grad():
        return [m(given) for m in block.modules() if "norm" in type(m).__name__.lower()]


def pattern_mixes_values(case: Case) -> Outcome:
    """pattern @ v = z at every layer that has the three."""
    layers = [i for i in case.model.layers_with("pattern") if i in case.model.layers_with("z")]
    if not layers:
        return Outcome("missing", None, _why(case.model, "pattern"))
    return judged(max(_mixed(case, layer) for layer in layers), ROUNDING)


def _mixed(case: Case, layer: int) -> float:
    if layer not in case.model.layers_with("pattern"):
        return math.inf
    acts = case.capture("pattern", "v", "z", layers=[layer])
    pattern, v = acts["pattern"][:, 0], acts["v"][:, 0]  # [query, head, key], [key, kv_head, d_head]
    v = v.repeat_interleave(pattern.shape[1] // v.shape[1], dim=1)
    return relative(torch.einsum("qhk,khd->qhd", pattern[..., : len(v)], v), acts["z"][:, 0])


def _why(model: Model, site: str) -> str:
    found = site_table(model)[site]
    return found if isinstance(found, str) else "no layer has it"


def library_pattern(case: Case) -> Outcome:
    """The pattern is the one that transformers itself returns with its explicit attention."""
    layers = case.model.layers_with("pattern")
    if not layers:
        return Outcome("missing", None, _why(case.model, "pattern"))
    weights = library_attentions(case.model.runner, case.plain)
    if len(weights) != len(layers):
        return Outcome("missing", None, "transformers returns no attention weights to compare with")
    worst = 0.0
    for layer, weight in zip(layers, weights, strict=True):
        mine = case.capture("pattern", layers=[layer])["pattern"][:, 0]
        worst = max(worst, relative(mine, weight[0].transpose(0, 1)[..., : mine.shape[-1]]))
    return judged(worst, ROUNDING)


def lens_is_logits(case: Case) -> Outcome:
    """The lens of the last stream is the logits, bitwise, given the forward's own shape."""
    model = case.model
    if not model.has_logits or "lens" in model.stack.missing:
        return Outcome("missing", None, model.stack.missing.get("logits") or model.stack.missing["lens"])
    last = model.n_layers - 1
    acts = model.capture(case.given, ["resid_post", "logits"], layers=[last], positions="all")
    with torch.no_grad():
        return judged(relative(model.lens(acts.at("resid_post", last)[None])[0], acts["logits"]), 0.0)


def _padding(side: str) -> Callable[[Case], Outcome]:
    def batched_is_alone(case: Case) -> Outcome:
        """Rows of a ragged batch give on their real tokens what they give alone: logits and every stream."""
        batch, model = case.ragged, case.model
        if batch is None:
            return Outcome("missing", None, "this model reads no ragged rows")
        sites = ["resid_post", *(["logits"] if model.has_logits else [])]
        options: dict[str, Any] = {"positions": "all", "max_tokens": 10**6}
        try:
            together = model.capture(batch, sites, padding_side=side, **options)
        except ConceptlabError as error:
            return Outcome("missing", None, str(error).split(": ", 1)[-1])
        alone = [model.capture(batch.select([row]), sites, **options) for row in range(len(batch))]
        errors = [relative(together[s], torch.cat([a[s] for a in alone])) for s in sites]
        return judged(max(errors), ROUNDING)

    return batched_is_alone


def _writable(case: Case) -> list[Site]:
    """Every site at the first and the last layer that has it."""
    sites = []
    for name, layers in site_table(case.model).items():
        if name in ENDS and isinstance(layers, list):
            sites.append(Site(name))
        elif isinstance(layers, list):
            sites += [Site(name, layer) for layer in dict.fromkeys([*layers[:1], *layers[-1:]])]
    return sites


def _read(case: Case, site: Site) -> Tensor:
    value = case.capture(site.name, layers=None if site.layer is None else [site.layer])[site.name]
    return value if site.layer is None else value[:, 0]


def _change(case: Case, site: Site, op: str, value: Tensor) -> tuple[Tensor, str]:
    """What the model then says, and "" or why this site can only be read."""
    try:
        with case.model.edited(Edit(site, op, value)):  # type: ignore[arg-type]
            return case.final(), ""
    except SiteError as error:
        return case.final(), f"{site.name} can only be read: {str(error).split(': ', 1)[-1]}"


def write_back(case: Case) -> Outcome:
    """Writing what was read changes nothing: bitwise; 1e-6 at `pattern`, which has to be formed explicitly."""
    before, wrong, worst, formed = case.final(), [], 0.0, 0.0
    for site in _writable(case):
        after, _ = _change(case, site, "set", _read(case, site))
        if site.name == "pattern":
            error = float((after - before).norm() / before.norm())
            formed, limit = max(formed, error), PATTERN
        else:
            error = relative(after, before)
            worst, limit = max(worst, error), 0.0
        wrong += [f"{site} {error:.1e}"] if error > limit else []
    note = f"pattern {formed:.1e}" if formed else ""
    return Outcome("FAIL", max(worst, formed), "; ".join(wrong)) if wrong else Outcome("pass", worst, note)


def write_other(case: Case) -> Outcome:
    """Writing something else is felt in the logits, at every site; a site that can only be read says so."""
    before, generator, ignored, told = case.final(), torch.Generator().manual_seed(3), [], []
    for site in _writable(case):
        value = _read(case, site)
        noise = torch.randn(value.shape, generator=generator) * (value.abs().max() + 1)
        after, reason = _change(case, site, "add", noise)
        told += [reason] if reason else []
        ignored += [str(site)] if not reason and torch.equal(after, before) else []
    note = ", ".join(ignored) or "; ".join(dict.fromkeys(told))
    return Outcome("FAIL" if ignored else "pass", float(len(ignored)), note)


def roles(case: Case) -> Outcome:
    """Each part is what its name says: it hears the child module of that name, and its inside; attention hears no MLP."""
    wrong, seen = [], []
    for layer, block in enumerate(case.model.stack.blocks):
        parts = [n for n in PARTS if n in block.taps]
        for name, child in sublayers(block.module).items():
            if name in parts:
                plain = _parts_plain(case, layer, parts)
                with disturbed(child):
                    wrong += _misheard(case, layer, name, parts, plain)
                seen.append(name)
        for source, target in (("z", "attn_out"), ("mlp_post", "mlp_out")):
            if source in block.taps and target in block.taps:
                plain = _parts_plain(case, layer, parts)
                with case.model.edited(Edit(Site(source, layer), "zero")):
                    wrong += _misheard(case, layer, target, parts, plain)
                seen.append(source)
    if not seen:
        return Outcome("missing", None, "no sublayer is told apart by name or has its inside")
    note = "; ".join(dict.fromkeys(wrong)) or f"tried: {', '.join(dict.fromkeys(seen))}"
    return Outcome("FAIL" if wrong else "pass", float(len(wrong)), note)


def _parts_plain(case: Case, layer: int, parts: list[str]) -> dict[str, Tensor]:
    acts = case.capture(*parts, layers=[layer])
    return {part: acts[part] for part in parts}


def _misheard(case: Case, layer: int, target: str, parts: list[str], plain: dict[str, Tensor]) -> list[str]:
    """Under a disturbance of `target`: it must change, and what comes before the MLP must not hear the MLP."""
    acts = case.capture(*parts, layers=[layer])
    wrong = [] if not torch.equal(acts[target], plain[target]) else [f"L{layer}.{target} is not what its name says"]
    earlier = [p for p in parts if p not in (target, "extra_out")] if target == "mlp_out" else []
    return wrong + [f"L{layer}.{p} hears the MLP" for p in earlier if not torch.equal(acts[p], plain[p])]


def steered_with_cache(case: Case) -> Outcome:
    """Generation under an edit of every position, and of one prompt position, is the same with the cache on and off."""
    model = case.model
    if not model.has_logits or case.ragged is None:
        return Outcome("missing", None, "this model does not continue a text by itself")
    try:
        plain, error = _generated(case)
    except Exception as reason:  # noqa: BLE001  (whatever stands in the way, there is then no generation to compare)
        return Outcome("missing", None, f"transformers does not generate from tokens alone ({type(reason).__name__})")
    if error > GENERATED:
        return Outcome("missing", None, "transformers itself generates other logits with the cache than without")
    noise = torch.randn(model.d_model, generator=torch.Generator().manual_seed(4))
    layer = model.n_layers // 2
    noise = noise * _read(case, Site("resid_post", layer)).abs().mean()
    with model.edited(
        Edit(Site("resid_post", layer), "add", 4 * noise), Edit(Site("resid_post", 0, position=2), "set", 8 * noise)
    ):
        steered, error = _generated(case)
    if steered.shape == plain.shape and torch.equal(steered, plain):
        return Outcome("FAIL", error, "the edit is not felt")
    return judged(error, GENERATED)


def _generated(case: Case) -> tuple[Tensor, float]:
    """Logits of six greedy tokens after the short input with the cache, and their difference from those without it."""
    options: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 1}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    found = []
    for use_cache in (True, False):
        with torch.no_grad():
            out: Any = case.module.generate(**case.plain, use_cache=use_cache, **options)  # type: ignore[operator]
        found.append(torch.cat(out.logits))
    return found[0], relative(found[0], found[1])


def undone(case: Case) -> Outcome:
    """No hook is left on any module, and the attention registry is as it was."""
    left = [n for n, m in case.module.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    return Outcome("FAIL" if left else "pass", float(len(left)), ", ".join(left[:5]))


IDENTITIES: dict[str, Callable[[Case], Outcome]] = {
    "logits": same_logits,
    "hooks": equals_hooks,
    "parts": parts_add_up,
    "pattern@v": pattern_mixes_values,
    "library pattern": library_pattern,
    "lens": lens_is_logits,
    "right padding": _padding("right"),
    "left padding": _padding("left"),
    "write back": write_back,
    "write other": write_other,
    "roles": roles,
    "steered cache": steered_with_cache,
    "undone": undone,
}
