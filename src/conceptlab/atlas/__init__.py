"""The main job: the atlas of concepts, its saving, its table, its report and the export of its charts."""

from conceptlab.atlas.atlas import Atlas, ConceptMap
from conceptlab.atlas.mapping import map_concepts
from conceptlab.atlas.saving import concept_folder, load_concept, save_concept
from conceptlab.plot.notebook import register

__all__ = ["Atlas", "ConceptMap", "concept_folder", "load_concept", "map_concepts", "save_concept"]

register()  # results draw themselves in a notebook; outside IPython this does nothing
