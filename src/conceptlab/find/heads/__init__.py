"""Heads that carry or do something, ranked beside their null."""
