"""Directions and subspaces of a concept in the stream."""
