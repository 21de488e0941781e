"""Activations on disk or in an object store: harvested in shards that are whole or absent, checked as they are read."""

from conceptlab.store.harvesting import Harvest, harvest, open_harvest
from conceptlab.store.store import Store
from conceptlab.store.wish import Wish

__all__ = ["Harvest", "Store", "Wish", "harvest", "open_harvest"]
