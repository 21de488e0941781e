"""Circuits: the few edges of a model that carry a behaviour."""
