"""Whether a direction of an atlas means anything in the live model: the same width, and the same weights where both are known."""

from typing import TYPE_CHECKING

from conceptlab.errors import InputError

if TYPE_CHECKING:
    from conceptlab.model import Model
    from conceptlab.results import Subspace

UNKNOWN = ("", "unknown", "in memory")


def check_fits(model: "Model", subspace: "Subspace") -> None:
    """Raises InputError where the direction has another width, or was taken from other weights, than the live model's."""
    width, own = len(subspace.vector), subspace.provenance
    if width != model.d_model:
        raise InputError(
            f"the direction has {width} numbers and {model.name} is {model.d_model} wide; open its own model"
        )
    if own.revision not in UNKNOWN and model.revision not in UNKNOWN and own.revision != model.revision:
        raise InputError(
            f"the direction was taken from {own.model} at revision {own.revision}, the live model is {model.name} at revision "
            f"{model.revision}; open the model that the atlas was made from"
        )
