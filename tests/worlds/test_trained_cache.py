"""A kept model is found again only while everything that made it is as it was, the modules that its world imports included."""

import sys
from pathlib import Path

import pytest

from conceptlab.train.cache import _code
from conceptlab.worlds import refusals


@pytest.mark.parametrize("name", ["flagged_neurons", "fresh_models", "word_tokenizer", "refusals"])
def test_a_change_in_what_a_world_imports_makes_another_key(name, tmp_path, monkeypatch):
    before = _code((refusals._train,))
    assert _code((refusals._train,)) == before
    module = sys.modules[f"conceptlab.worlds.{name}"]
    other = tmp_path / f"{name}.py"
    other.write_text(Path(str(module.__file__)).read_text("utf-8") + "\n# changed\n", encoding="utf-8")
    monkeypatch.setattr(module, "__file__", str(other))
    assert _code((refusals._train,)) != before


def test_a_module_that_it_does_not_import_changes_nothing(tmp_path, monkeypatch):
    import conceptlab.worlds.ioi as ioi

    before = _code((refusals._train,))
    other = tmp_path / "ioi.py"
    other.write_text("", encoding="utf-8")
    monkeypatch.setattr(ioi, "__file__", str(other))
    assert _code((refusals._train,)) == before
