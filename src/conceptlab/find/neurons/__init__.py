"""Neurons that carry something, ranked beside their null."""
