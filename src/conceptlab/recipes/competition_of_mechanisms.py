"""competition-of-mechanisms: a known fact against what the prompt says, and the attention that decides (Ortu et al. 2024)."""

import numpy as np

from conceptlab.data.contests import Contest, contest, read_contests
from conceptlab.errors import InputError
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.measure.attribution.mechanism_contest import heads_for_fact, mechanism_contest
from conceptlab.measure.patching.attention_rescale import ALPHAS, Keyed, attention_rescale
from conceptlab.model import Model, load_model
from conceptlab.model.answers import first_token_pairs
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores, Site
from conceptlab.worlds.fact_and_copy import fact_and_copy
from conceptlab.worlds.planted import PlantedWorld

RECIPE = {
    "id": "competition-of-mechanisms",
    "claim": "When a prompt contradicts a known fact, the recalled and the copied answer compete within identifiable layers and "
    "heads, and rescaling a few attention entries decides which of them wins.",
    "number": "share of prompts that turn to the fact when the fact-favouring heads' attention to the attribute is multiplied by 5",
    "control": "random heads under the same factor, and prompts whose answer should stay",
    "world": "fact-and-copy: an MLP that knows, a head that copies, a head that writes against what it reads",
    "model": "a causal language model that attends through transformers' interface, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns prompt (holding target_new), target_true, target_new, as in CounterFact",
    "methods": ["measure/attribution/mechanism_contest", "measure/patching/attention_rescale"],
}
FACTOR, FLIPS, RANDOM, STAYS, GAP = 5.0, 0.70, 0.05, 0.02, 1e-4


def reproduce(setup: Setup) -> Reproduction:
    """Attribute, choose heads on half of the prompts, turn them on the other half. Raises InputError for --model without --data."""
    if (setup.model is None) != (setup.data is None):
        raise InputError(
            "competition-of-mechanisms takes --model and --data together: the facts in the file must be the model's"
        )
    if setup.model is not None and setup.data is not None:
        contests = read_contests(setup.data, most=64 if setup.quick else 400)
        return measured(setup.model, contests, quick=setup.quick, seed=setup.seed)
    return on_world(
        fact_and_copy(n_prompts=48 if setup.quick else 192, seed=setup.seed), quick=setup.quick, seed=setup.seed
    )


def on_world(world: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a world of facts and copies (or its null twin), with its neutral prompts, and which heads are the planted ones."""
    model = load_model(world.model, tokenizer=world.tokenizer)
    said = zip(world.prompts["conflict"], world.answers["conflict"], world.answers["counterfactual"], strict=True)
    contests = [contest(text, fact, other) for text, fact, other in said]
    neutral = Keyed(world.prompts["neutral"], [[world.truth["attribute_position"]]] * len(contests))
    planted = [name for name, head in world.truth["heads"].items() if head["direct"] > 0]
    return measured(model, contests, neutral=neutral, planted=planted, quick=quick, seed=seed)


def measured(
    model: Model,
    contests: list[Contest],
    *,
    neutral: Keyed | None = None,
    planted: list[str] | None = None,
    quick: bool,
    seed: int,
) -> Reproduction:
    """The findings on any model and prompts; without `neutral` prompts that say the fact itself stand in for them."""
    before, texts, facts = model.forwards, [c.prompt for c in contests], [c.fact for c in contests]
    ids = np.array(first_token_pairs(model, texts, facts, [c.counterfactual for c in contests]))
    keys = model.encode(texts).positions_of([c.span for c in contests])
    if neutral is None:
        same = [c.consistent for c in contests]
        neutral = Keyed(same, model.encode(same).positions_of([c.consistent_span for c in contests]))
    order = np.random.default_rng(seed).permutation(len(contests))
    first, second = (sorted(part.tolist()) for part in np.array_split(order, 2))
    chosen_on = [texts[i] for i in first]
    found = mechanism_contest(
        model, chosen_on, ids[0, first].tolist(), ids[1, first].tolist(), {"attribute": [keys[i] for i in first]},
        groups=[facts[i] for i in first], n_random=200 if quick else 1000, seed=seed,
    )  # fmt: skip
    heads, notes = heads_for_fact(found), []
    turned = None
    if heads:
        half = [i for i in range(len(neutral.texts)) if i in set(second)]
        turned = attention_rescale(
            model, Keyed([texts[i] for i in second], [keys[i] for i in second]), [Site.parse(f"{name}.z") for name in heads],
            *ids[:, second].tolist(), alphas=(1.0, FACTOR) if quick else ALPHAS, groups=[facts[i] for i in second],
            neutral=Keyed(model.encode(neutral.texts).select(half), [neutral.keys[i] for i in half]),
            n_random=10 if quick else 20, seed=seed,
        )  # fmt: skip
    else:
        notes.append(
            "no head that attends to the attribute writes for the fact beyond random answers (q <= 0.05), so none was turned"
        )
    findings = [_adds_up(found), *_turned(turned, [facts[i] for i in second], seed)]
    if planted is not None:
        findings.insert(1, _identified(found, heads, planted))
    provenance = Provenance(
        "competition-of-mechanisms", len(contests), seed, model.name, model.revision, causal="patching",
        settings={"quick": quick, "heads": heads, "fact wins": float(found["win_rate"])}, passes=round(model.forwards - before),
        warnings=() if turned is None else turned.provenance.warnings,
    )  # fmt: skip
    results = {"contest": found, **({} if turned is None else {"rescaled": turned})}
    return Reproduction("competition-of-mechanisms", tuple(findings), provenance, 0.0, tuple(notes), results)


def _adds_up(contest: Scores) -> Finding:
    sums, wanted = contest["each"].values.sum(1), contest["difference"].values
    other = float(np.abs(np.roll(sums, 1) - wanted).max())
    gap = float(contest.data.attrs["gap"])
    return Finding("contributions miss the logit difference by at most", gap, other, f"at most {GAP:g} (control: other rows)",
                   None if np.isnan(gap) else gap <= GAP, "logits")  # fmt: skip


def _identified(contest: Scores, heads: list[str], planted: list[str]) -> Finding:
    n_heads = int(np.isfinite(contest["attention"].values).sum())
    right = len(set(heads) & set(planted)) / len(heads) if heads else 0.0
    return Finding("heads found to write for the fact that are the planted ones", right, len(planted) / n_heads,
                   "all, and none is missed (control: a head at random)",
                   bool(planted) and set(heads) == set(planted), "share")  # fmt: skip


def _turned(turned: Scores | None, facts: list[str], seed: int) -> list[Finding]:
    flips, stays = (
        f"prompts that turn to the fact, attention x{FACTOR:g}",
        f"neutral prompts that change, attention x{FACTOR:g}",
    )
    if turned is None:
        return [Finding(name, float("nan"), 0.0, "heads to turn are found", False, "share") for name in (flips, stays)]
    at, lost = turned.data.sel(alpha=FACTOR), ~turned["unscaled_each"].values
    value, control = float(at["flips"]), float(at["flips_control"])
    changed = float(at["neutral_change"])
    low, high = (
        bootstrap_share(at["each"].values[lost], np.array(facts)[lost], seed=seed) if lost.any() else (np.nan, np.nan)
    )
    return [
        Finding(flips, value, control, f"at least {FLIPS:.0%}, random heads at most {RANDOM:.0%}",
                value >= FLIPS and control <= RANDOM, "share", low, high),
        Finding(stays, changed, float(at["neutral_control"]), f"at most {STAYS:.0%}", changed <= STAYS, "share"),
    ]  # fmt: skip
