"""Where in a model: a site, printed the way people write it (`L5.H3.z`, `L5.resid_post@-1`, `logits`), and parsed back."""

import re
from dataclasses import dataclass
from typing import Literal

from conceptlab.errors import SiteError

Kind = Literal["stream", "head", "kv_head", "neuron", "expert", "end"]

# name -> what its last axis is. "head" sites carry [head, d_head] (pattern: [head, key_pos]).
SITES: dict[str, Kind] = {
    "embed": "end",
    "resid_pre": "stream",
    "resid_mid": "stream",
    "resid_post": "stream",
    "attn_out": "stream",
    "cross_attn_out": "stream",
    "mixer_out": "stream",
    "mlp_out": "stream",
    "extra_out": "stream",  # a further sublayer: a shared expert beside the routed ones, per-layer embeddings
    "q": "head",
    "k": "kv_head",
    "v": "kv_head",
    "pattern": "head",
    "z": "head",
    "mlp_pre": "neuron",
    "mlp_pre_linear": "neuron",
    "mlp_post": "neuron",
    "router": "expert",
    "expert_out": "stream",
    "final_norm": "end",
    "logits": "end",
}

_FORM = re.compile(
    r"^(?:L(?P<layer>\d+)\.)?(?:(?P<kind>[HN])(?P<units>\d+(?:,\d+)*)\.)?(?P<name>[a-z_]+)(?:@(?P<position>-?\d+))?$"
)


@dataclass(frozen=True)
class Site:
    """One place in the network.

    `layer` counts blocks from 0 (None at the ends of the stream), `units` are heads or neurons of the site (empty: all),
    `position` counts real tokens of a row, negative from its end (None: every position).
    """

    name: str
    layer: int | None = None
    units: tuple[int, ...] = ()
    position: int | None = None

    def __post_init__(self) -> None:
        if self.name not in SITES:
            raise SiteError(f"no site is called {self.name!r}; the sites are {', '.join(SITES)}")
        if self.kind == "end" and self.layer is not None:
            raise SiteError(f"{self.name} has no layer: it is an end of the stream, write {self.name!r}")
        if self.units and self.kind not in ("head", "kv_head", "neuron", "expert"):
            raise SiteError(f"{self.name} has no heads or neurons; write L{self.layer}.{self.name}")

    @property
    def kind(self) -> Kind:
        """What the site's last axis holds."""
        return SITES[self.name]

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Read `L5.H3.z@-1`, `L2.N17.mlp_post`, `embed`. Raises SiteError on anything else."""
        if isinstance(text, Site):
            return text
        match = _FORM.match(text)
        if match is None:
            raise SiteError(f"{text!r} is not a site; write for example L5.resid_post, L5.H3.z@-1 or L2.N17.mlp_post")
        layer, units, position = match["layer"], match["units"], match["position"]
        return cls(
            name=match["name"],
            layer=None if layer is None else int(layer),
            units=() if units is None else tuple(int(u) for u in units.split(",")),
            position=None if position is None else int(position),
        )

    def __str__(self) -> str:
        layer = "" if self.layer is None else f"L{self.layer}."
        letter = "N" if self.kind == "neuron" else "H"
        units = f"{letter}{','.join(map(str, self.units))}." if self.units else ""
        return f"{layer}{units}{self.name}{'' if self.position is None else f'@{self.position}'}"
