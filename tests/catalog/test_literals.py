"""Literals are read from source, also where Python itself stumbles over threads that parse at once."""

import ast

import pytest

from conceptlab.catalog import literals
from conceptlab.catalog.literals import literal
from conceptlab.errors import InputError


def stumbling(times):
    """`ast.parse` as CPython 3.11 answers it while another thread parses: wrong `times` times, then right."""
    left, parse = [times], ast.parse

    def parsed(source):
        if left[0] > 0:
            left[0] -= 1
            raise SystemError("AST constructor recursion depth mismatch (before=189, after=39)")
        return parse(source)

    return parsed


def test_a_mixed_up_counter_is_asked_again(tmp_path, monkeypatch):
    (tmp_path / "one.py").write_text("RECIPE = {'id': 'one'}\n")
    monkeypatch.setattr(literals.ast, "parse", stumbling(literals.TRIES - 1))
    assert literal(tmp_path / "one.py", "RECIPE") == {"id": "one"}


def test_a_fault_that_stays_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "one.py").write_text("RECIPE = {'id': 'one'}\n")
    monkeypatch.setattr(literals.ast, "parse", stumbling(literals.TRIES))
    with pytest.raises(SystemError, match="recursion depth"):
        literal(tmp_path / "one.py", "RECIPE")


@pytest.mark.parametrize("source", ["RECIPE = {'id': made()}\n", "RECIPE = {\n"])
def test_what_is_no_literal_is_said_in_one_line(tmp_path, source):
    (tmp_path / "one.py").write_text(source)
    with pytest.raises(InputError, match="RECIPE cannot be read .* write it as a literal dictionary"):
        literal(tmp_path / "one.py", "RECIPE")
