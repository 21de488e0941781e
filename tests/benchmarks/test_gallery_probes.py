"""The gallery of probes: its page says what was not readable, and its data are balanced and ours to read where they are."""

import json

import numpy as np
import pytest

from benchmarks.gallery_data import SHARED
from benchmarks.gallery_probes import CUE, DATA, concepts_of, numbers, page
from conceptlab.measure.probing.concept_depth import concept_depth
from conceptlab.model import load_model
from conceptlab.worlds.concept_at_layer import concept_at_layer


def test_the_page_is_written_from_the_numbers(tmp_path):
    world = concept_at_layer(appears_at=1, n_layers=2, n_texts=100, seed=1)
    concepts = list(world.concepts)
    depths = concept_depth(load_model(world.model, tokenizer=world.tokenizer), concepts[:1], n_seeds=2, permutations=5)
    found = numbers(depths, concepts[:1])
    assert found["used"]["as is"]["depth"] == 2.0 and found["used"]["int8"]["shift"] == 0.0
    nothing = json.loads(json.dumps(found)) | {
        "unused": {**found["used"], "as is": {**found["used"]["as is"], "depth": None}}
    }
    (tmp_path / "stories260k").mkdir()
    record = {"concepts": nothing, "seconds": 3.0, "machine": "one"}
    (tmp_path / "stories260k" / "numbers.json").write_text(json.dumps(record))
    text = page(tmp_path)
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "| 2.0 |" in lines["used"] and "| none |" in lines["unused"] and "tinystories" not in text


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here")
def test_the_concepts_are_balanced_and_inferences_end_alike():
    concepts = concepts_of()
    assert [c.name.split(":")[0] for c in concepts] == ["fact", "fact", "emotion", "emotion", "inference", "inference"]
    assert all((np.bincount(c.labels) == c.n // 2).all() for c in concepts)
    assert all(t.endswith(CUE.split("}")[1]) for c in concepts if c.name.startswith("inference") for t in c.texts)
    assert SHARED.is_dir()
