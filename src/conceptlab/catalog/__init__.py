"""The published systems and what of them runs here: rows, recipes and methods, read without importing them."""

from conceptlab.catalog.literals import methods
from conceptlab.catalog.papers import STATES, Paper, State, paper, papers
from conceptlab.catalog.recipes import Recipe, recipes
from conceptlab.catalog.reproducing import checked_recipe, expected_seconds, reproduce
from conceptlab.catalog.saving import full_record, save_reproduction

__all__ = [
    "STATES",
    "Paper",
    "Recipe",
    "State",
    "checked_recipe",
    "expected_seconds",
    "full_record",
    "methods",
    "paper",
    "papers",
    "recipes",
    "reproduce",
    "save_reproduction",
]
