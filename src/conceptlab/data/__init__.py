"""Labelled concepts: what they are, and how they are read from a file."""

from conceptlab.data.concept import Concept, ConceptSet, content_hash
from conceptlab.data.readers import read_concepts

__all__ = ["Concept", "ConceptSet", "content_hash", "read_concepts"]
