"""Planted worlds as questions to causal methods, what is true of each by construction, and what each method finds.

A cell is a head, an edge, a place of the stream, a component, a span of keys or a layer, by name. Truths follow from how the worlds
were written (`conceptlab.worlds`); where a world lists only part of its edges, the rest is derived here from the same weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from conceptlab.errors import InputError
from conceptlab.find.circuits.acdc import acdc
from conceptlab.find.circuits.cdt_discovery import cdt_discovery
from conceptlab.find.circuits.edge_attribution import edge_attribution
from conceptlab.find.circuits.edge_attribution_ig import edge_attribution_ig
from conceptlab.find.circuits.exact_edges import exact_edges
from conceptlab.measure.attribution.direct_logit import direct_logit
from conceptlab.measure.circuits.ends import ends_of
from conceptlab.measure.lenses.lens_causality import lens_causality
from conceptlab.measure.patching.activation_patching import activation_patching
from conceptlab.measure.patching.attention_knockout import attention_knockout
from conceptlab.measure.patching.pairs import Direction
from conceptlab.measure.patching.path_patching import path_patching
from conceptlab.model import Model, load_model
from conceptlab.model.edge_graph import graph_of
from conceptlab.model.edge_run import edge_run
from conceptlab.model.metric import Metric, logit, logit_diff
from conceptlab.results import Circuit
from conceptlab.worlds.boolean import boolean
from conceptlab.worlds.fact_and_copy import ATTRIBUTES, fact_and_copy
from conceptlab.worlds.induction import induction
from conceptlab.worlds.ioi import NAMES, ioi
from conceptlab.worlds.one_to_many import one_to_many
from conceptlab.worlds.planted import PlantedWorld

LEVEL = 0.05
LEAST = 0.01  # of the whole change (or of the metric): what is called found is also more than a trace
LEAST_GRADIENT = 0.05  # the same for first-order scores
TAU = 0.01  # nats, the threshold of ACDC
N_ROWS = 16
Cells = frozenset[str]


# -- questions -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Asked:
    """How a question is made: world, pairs of families, the decomposition's reference, and the truth by kind of cell."""

    build: Callable[..., PlantedWorld]
    clean: str
    corrupted: str
    reference: str
    truth: dict[str, Cells]
    decoys: Cells = frozenset()
    words: Sequence[str] = ()
    answer_alone: bool = False


def _cells(text: str) -> Cells:
    return frozenset(text.split(", ")) if text else frozenset()


def _truth(heads: str, direct: str, edges: str, nodes: str = "", **more: str) -> dict[str, Cells]:
    kinds = {"heads": heads, "direct": direct, "edges": edges, "kept": edges, "nodes": nodes or heads, **more}
    return {kind: _cells(text) for kind, text in kinds.items()}


_BRANCHES = "L0.H0>L1.H0.k, L0.H0>L1.H1.k, L1.H0>L1.mlp, L1.H1>L1.mlp, L1.mlp>logits"
_KEY = _truth("L0.H0, L1.H0", "L1.H0", "embed>L0.H0.v, L0.H0>L1.H0.k, L1.H0>logits", spans="1 follower")
# beside the mean of other rows all that varies from row to row counts, so the previous-token head is a node here too
_QUERY = _truth("L1.H0", "L1.H0", "embed>L1.H0.q, L1.H0>logits", "L0.H0, L1.H0", spans="1 follower")
_GATE = _truth("L0.H0, L1.H0, L1.H1", "L1.mlp", f"embed>L0.H0.v, {_BRANCHES}", "L0.H0, L1.H0, L1.H1, L1.mlp")
# S2 is another name: it looks for another one (L0.H0.q), whose copy (L1.H0.v) inhibits another one (L2.H0.q, L2.H1.q), and as a key
# it is not the inhibited name any more (L2.H0.k, L2.H1.k). These two do nothing once the values of the same words are corrupted, so
# a search that takes edges away one after the other, values first, drops them.
_PATH = "embed>L0.H0.q, L0.H0>L1.H0.v, L1.H0>L2.H0.q, L1.H0>L2.H1.q, L2.H0>logits, L2.H1>logits"
_IOI = _truth(
    "L0.H0, L1.H0, L2.H0, L2.H1", "L2.H0, L2.H1",
    f"{_PATH}, embed>L2.H0.k, embed>L2.H1.k", spans="1 S2, 2 IO", places="0 5, 1 5, 2 7", kept=_PATH,
)  # fmt: skip
# the attribute is another one: both readers carry it. Beside the mean of other rows the subject and its fact count as well.
_FACT = _truth(
    "L2.H0, L2.H1", "L2.H0, L2.H1, L1.mlp", "embed>L2.H0.v, embed>L2.H1.v, L2.H0>logits, L2.H1>logits",
    "L0.H0, L1.mlp, L2.H0, L2.H1", spans="2 attribute, 0 subject", places="0 4, 1 4, 2 4",
)  # fmt: skip
_DECOYS = _cells("L0.H1, L0.H2")
SOFT = partial(induction, attention="soft")
QUESTIONS = {
    "indirect object": Asked(ioi, "clean", "swapped", "distinct", _IOI, words=NAMES),
    "induction, key": Asked(induction, "clean", "key", "key", _KEY, _DECOYS),
    "induction, query": Asked(induction, "clean", "query", "query", _QUERY, _DECOYS),
    "soft induction, key": Asked(SOFT, "clean", "key", "key", _KEY, _DECOYS),
    "soft induction, query": Asked(SOFT, "clean", "query", "query", _QUERY, _DECOYS),
    "or": Asked(partial(boolean, gate="or"), "clean", "key", "key", _GATE, _cells("L0.H1, L0.H2"), answer_alone=True),
    "and": Asked(partial(boolean, gate="and"), "clean", "key", "key", _GATE, _cells("L0.H1, L0.H2"), answer_alone=True),
    "fact and copy": Asked(fact_and_copy, "consistent", "conflict", "conflict", _FACT, _cells("L2.H2"), ATTRIBUTES),
    "one to many": Asked(one_to_many, "step2", "step2", "step2", {"layers": _cells("1")}),
    "fact alone": Asked(fact_and_copy, "neutral", "neutral", "neutral", {"layers": _cells("1")}),
}


@dataclass(frozen=True, eq=False)
class Case:
    """One question to one model. `right` and `wrong` are token ids [row]."""

    asked: Asked
    world: PlantedWorld
    model: Model
    right: list[int]
    wrong: list[int]

    @property
    def metric(self) -> Metric:
        """The world's own metric."""
        return logit(self.right) if self.asked.answer_alone else logit_diff(self.right, self.wrong)

    @property
    def clean(self) -> tuple[str, ...]:
        """Texts that are explained."""
        return self.world.prompts[self.asked.clean]

    @property
    def corrupted(self) -> tuple[str, ...]:
        """Their partners."""
        return self.world.prompts[self.asked.corrupted]


def make_case(name: str, seed: int, *, null: bool = False, n_rows: int = N_ROWS) -> Case:
    """A planted world, or its null twin, with its question."""
    asked = QUESTIONS[name]
    world = asked.build(n_prompts=n_rows, seed=seed, null=null)
    model = load_model(world.model, tokenizer=world.tokenizer)
    right = world.answer_ids(asked.clean)
    wrong = world.answer_ids("counterfactual" if name == "fact and copy" else asked.corrupted)
    return Case(asked, world, model, right, wrong)


def with_random_answers(case: Case, seed: int) -> Case:
    """The same model asked for two words drawn anew for every row, so that nothing it does can matter on average."""
    vocabulary, rng = case.world.tokenizer.get_vocab(), np.random.default_rng(seed)
    drawn = [rng.choice(case.asked.words, 2, replace=False) for _ in case.right]
    right, wrong = ([vocabulary[str(pair[i])] for pair in drawn] for i in (0, 1))
    return replace(case, right=right, wrong=wrong)


# -- methods -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Verdict:
    """What a method said of its `cells`: `found` (q and size), `bare` (q alone), p [cell] (NaN where it gives none) and |score|."""

    cells: list[str]
    found: np.ndarray
    bare: np.ndarray
    p: np.ndarray
    size: np.ndarray
    refused: bool = False

    def named(self, *, bare: bool = False) -> set[str]:
        """Names of what was found."""
        return {c for c, f in zip(self.cells, self.bare if bare else self.found, strict=True) if f}


REFUSED = Verdict([], *(np.zeros(0) for _ in range(4)), refused=True)


def _verdict(cells: Sequence[str], effect: np.ndarray, q: np.ndarray, p: np.ndarray, least: float) -> Verdict:
    size, bare = np.abs(np.nan_to_num(np.ravel(effect))), np.ravel(q) <= LEVEL
    return Verdict(list(cells), bare & (size >= least), bare, np.ravel(p), size)


def _scores(found, names: Callable[[tuple], str], least: float) -> Verdict:
    """From Scores: cells in the order of the axes of `score`."""
    table = found["score"]
    labels = [table[d].values for d in table.dims]
    cells = [names(tuple(axis[i] for axis, i in zip(labels, at, strict=True))) for at in np.ndindex(table.shape)]
    return _verdict(cells, table.values, found["q"].values, found["p"].values, least)


def heads(case: Case, direction: Direction) -> Verdict:
    """Activation patching of every head's output."""
    found = activation_patching(
        case.model, case.clean, case.corrupted, case.metric, site="z", by="head", direction=direction
    )
    return _scores(found, lambda at: f"L{at[0]}.H{at[1]}", LEAST)


def places(case: Case) -> Verdict:
    """Activation patching of the stream by layer and position."""
    return _scores(
        activation_patching(case.model, case.clean, case.corrupted, case.metric), "{0[0]} {0[1]}".format, LEAST
    )


def paths(case: Case, *, whole: bool = True) -> Verdict:
    """Path patching of every sender on every receiver (`whole` False: heads on the logits and the last layer's heads)."""
    shape = graph_of(case.model)
    last = f"L{case.model.n_layers - 1}.H"
    receivers = [r for r in shape.receivers.names if whole or r == "logits" or r.startswith(last)]
    found = path_patching(
        case.model, case.clean, case.corrupted, case.metric, receivers=receivers, senders=list(shape.senders.names)
    )
    return _scores(found, lambda at: f"{at[1]}>{at[0]}", LEAST)


def knockout(case: Case) -> Verdict:
    """The last word's attention, layer by layer, cut from named spans; a size is a share of what the model gives."""
    spans = SPANS[case.world.name.split("_")[0]](case)
    found = attention_knockout(case.model, case.clean, case.metric, spans)
    whole = float(np.abs(ends_of(edge_run(case.model, case.clean, case.corrupted), case.metric).whole).mean())
    return _scores(found, "{0[0]} {0[1]}".format, LEAST * whole)


def direct(case: Case) -> Verdict:
    """Direct logit attribution; a size is a share of the logit difference."""
    found = direct_logit(case.model, case.clean, case.right, case.wrong)
    cells = [str(v) for v in found["component"].values]
    return _verdict(cells, found["score"].values, found["q"].values, found["p"].values, LEAST * _size(found))


def _size(found) -> float:
    return float(np.abs(found["each"].values.sum(1)).mean())


def nodes(case: Case) -> Verdict:
    """Nodes of the circuit that contextual decomposition finds."""
    reference = case.world.prompts[case.asked.reference]
    circuit = cdt_discovery(case.model, case.clean, case.metric, reference=reference)
    inside = set(circuit.nodes) - {"embed", "logits"}
    cells = [n for n in circuit.shape.senders.names if n != "embed"]
    found = np.array([c in inside for c in cells])
    return Verdict(cells, found, found, np.full(len(cells), np.nan), found.astype(float))


def _edges(circuit: Circuit, least: float) -> Verdict:
    cells = [f"{a}>{b}" for a, b in circuit.edge_names()]
    return _verdict(cells, circuit.weights, circuit.q, circuit.p, least)


def exact(case: Case, direction: Direction) -> Verdict:
    """Exact patching of every edge; where the rows' ends do not differ it is silent by rule and not run."""
    run = edge_run(case.model, case.clean, case.corrupted)
    if ends_of(run, case.metric).warnings:
        return REFUSED
    return _edges(exact_edges(run, case.metric, direction=direction), LEAST)


def pruned(case: Case, *, absolute: bool) -> Verdict:
    """What ACDC keeps."""
    run = edge_run(case.model, case.clean, case.corrupted)
    circuit = acdc(run, TAU, absolute=absolute, n_random=1)[0].circuit
    kept = {f"{a}>{b}" for a, b in circuit.edge_names()}
    source, target = run.shape.edges_of(np.arange(run.shape.n_edges))
    cells = [
        f"{run.shape.senders.names[a]}>{run.shape.receivers.names[b]}" for a, b in zip(source, target, strict=True)
    ]
    found = np.array([c in kept for c in cells])
    return Verdict(cells, found, found, np.full(len(cells), np.nan), found.astype(float))


def eap(case: Case) -> Verdict:
    """Edge attribution patching."""
    return _edges(edge_attribution(case.model, case.clean, case.corrupted, case.metric), LEAST_GRADIENT)


def eap_ig(case: Case) -> Verdict:
    """The same with integrated gradients of five steps."""
    return _edges(edge_attribution_ig(case.model, case.clean, case.corrupted, case.metric, steps=5), LEAST_GRADIENT)


def lens_layers(case: Case) -> Verdict:
    """Layers whose lens reads what the model uses."""
    found = lens_causality(case.model, list(range(case.model.n_layers - 1)), case.clean)
    return _scores(found, lambda at: str(at[0]), 1e-3)


def _ioi_spans(case: Case) -> dict[str, list[list[int]]]:
    """Places of the two names, of the repetition and of a filler word; rows alternate which of the names is repeated."""
    words = [text.split() for text in case.clean]
    first = [[1 + row[:3].index(row[4])] for row in words]
    return {"S1": first, "IO": [[4 - at[0]] for at in first], "S2": [[5]] * len(words), "filler": [[2]] * len(words)}


def _induction_spans(case: Case) -> dict[str, list[list[int]]]:
    """The word that was last seen here, what followed it, and some other word of the context."""
    words = [text.split() for text in case.clean]
    cue = [1 + row[:-1].index(row[-1]) for row in words]
    other = [[1 + (at + 3) % 8] for at in cue]
    return {"cue": [[at] for at in cue], "follower": [[at + 1] for at in cue], "other": other}


def _fact_spans(case: Case) -> dict[str, list[list[int]]]:
    n = len(case.clean)
    return {"subject": [[6]] * n, "attribute": [[4]] * n, "filler": [[3]] * n}


SPANS = {"ioi": _ioi_spans, "induction": _induction_spans, "fact": _fact_spans}
PAIRED = tuple(name for name, asked in QUESTIONS.items() if asked.clean != asked.corrupted)
LENSES = ("one to many", "fact alone")
WITH_KEYS = ("indirect object", "induction, key", "soft induction, key", "fact and copy")


@dataclass(frozen=True)
class Method:
    """A method: the kind of its cells, how it is run, on which questions, and what share of the seeds it is given for its cost.

    `nulls` names the questions whose null twins and random answers it is asked; `null_run` is a cheaper form for these. `rounds`
    counts the test seeds that are used up, since the method was changed after them.
    """

    kind: str
    run: Callable[[Case], Verdict]
    questions: tuple[str, ...] = PAIRED
    share: float = 1.0
    nulls: tuple[str, ...] = ("indirect object", "fact and copy")
    null_share: float = 1.0
    null_run: Callable[[Case], Verdict] | None = None
    rounds: int = 0
    asks_answers: bool = True  # False where the method takes no answers, so that random ones are no other question


METHODS = {
    "activation patching, heads, noising": Method("heads", partial(heads, direction="noising")),
    "activation patching, heads, denoising": Method("heads", partial(heads, direction="denoising"), nulls=()),
    "activation patching, stream": Method("places", places, ("indirect object", "fact and copy")),
    "path patching": Method("edges", paths, share=0.67, null_share=0.3, null_run=partial(paths, whole=False)),
    "attention knock-out": Method("spans", knockout, WITH_KEYS, null_share=0.4),
    "direct logit attribution": Method("direct", direct),
    "contextual decomposition, discovery": Method("nodes", nodes, share=0.34, null_share=0.3, rounds=1),
    "exact edges, noising": Method("edges", partial(exact, direction="noising"), share=0.34, null_share=0.4),
    "exact edges, denoising": Method("edges", partial(exact, direction="denoising"), share=0.34, nulls=()),
    "ACDC": Method("kept", partial(pruned, absolute=False), share=0.67, null_share=0.2, asks_answers=False),
    "ACDC, either direction": Method("kept", partial(pruned, absolute=True), share=0.67, nulls=()),
    "EAP": Method("edges", eap, null_share=0.6),
    "EAP-IG, 5 steps": Method("edges", eap_ig, null_share=0.6),
    "lens causality": Method("layers", lens_layers, LENSES, nulls=LENSES, null_share=0.3),
}


def ask(method: Method, case: Case, *, null: bool = False) -> Verdict:
    """Run a method; where it refuses a question in words (clean and corrupted score alike), it has found nothing."""
    try:
        return (method.null_run or method.run)(case) if null else method.run(case)
    except InputError as error:
        if "score the same" not in str(error):
            raise
        return REFUSED
