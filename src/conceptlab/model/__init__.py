"""Any transformer, unmodified: load it, find its anatomy, read and change its sites, generate under edits, check the identities."""

from conceptlab.model.batch import Batch
from conceptlab.model.capture import Activations
from conceptlab.model.load import load_model
from conceptlab.model.model import Model

__all__ = ["Activations", "Batch", "Model", "load_model"]
