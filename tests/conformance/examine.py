"""Examine one model type: build it, load it, test every identity, and keep what was found as a Record."""

from __future__ import annotations

import time
from typing import Any

import torch

from conceptlab.errors import ConceptlabError
from conceptlab.model import Batch, load_model

from .case import LENGTHS, Case, Outcome, Record, site_table
from .identities import IDENTITIES
from .other_models import OTHERS, Kind, other_inputs, other_model
from .tiny_models import FIRST_TOKEN, LAST_TOKEN, CannotBuild, causal_lm_types, tiny_model


def case_of(name: str, seed: int = 0) -> Case:
    """The model of a causal-LM type, or of another kind ("other:bert"), with its inputs.

    Raises CannotBuild where it cannot be made here, ConceptlabError where the engine cannot read it.
    """
    kind = OTHERS[name.removeprefix("other:")] if name.startswith("other:") else Kind(class_name(name))
    other = name.removeprefix("other:") if name.startswith("other:") else ""
    module = other_model(other, seed) if other else tiny_model(name, seed)
    model = load_model(module, stack=kind.stack)
    if kind.reads != "tokens":
        given = other_inputs(other, module, rows=1, lengths=9)
        return Case(model, module, given, given, None)
    batch = ragged_batch(min(LAST_TOKEN, _vocabulary(module)))
    one = batch.select([LENGTHS.index(max(LENGTHS))])
    ids = torch.tensor(one.ids)
    return Case(model, module, one, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, batch)


def _vocabulary(module: Any) -> int:
    table: Any = module.get_input_embeddings()
    first: Any = next(iter(table)) if isinstance(table, torch.nn.ModuleList) else table
    return int(first.weight.shape[0])


def ragged_batch(last_token: int, seed: int = 5) -> Batch:
    """Rows of unequal length, tokens away from the special ones."""
    generator = torch.Generator().manual_seed(seed)
    rows = (torch.randint(FIRST_TOKEN, last_token, (n,), generator=generator) for n in LENGTHS)
    return Batch(tuple(tuple(row.tolist()) for row in rows))


def class_name(name: str) -> str:
    """The model class of a type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if name.startswith("other:"):
        return OTHERS[name.removeprefix("other:")].class_name
    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]


def examine(name: str, seed: int = 0) -> Record:
    """Test every identity of one type; whatever goes wrong is in the record, nothing is raised."""
    start = time.perf_counter()
    try:
        case = case_of(name, seed)
    except CannotBuild as error:
        return Record(name, class_name(name), reason=f"not built here: {error}")
    except ConceptlabError as error:
        return Record(name, class_name(name), reason=str(error))
    outcomes = {identity: _tested(test, case) for identity, test in IDENTITIES.items()}
    return Record(
        name,
        class_name(name),
        case.model.n_layers,
        site_table(case.model),
        outcomes,
        round(time.perf_counter() - start, 2),
    )


def _tested(test: Any, case: Case) -> Outcome:
    try:
        return test(case)
    except Exception as error:  # noqa: BLE001  (an identity that raises has failed, and the run goes on)
        return Outcome("FAIL", None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def all_names() -> list[str]:
    """Every causal-LM type, then the other kinds."""
    return [*causal_lm_types(), *(f"other:{name}" for name in OTHERS)]
