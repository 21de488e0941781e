"""Activations on disk or in an object store: harvested in shards that are whole or absent, checked as they are read."""

from conceptlab.store.harvest import Harvest, Wish, open_harvest
from conceptlab.store.store import Store

__all__ = ["Harvest", "Store", "Wish", "open_harvest"]
