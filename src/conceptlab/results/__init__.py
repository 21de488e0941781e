"""The nouns that everything passes around: frozen, traceable, saved without pickle and loaded equal."""

from conceptlab.results.circuit import Circuit
from conceptlab.results.direction import Subspace
from conceptlab.results.edit import Edit
from conceptlab.results.graph import GraphShape, all_edges
from conceptlab.results.provenance import Provenance, library_versions
from conceptlab.results.reproduction import Finding, Reproduction
from conceptlab.results.scores import Scores
from conceptlab.results.site import SITES, Site
from conceptlab.results.units import Units

__all__ = [
    "SITES",
    "Circuit",
    "Edit",
    "Finding",
    "GraphShape",
    "Provenance",
    "Reproduction",
    "Scores",
    "Site",
    "Subspace",
    "Units",
    "all_edges",
    "library_versions",
]
