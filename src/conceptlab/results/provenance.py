"""The one envelope: where a result comes from and how far it may be believed."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any, Literal


def library_versions() -> dict[str, str]:
    """Versions that are part of a numerical result."""
    found = {"python": platform.python_version()}
    for name in ("conceptlab", "torch", "transformers", "numpy", "scipy", "xarray"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class Provenance:
    """What every result carries besides its values.

    `passes` counts model passes in rows of text (one text forward = 1), `causal` says what the evidence is:
    "none" (correlational), "ablation" or "patching".
    """

    method: str
    n: int
    seed: int
    model: str = ""
    revision: str = ""
    data_hash: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    passes: int = 0
    causal: Literal["none", "ablation", "patching"] = "none"
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=library_versions)

    def to_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Provenance":
        """Inverse of `to_record`."""
        return cls(**{**record, "warnings": tuple(record.get("warnings", ()))})
