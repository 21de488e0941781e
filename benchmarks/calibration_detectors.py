"""How often detectors of heads and neurons name anything where there is nothing: 100 null models each, and shuffled labels.

`make calibration` runs it last and puts its section into docs/calibration.md, in front of the causal methods. Heads: null twins of
the world of roles (random heads, no planted one), but the world itself for what only a model that does something can be asked:
heads beside the one that inhibits, needles with their tokens shuffled. Neurons: null twins of the planted neurons for what is
read from weights; shuffled labels and shuffled marks for what is compared between texts. Every ranking comes from the functions
that a user calls.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from benchmarks.calibration import CAUSAL, share
from conceptlab.find.detector import ranked
from conceptlab.find.heads.find_heads import DETECTORS as HEADS
from conceptlab.find.heads.find_heads import find_heads
from conceptlab.find.heads.retrieval_heads import look, retrieval_scores, survey_stacks
from conceptlab.find.heads.span_heads import span_heads
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.find.neurons.contrast_neurons import contrast_neurons
from conceptlab.find.neurons.find_neurons import find_neurons
from conceptlab.model import Batch, Model, load_model
from conceptlab.results import Provenance, Units
from conceptlab.worlds.head_roles import USED, head_roles, names_of
from conceptlab.worlds.planted_neurons import planted_neurons

OUT = Path(__file__).parents[1] / "docs" / "calibration.md"
TITLE = "## Detectors of heads and neurons"
FIRST, N, LEVEL = 4000, 100, 0.05
RARE = ("s-inhibition", "retrieval")  # what they look at a random model hardly ever does: they are asked otherwise
TEXT = """{n} models or shuffles for every detector, seeds {first} on. A ranking is wrong when any unit of it has q ≤ 0.05: that
is to happen in 5 % of rankings at most, and the share of named units among all units is far below. Heads are asked of models
in which every head is random and small; S-inhibition of models in which one head inhibits (what is named beside it counts);
retrieval of models that retrieve, with each needle's tokens shuffled; neurons of random weights, or with labels shuffled between
texts. {date}, {seconds:.0f} s of CPU ({machine})."""
Rankings = Iterator[Mapping[str, xr.Dataset]]


def of_heads(seeds: range) -> Rankings:
    """Every detector on null twins of the world of roles, but those that need a model which does something."""
    for seed in seeds:
        survey = _survey(seed, null=True)
        names = [name for name in HEADS if name not in RARE]
        yield tables(find_heads(survey.model, names, survey=survey).units)


def of_movers(seeds: range) -> Rankings:
    """S-inhibition where one head inhibits: what is named beside it."""
    for seed in seeds:
        survey = _survey(seed)
        table = find_heads(survey.model, ["s-inhibition"], survey=survey).units["s-inhibition"].table
        names = [f"L{layer}.H{head}" for layer, head in zip(table["layer"].values, table["index"].values, strict=True)]
        beside = [at for at, name in enumerate(names) if "s-inhibition" not in USED.get(name, ())]
        assert len(beside) == len(names) - 1
        yield {"s-inhibition": table.isel(unit=beside)}


def of_needles(seeds: range) -> Rankings:
    """Retrieval where needles are retrieved, with the tokens of each shuffled in the account of where they stood."""
    for seed in seeds:
        survey, rng = _survey(seed), np.random.default_rng(seed)
        looked = look(survey.model, survey_stacks(survey))
        rows = [list(ids) for ids in looked.stacks.batch.ids]
        for ids, (start, stop) in zip(rows, looked.stacks.spans, strict=True):
            ids[start:stop] = rng.permutation(ids[start:stop]).tolist()
        stacks = replace(looked.stacks, batch=Batch(tuple(map(tuple, rows))))
        scored = retrieval_scores(replace(looked, stacks=stacks), seed=seed)
        provenance = Provenance("retrieval heads", scored.n, seed, survey.model.name)
        yield {"retrieval": ranked("head", scored, provenance).table}


def _survey(seed: int, *, null: bool = False) -> HeadSurvey:
    world = head_roles(seed=seed, null=null, n_prompts=16)
    model = load_model(world.model, tokenizer=world.tokenizer)
    return HeadSurvey(model, seed=seed, n_rows=16, task_rows=12, names=names_of(world))


def of_neurons(seeds: range) -> Rankings:
    """Every detector that reads weights, on null twins of the planted neurons."""
    for seed in seeds:
        yield tables(find_neurons(_null(seed), seed=seed).units)


def of_texts(seeds: range) -> Rankings:
    """Neurons that fire otherwise in one half of texts than in the other, and heads that watch a place in marked ones: shuffled."""
    for seed in seeds:
        world = planted_neurons(seed=seed)
        model, rng = load_model(world.model, tokenizer=world.tokenizer), np.random.default_rng(seed)
        texts = rng.permutation(list(world.prompts["plain"])).tolist()
        units = {
            "contrast neurons": contrast_neurons(model, texts[:32], texts[32:], seed=seed),
            "heads that watch a span": span_heads(
                model, texts, [[1]] * len(texts), rng.random(len(texts)) < 0.5, seed=seed
            ),
        }
        yield tables(units)


def tables(units: Mapping[str, Units]) -> Mapping[str, xr.Dataset]:
    """One row a unit."""
    return {name: found.table for name, found in units.items()}


def _null(seed: int) -> Model:
    world = planted_neurons(seed=seed, null=True)
    return load_model(world.model, tokenizer=world.tokenizer)


def rows(made: Callable[[range], Rankings], seeds: range) -> list[str]:
    """One line a detector: rankings with anything named, and units named of all."""
    counts: dict[str, list[int]] = {}
    for units in made(seeds):
        for name, table in units.items():
            named = int((table["q"].values <= LEVEL).sum())
            at = counts.setdefault(name, [0, 0, 0, 0])
            at[0], at[1] = at[0] + (named > 0), at[1] + 1
            at[2], at[3] = at[2] + named, at[3] + table.sizes["unit"]
    return [f"| {name} | {share(a, b)} | {share(c, d)} |" for name, (a, b, c, d) in counts.items()]


def section(n: int, first: int = FIRST) -> str:
    """The section as Markdown."""
    start, seeds = time.process_time(), range(first, first + n)
    lines = [line for made in (of_heads, of_movers, of_needles, of_neurons, of_texts) for line in rows(made, seeds)]
    asked = {line.split(" | ")[0][2:] for line in lines}
    silent = [name for name in HEADS if name not in asked]
    told = TEXT.format(
        n=n,
        first=first,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        seconds=time.process_time() - start,
        machine=platform.machine(),
    )
    more = [f"Not asked, since these models do not do its task: {', '.join(silent)}.", ""] if silent else []
    table = ["| detector | rankings with a unit named | units named |", "|---|---|---|", *lines]
    return "\n".join([TITLE, "", told, "", *more, *table]) + "\n"


def put(page: Path, text: str) -> None:
    """Write the section into the page, in place of an earlier one, in front of the causal methods."""
    whole = page.read_text(encoding="utf-8")
    before, causal, after = whole.partition(CAUSAL)
    before = before.split(TITLE)[0].rstrip()
    page.write_text(f"{before}\n\n{text}\n{causal}{after}", encoding="utf-8")


def main() -> None:
    """Write the section, or print its quick form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two models each, printed and not written")
    options = parser.parse_args()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    if options.quick:
        print(section(2, first=1))
        return
    put(OUT, section(N))
    print(f"wrote {TITLE[3:]} into {OUT}")


if __name__ == "__main__":
    main()
