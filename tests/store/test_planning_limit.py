"""While a plan is made, progress names what most of the time goes to."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conceptlab.data.corpus import Document
from conceptlab.runs import Progress, Task
from conceptlab.store import open_harvest, planning
from tests.reliability.small import WISH, corpus, model


class Heard(Progress):
    """Keeps what a task says of itself."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def task(self, label: str, total: int | None = None):  # noqa: ANN201, ARG002
        from contextlib import nullcontext

        heard = self

        class Saying(Task):
            def describe(self, label: str) -> None:
                heard.said.append(label)

        return nullcontext(Saying())


class Slow:
    """A corpus that is slow to read."""

    def __init__(self) -> None:
        self.inner = corpus()

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def documents(self, start: int) -> Iterator[Document]:
        for document in self.inner.documents(start):
            time.sleep(0.02)
            yield document


def test_a_slow_corpus_is_named(tmp_path: Path) -> None:
    heard = Heard()
    open_harvest(model(), Slow(), tmp_path, WISH, progress=heard)  # type: ignore[arg-type]
    assert heard.said and all(line.endswith("limited by the corpus") for line in heard.said)


def test_a_slow_tokenizer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = planning.tokenise

    def slow(*given, **options):  # noqa: ANN002, ANN003, ANN202
        time.sleep(0.5)
        return plain(*given, **options)

    monkeypatch.setattr(planning, "tokenise", slow)
    heard = Heard()
    open_harvest(model(), corpus(), tmp_path, WISH, progress=heard)
    assert heard.said and all(line.endswith("limited by the tokenizer") for line in heard.said)
