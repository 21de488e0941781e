"""Does the anatomy hold? The identities of a model, tested on the model itself, each with its error.

Parts add up to the stream; `pattern @ v = z`; heads through W_O give the attention output; the last lens row is the logits;
captured logits equal a plain forward; writing back what was read changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from conceptlab.errors import ConceptlabError, SiteError
from conceptlab.model.attention import mix_values
from conceptlab.model.batch import Batch
from conceptlab.model.model import ENDS, Model
from conceptlab.model.probe import probe_inputs
from conceptlab.results import SITES, Edit, Site


@dataclass(frozen=True)
class Identity:
    """One tested identity: `error` is the largest relative error over layers, `limit` what is allowed, None: not applicable."""

    name: str
    error: float | None
    limit: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """True when tested and within its limit."""
        return self.error is not None and self.error <= self.limit


@dataclass(frozen=True)
class Check:
    """What a model has: `sites` maps a name to the layers that have it or to the reason why not, `identities` were tested."""

    model: str
    revision: str
    n_layers: int
    sites: dict[str, tuple[int, ...] | str]
    identities: tuple[Identity, ...]

    @property
    def passed(self) -> bool:
        """No tested identity fails."""
        return all(i.holds for i in self.identities if i.error is not None)

    def to_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = [{**asdict(i), "holds": i.holds} for i in self.identities]
        sites = {k: (list(v) if isinstance(v, tuple) else v) for k, v in self.sites.items()}
        return {
            "model": self.model, "revision": self.revision, "n_layers": self.n_layers,
            "sites": sites, "identities": rows, "passed": self.passed,
        }  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """Inputs to test on: `rows` are run one by one; `batch` holds them together where they are tokens, else None."""

    rows: tuple[Batch | dict[str, Tensor], ...]
    batch: Batch | None

    @classmethod
    def of_tokens(cls, batch: Batch) -> "Trial":
        """The rows of a batch of tokens."""
        return cls(tuple(batch.select([r]) for r in range(len(batch))), batch)


def relative(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    if a.numel() == 0:
        return 0.0
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30))


def site_table(model: Model) -> dict[str, tuple[int, ...] | str]:
    """Every site of the field's names: the layers that have it (() for the ends of the stream), or why it is missing."""
    table: dict[str, tuple[int, ...] | str] = {}
    for name in SITES:
        try:
            model.tap(name, None if name in ENDS else (model.layers_with(name) or (0,))[0])
            table[name] = () if name in ENDS else model.layers_with(name)
        except SiteError as error:
            table[name] = str(error).split(": ", 1)[-1]
    return table


def check_model(model: Model, texts: Sequence[str] | None = None) -> Check:
    """Test every identity that this model's architecture admits, on `texts` or on seeded tokens of unequal length."""
    trial = Trial.of_tokens(model.encode(list(texts))) if texts else seeded_trial(model)
    floating = model.unembedding.dtype if model.has_logits else next(model.module.parameters()).dtype
    limit = 1e-5 if floating == torch.float32 else 3e-2
    tests: list[tuple[str, float, Callable[[Model, Trial], float]]] = [
        ("logits equal a plain forward", 0.0, _plain_logits),
        ("parts add up to the stream", limit, _parts),
        ("pattern @ v = z", limit, _pattern),
        ("last lens row = logits", 0.0, _lens),
        ("batched = alone, right padding", limit, lambda m, t: _alone(m, t, "right")),
        ("batched = alone, left padding", limit, lambda m, t: _alone(m, t, "left")),
        ("writing what was read changes nothing", 0.0, _write_back),
        ("writing something else changes the output", 0.0, _write_other),
    ]
    return Check(
        model.name, model.revision, model.n_layers, site_table(model), tuple(_run(model, trial, *t) for t in tests)
    )


def _run(model: Model, trial: Trial, name: str, limit: float, test: Callable[[Model, Trial], float]) -> Identity:
    try:
        return Identity(name, test(model, trial), limit)
    except ConceptlabError as error:
        return Identity(name, None, limit, str(error).split(": ", 1)[-1])


def seeded_trial(model: Model) -> Trial:
    """Three rows of seeded tokens of unequal length; for a model that reads no tokens, the trial input it was loaded with."""
    generator = torch.Generator().manual_seed(1)
    config = getattr(model.module, "config", None)
    size = getattr(config, "vocab_size", None) or getattr(getattr(config, "text_config", None), "vocab_size", None)
    if not model.reads_text or not isinstance(size, int):
        return Trial((probe_inputs(model.runner),), None)
    lengths = [min(n, model.max_length) for n in (4, 9, 6)]
    rows = tuple(tuple(torch.randint(min(5, size - 1), size, (n,), generator=generator).tolist()) for n in lengths)
    return Trial.of_tokens(Batch(rows))


def _end(model: Model) -> str:
    """What a change is judged by: the logits, or the last stream where there are none."""
    return "logits" if model.has_logits else "resid_post"


def _final(model: Model, rows: Batch | dict[str, Tensor], **options: Any) -> Tensor:
    end = _end(model)
    layers = None if end == "logits" else [model.n_layers - 1]
    return model.capture(rows, end, layers=layers, positions="all", **options)[end]


def _plain_logits(model: Model, trial: Trial) -> float:
    row = trial.rows[0]
    if not model.has_logits:
        raise SiteError(model.stack.missing["logits"])
    inputs = model.padded(row, [0]) if isinstance(row, Batch) else row
    with torch.no_grad():
        plain = model.runner(**inputs).logits[0]
    return relative(_final(model, row), plain)


def _parts(model: Model, trial: Trial) -> float:
    worst = None
    for layer, block in enumerate(model.stack.blocks):
        names = [n for n in ("attn_out", "cross_attn_out", "mixer_out", "mlp_out", "extra_out") if n in block.taps]
        if not names or block.post_norm or "no outputs" in block.missing.get("attn_out", ""):
            continue
        for row in trial.rows:
            acts = model.capture(row, ["resid_pre", *names, "resid_post"], layers=[layer], positions="all")
            total = acts["resid_pre"] + sum(acts[n] for n in names)
            worst = max(worst or 0.0, relative(total, acts["resid_post"]))
    if worst is None:
        raise SiteError("no block has parts that add up (post-norm blocks re-norm their stream)")
    return worst


def _pattern(model: Model, trial: Trial) -> float:
    layers = [i for i in model.layers_with("pattern") if i in model.layers_with("z")]
    if not layers:
        reason = site_table(model)["pattern"]
        raise SiteError(reason if isinstance(reason, str) else "no z beside a pattern")
    worst = 0.0
    for row, layer in product(trial.rows, layers):
        acts = model.capture(row, ["pattern", "v", "z"], layers=[layer], positions="all")
        n = int((acts.row == 0).sum())  # a batch of images has rows of equal length; one row says it all
        pattern, v = acts["pattern"][:n, 0].transpose(0, 1)[None], acts["v"][:n, 0].transpose(0, 1)[None]
        worst = max(worst, relative(mix_values(pattern, v)[0], acts["z"][:n, 0]))
    return worst


def _lens(model: Model, trial: Trial) -> float:
    """Row by row with the forward's own shapes, so that equality can be exact."""
    last, worst = model.n_layers - 1, 0.0
    for row in trial.rows:
        acts = model.capture(row, ["resid_post", "logits"], layers=[last], positions="all")
        with torch.no_grad():
            worst = max(worst, relative(model.lens(acts.at("resid_post", last)[None])[0], acts["logits"]))
    return worst


def _alone(model: Model, trial: Trial, side: str) -> float:
    if trial.batch is None:
        raise SiteError("this model reads no tokens, so there is no padding")
    together = _final(model, trial.batch, padding_side=side, max_tokens=10**6)
    return relative(together, torch.cat([_final(model, row) for row in trial.rows]))


def writable(model: Model) -> list[Site]:
    """One site of every kind that this model has, at a middle layer."""
    sites = []
    for name, layers in site_table(model).items():
        if isinstance(layers, tuple) and layers and not model.tap(name, layers[0]).read_only:
            sites.append(Site(name, layers[len(layers) // 2]))
    return sites


def _write_back(model: Model, trial: Trial) -> float:
    """Bitwise, except where an explicit pattern takes the place of a fused kernel (1e-6, tested apart)."""
    one, worst = trial.rows[-1], 0.0
    before = _final(model, one)
    for site in (s for s in writable(model) if s.name != "pattern"):
        value = model.capture(one, site.name, layers=[site.layer or 0], positions="all")[site.name][:, 0]
        with model.edited(Edit(site, "set", value)):
            worst = max(worst, relative(_final(model, one), before))
    return worst


def _write_other(model: Model, trial: Trial) -> float:
    """0 when every write is felt; otherwise the number of sites whose writes are ignored."""
    one, generator = trial.rows[-1], torch.Generator().manual_seed(2)
    before, ignored = _final(model, one), []
    for site in (s for s in writable(model) if s.name != "pattern"):
        value = model.capture(one, site.name, layers=[site.layer or 0], positions="all")[site.name][:, 0]
        noise = torch.randn(value.shape, generator=generator).to(value) * (value.abs().max() + 1)
        with model.edited(Edit(site, "add", noise)):
            if torch.equal(_final(model, one), before):
                ignored.append(str(site))
    return float(len(ignored))
