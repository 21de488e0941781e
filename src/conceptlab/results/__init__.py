"""The nouns that everything passes around: frozen, traceable, saved without pickle and loaded equal."""

from conceptlab.results.direction import Subspace
from conceptlab.results.edit import Edit
from conceptlab.results.provenance import Provenance, library_versions
from conceptlab.results.reproduction import Finding, Reproduction
from conceptlab.results.scores import Scores
from conceptlab.results.site import SITES, Site
from conceptlab.results.units import Units

__all__ = [
    "SITES",
    "Edit",
    "Finding",
    "Provenance",
    "Reproduction",
    "Scores",
    "Site",
    "Subspace",
    "Units",
    "library_versions",
]
