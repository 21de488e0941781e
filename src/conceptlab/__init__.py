"""conceptlab: where a neural network keeps a concept, whether it uses it, and how sure we are.

    import conceptlab
    model = conceptlab.load_model("gpt2")
    atlas = conceptlab.map_concepts(model, conceptlab.read_concepts("my_labels.csv"))

Names are imported when they are first used, so that `import conceptlab` costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conceptlab.atlas import Atlas, ConceptMap, map_concepts
    from conceptlab.data import Concept, ConceptSet, read_concepts
    from conceptlab.model import Model, load_model
    from conceptlab.results import Edit, Provenance, Scores, Site, Subspace, Units
    from conceptlab.worlds.default import default_concepts, default_model_path

_HOMES = {
    "Atlas": "conceptlab.atlas",
    "Concept": "conceptlab.data",
    "ConceptMap": "conceptlab.atlas",
    "ConceptSet": "conceptlab.data",
    "Edit": "conceptlab.results",
    "Model": "conceptlab.model",
    "Provenance": "conceptlab.results",
    "Scores": "conceptlab.results",
    "Site": "conceptlab.results",
    "Subspace": "conceptlab.results",
    "Units": "conceptlab.results",
    "default_concepts": "conceptlab.worlds.default",
    "default_model_path": "conceptlab.worlds.default",
    "load_model": "conceptlab.model",
    "map_concepts": "conceptlab.atlas",
    "read_concepts": "conceptlab.data",
}

__all__ = [
    "Atlas",
    "Concept",
    "ConceptMap",
    "ConceptSet",
    "Edit",
    "Model",
    "Provenance",
    "Scores",
    "Site",
    "Subspace",
    "Units",
    "default_concepts",
    "default_model_path",
    "load_model",
    "map_concepts",
    "read_concepts",
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
