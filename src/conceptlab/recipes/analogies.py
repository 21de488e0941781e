"""analogies: relations are readable where analogies succeed, lacking where they fail, and repair when patched in."""

import numpy as np

from conceptlab.data.analogies import Analogy, read_analogies
from conceptlab.errors import InputError
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.measure.alignment.mutual_alignment import mutual_alignment
from conceptlab.measure.patching.patch_and_repair import choose_donors, held_out_repair, patch_and_repair
from conceptlab.measure.probing.relation_probe import Attempts, answer_place, attempt, relation_probe
from conceptlab.model import Model, load_model
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Scores
from conceptlab.worlds.analogy import analogy
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.story_roles import story_roles

RECIPE = {
    "id": "analogies",
    "claim": "When an analogy is solved, attributes and relations are readable in middle and upper layers; failures tend to lack "
    "the relation, can partly be cured by patching it in, and go with poor structural alignment of both sides.",
    "number": "share of failing analogies that get right when the relation's state is patched in from a solved one",
    "control": "the same patch from a solved analogy of another relation",
    "world": "analogies whose failures lack a planted relational state, and stories whose tokens have roles",
    "model": "a causal language model, together with --data",
    "data": "CSV, JSONL or a JSON list with the columns a, b, c, d, relation (at least two relations)",
    "methods": [
        "measure/patching/patch_and_repair",
        "measure/probing/relation_probe",
        "measure/alignment/mutual_alignment",
    ],
}
REPAIRS, WRONG, AUC = 0.60, 0.10, 0.90
FEWEST = 8  # failing, and solved, analogies below which there is nothing to say


def reproduce(setup: Setup) -> Reproduction:
    """Probe, repair, align. Raises InputError for --model without --data and the other way round."""
    if (setup.model is None) != (setup.data is None):
        raise InputError("analogies takes --model and --data together: the words in the file must be the model's")
    if setup.model is not None and setup.data is not None:
        items = read_analogies(setup.data, most=200 if setup.quick else 2000)
        return measured(setup.model, items, quick=setup.quick, seed=setup.seed)
    stories = story_roles(n_stories=24 if setup.quick else 96, seed=setup.seed)
    return on_worlds(
        analogy(n_prompts=192 if setup.quick else 768, seed=setup.seed), stories, quick=setup.quick, seed=setup.seed
    )


def on_worlds(world: PlantedWorld, stories: PlantedWorld, *, quick: bool = True, seed: int = 0) -> Reproduction:
    """The row on a world of analogies and one of stories (or their null twins)."""
    model = load_model(world.model, tokenizer=world.tokenizer)
    rows = zip(world.prompts["analogies"], world.answers["analogies"], world.truth["relations"], strict=True)
    items = [Analogy(text.split()[0], text.split()[3], text.split()[5], d, relation) for text, d, relation in rows]
    aligned = mutual_alignment(
        load_model(stories.model, tokenizer=stories.tokenizer),
        stories.prompts["source"],
        stories.prompts["target"],
        seed=seed,
    )
    return measured(model, items, stories=aligned, quick=quick, seed=seed)


def measured(
    model: Model, items: list[Analogy], *, stories: Scores | None = None, quick: bool, seed: int
) -> Reproduction:
    """The findings on any model and analogies; `stories` is an alignment of stories, where there are some."""
    before, case = model.forwards, attempt(model, items)
    fails, solved = case.rows(False), case.rows(True)
    results: dict[str, Scores] = {} if stories is None else {"stories": stories}
    notes, findings = [], []
    if min(len(fails), len(solved)) < FEWEST:
        nothing = "failing analogies repaired by the relation's state"
        notes.append(
            f"{nothing}: the model solves {len(solved)} and fails {len(fails)} of {len(items)}; {FEWEST} of each are needed"
        )
        findings.append(Finding(nothing, float("nan"), None, f"{FEWEST} of each kind", False, "share"))
    else:
        probes = {name: relation_probe(model, case, solved=name == "succeed", permutations=20 if quick else 100, seed=seed)
                  for name in ("succeed", "fail")}  # fmt: skip
        notes += [
            f"the relation was not probed where analogies {n}: {p}"
            for n, p in probes.items()
            if not isinstance(p, Scores)
        ]
        readable = {name: probe for name, probe in probes.items() if isinstance(probe, Scores)}
        rows, donors, wrong = choose_donors(
            fails.tolist(), solved.tolist(), [item.relation for item in items], seed=seed
        )
        repair = patch_and_repair(
            model, [case.texts[r] for r in rows], [case.texts[r] for r in donors], [case.texts[r] for r in wrong],
            case.ids[rows].tolist(),
            at=case.b[rows].tolist(), donor_at=case.b[donors].tolist(), wrong_at=case.b[wrong].tolist(), groups=rows, seed=seed,
        )  # fmt: skip
        findings += [*_depth(model, case, readable), _repaired(repair, seed)]
        results |= {"repair": repair, **{f"relation where analogies {k}": v for k, v in readable.items()}}
    if stories is not None:
        findings.append(_aligned(stories))
    else:
        notes.append("the file holds no stories, so their alignment was not measured")
    provenance = Provenance(
        "analogies", len(items), seed, model.name, model.revision, causal="patching",
        settings={"quick": quick, "solved": float(case.solved.mean())}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Reproduction("analogies", tuple(findings), provenance, 0.0, tuple(notes), results)


def _depth(model: Model, case: Attempts, readable: dict[str, Scores]) -> list[Finding]:
    """Where the relation is read best, before the answer is; and how well where analogies fail."""
    if "succeed" not in readable:
        return []
    there, answer = readable["succeed"].data.attrs, answer_place(model, case)
    best = int(there["best"])
    found = [
        Finding("relation read at the last word where analogies succeed", there["nested"], there["chance"],
                "above shuffled labels (p <= 0.05)", there["p"] <= 0.05, there["metric"], there["low"], there["high"]),
        Finding("layers from the best reading of the relation to the answer", float(answer - best), answer - model.n_layers / 2,
                "at least 1, the relation read (control: a layer at random)", there["p"] <= 0.05 and answer - best >= 1, "layers"),
    ]  # fmt: skip
    if "fail" in readable:
        fail = readable["fail"].data.attrs
        found.append(Finding("relation read at the last word where analogies fail", fail["nested"], fail["chance"],
                             "interval below that of success", fail["high"] < there["low"], fail["metric"], fail["low"],
                             fail["high"]))  # fmt: skip
    return found


def _repaired(repair: Scores, seed: int) -> Finding:
    _, rate, wrong, case = held_out_repair(repair, seed=seed)
    low, high = bootstrap_share(rate, case, seed=seed)
    return Finding("failing analogies repaired by the relation's state", float(rate.mean()), float(wrong.mean()),
                   f"at least {REPAIRS:.0%}, another relation's at most {WRONG:.0%}",
                   bool(rate.mean() >= REPAIRS and wrong.mean() <= WRONG), "share", low, high)  # fmt: skip


def _aligned(stories: Scores) -> Finding:
    """Own against other stories at the best layer, beside the words alone (the embedding)."""
    data = stories.data
    best = int(np.argmax(data["auc"].values))
    auc, low, high = (float(data[name].values[best]) for name in ("auc", "auc_low", "auc_high"))
    return Finding("alignment tells analogous stories from others", auc, float(data["auc"].values[0]),
                   f"AUC at least {AUC:g}, q <= 0.05 (control: words alone)",
                   bool(auc >= AUC and data["q"].values[best] <= 0.05), "AUC", low, high)  # fmt: skip
