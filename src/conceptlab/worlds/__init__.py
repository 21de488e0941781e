"""Planted worlds, whose truth is known because we wrote it, and the embedded default model."""
