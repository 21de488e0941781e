"""conceptlab: where a neural network keeps a concept, whether it uses it, and how sure we are.

    import conceptlab
    model = conceptlab.load_model("gpt2")
    atlas = conceptlab.map_concepts(model, conceptlab.read_concepts("my_labels.csv"))

Names are imported when they are first used, so that `import conceptlab` costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conceptlab.atlas import Atlas, ConceptMap, map_concepts
    from conceptlab.catalog import papers, reproduce
    from conceptlab.data import Concept, ConceptSet, read_concepts
    from conceptlab.find.circuits.explain import explain_behaviour
    from conceptlab.find.heads.find_heads import find_heads
    from conceptlab.find.heads.head_atlas import head_atlas
    from conceptlab.find.neurons.find_neurons import find_neurons
    from conceptlab.measure.effects.set_effects import set_effects
    from conceptlab.measure.patching.activation_patching import activation_patching
    from conceptlab.measure.patching.attention_knockout import attention_knockout
    from conceptlab.measure.patching.path_patching import path_patching
    from conceptlab.model import Model, load_model
    from conceptlab.model.metric import Metric, logit_diff
    from conceptlab.model.sweep import plan_sweep, sweep
    from conceptlab.results import Circuit, Edit, GraphShape, Provenance, Reproduction, Scores, Site, Subspace, Units
    from conceptlab.store import Store
    from conceptlab.store.harvesting import harvest
    from conceptlab.web.running import view
    from conceptlab.worlds.all_planted import planted
    from conceptlab.worlds.default import default_concepts, default_model_path

_HOMES = {
    "Atlas": "conceptlab.atlas",
    "Circuit": "conceptlab.results",
    "GraphShape": "conceptlab.results",
    "Concept": "conceptlab.data",
    "ConceptMap": "conceptlab.atlas",
    "ConceptSet": "conceptlab.data",
    "Edit": "conceptlab.results",
    "Metric": "conceptlab.model.metric",
    "Model": "conceptlab.model",
    "Provenance": "conceptlab.results",
    "Reproduction": "conceptlab.results",
    "Scores": "conceptlab.results",
    "Site": "conceptlab.results",
    "Store": "conceptlab.store",
    "Subspace": "conceptlab.results",
    "Units": "conceptlab.results",
    "activation_patching": "conceptlab.measure.patching.activation_patching",
    "attention_knockout": "conceptlab.measure.patching.attention_knockout",
    "default_concepts": "conceptlab.worlds.default",
    "default_model_path": "conceptlab.worlds.default",
    "explain_behaviour": "conceptlab.find.circuits.explain",
    "find_heads": "conceptlab.find.heads.find_heads",
    "find_neurons": "conceptlab.find.neurons.find_neurons",
    "harvest": "conceptlab.store.harvesting",
    "head_atlas": "conceptlab.find.heads.head_atlas",
    "load_model": "conceptlab.model",
    "logit_diff": "conceptlab.model.metric",
    "map_concepts": "conceptlab.atlas",
    "papers": "conceptlab.catalog",
    "path_patching": "conceptlab.measure.patching.path_patching",
    "plan_sweep": "conceptlab.model.sweep",
    "planted": "conceptlab.worlds.all_planted",
    "read_concepts": "conceptlab.data",
    "reproduce": "conceptlab.catalog",
    "set_effects": "conceptlab.measure.effects.set_effects",
    "sweep": "conceptlab.model.sweep",
    "view": "conceptlab.web.running",
}

__all__ = [
    "Atlas",
    "Circuit",
    "Concept",
    "ConceptMap",
    "ConceptSet",
    "Edit",
    "GraphShape",
    "Metric",
    "Model",
    "Provenance",
    "Reproduction",
    "Scores",
    "Site",
    "Store",
    "Subspace",
    "Units",
    "activation_patching",
    "attention_knockout",
    "default_concepts",
    "default_model_path",
    "explain_behaviour",
    "find_heads",
    "find_neurons",
    "harvest",
    "head_atlas",
    "load_model",
    "logit_diff",
    "map_concepts",
    "papers",
    "path_patching",
    "plan_sweep",
    "planted",
    "read_concepts",
    "reproduce",
    "set_effects",
    "sweep",
    "view",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("conceptlab")
    if name not in _HOMES:
        raise AttributeError(f"conceptlab has no {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
