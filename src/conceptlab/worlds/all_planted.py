"""Every planted model by name, for tests and calibration that go through all of them."""

from collections.abc import Callable, Mapping
from functools import partial

from conceptlab.errors import InputError
from conceptlab.worlds.boolean import boolean
from conceptlab.worlds.concept_at_layer import concept_at_layer
from conceptlab.worlds.induction import induction
from conceptlab.worlds.ioi import ioi
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.planted_neurons import planted_neurons

# each takes `seed` and `null`; the name is that of the world it builds
PLANTED: Mapping[str, Callable[..., PlantedWorld]] = {
    "induction_hard": partial(induction, attention="hard"),
    "induction_soft": partial(induction, attention="soft"),
    "ioi": ioi,
    "boolean_or": partial(boolean, gate="or"),
    "boolean_and": partial(boolean, gate="and"),
    "planted_neurons": planted_neurons,
    "concept_at_layer_3_by_neurons": partial(concept_at_layer, writer="neurons"),
    "concept_at_layer_3_by_head": partial(concept_at_layer, writer="head"),
}


def planted(name: str, *, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build a planted world by name. Raises InputError, naming them all, where there is none of that name."""
    if name not in PLANTED:
        raise InputError(f"no planted world is called {name!r}; the worlds are {', '.join(PLANTED)}")
    return PLANTED[name](seed=seed, null=null)
