"""Planted worlds prepared for runs of their circuits."""

from dataclasses import replace
from functools import cache, partial

from conceptlab.model import Model, load_model
from conceptlab.model.edge_run import EdgeRun, edge_run
from conceptlab.model.metric import Metric, logit, logit_diff
from conceptlab.worlds.boolean import boolean
from conceptlab.worlds.induction import induction
from conceptlab.worlds.ioi import ioi
from conceptlab.worlds.planted import PlantedWorld

WORLDS = {
    "induction": induction,
    "soft": partial(induction, attention="soft"),
    "or": partial(boolean, gate="or"),
    "and": partial(boolean, gate="and"),
    "ioi": ioi,
}
N_ROWS = 24


@cache
def world(name: str, *, null: bool = False, seed: int = 5) -> PlantedWorld:
    """Seeds 0 to 4 were for development."""
    return WORLDS[name](n_prompts=N_ROWS, null=null, seed=seed)


@cache
def model_of(name: str, *, null: bool = False, seed: int = 5) -> Model:
    planted = world(name, null=null, seed=seed)
    return load_model(planted.model, tokenizer=planted.tokenizer)


def metric_of(name: str, corruption: str, *, null: bool = False, seed: int = 5) -> Metric:
    """The world's own metric: the answer's logit for the gates, else a logit difference."""
    planted = world(name, null=null, seed=seed)
    right = planted.answer_ids("clean")
    return logit(right) if name in ("or", "and") else logit_diff(right, planted.answer_ids(corruption))


@cache
def prepared(name: str, corruption: str = "key", *, null: bool = False, seed: int = 5) -> tuple[EdgeRun, Metric]:
    prompts = world(name, null=null, seed=seed).prompts
    run = edge_run(model_of(name, null=null, seed=seed), prompts["clean"], prompts[corruption])
    return run, replace(metric_of(name, corruption, null=null, seed=seed))


def true_edges(name: str, corruption: str = "key") -> set[tuple[str, str]]:
    """The planted edges; of the indirect-object world those whose stated effect is not 0."""
    edges = world(name).truth["edges"]
    listed = edges if name == "ioi" else edges[corruption]
    return {(edge[0], edge[1]) for edge in listed if len(edge) < 3 or edge[2] != 0}
