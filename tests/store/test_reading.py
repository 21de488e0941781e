"""A store gives back what the model computed, by token, document, site and layer, and refuses what it does not have."""

from pathlib import Path

import numpy as np
import pytest
import torch

from conceptlab.data.corpus import TextList
from conceptlab.errors import DataError, InputError, ResultError, RunError, SiteError
from conceptlab.model import Batch
from conceptlab.store import Store, Wish, open_harvest
from tests.reliability.small import corpus, harvest, model


def wish(**changes: object) -> Wish:
    base = {"context": 16, "batch_tokens": 64, "shard_tokens": 64, "threads": 1}
    return Wish(("resid_post", "embed", "z"), **{**base, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", ["packed", "documents"])
def test_values_are_those_of_a_plain_capture(tmp_path: Path, rows: str) -> None:
    harvest(tmp_path, wish(rows=rows))
    store = Store.open(tmp_path)
    assert store.complete
    parts = {"resid_post": store["resid_post", 1], "embed": store["embed"], "z": store["z", 0]}
    assert parts["z"].shape == (len(store), 2, 8)
    for number, shard in enumerate(store.shards):
        tokens, at = store.tokens(shard), int(store.starts[number])
        for ids in tokens.ids:
            acts = model().capture(Batch((tuple(ids.tolist()),)), ["resid_post", "embed", "z"], positions="all")
            for name, part in parts.items():
                plain = acts[name] if name == "embed" else acts.at(name, 1 if name == "resid_post" else 0)
                torch.testing.assert_close(part[at : at + len(ids)], plain, rtol=1e-5, atol=1e-5)
            at += len(ids)


def test_a_document_is_found_again_with_its_text(tmp_path: Path) -> None:
    harvest(tmp_path, wish())
    store, texts = Store.open(tmp_path), corpus().texts
    for doc in range(len(texts)):
        view = store.document(doc)
        assert view.text == texts[doc]
        coded = model().tokenizer(texts[doc])["input_ids"]
        assert view.token.tolist()[: len(coded)] == coded
        words = [texts[doc][a:b] for a, b in zip(view.start, view.end, strict=True) if b > a]
        assert "".join(words).replace(" ", "") == texts[doc].replace(" ", "")
        assert torch.equal(store.values(doc, "embed"), store["embed"].take(view.index))
    with pytest.raises(InputError, match="document 999 is not in the store"):
        store.document(999)


def test_indexing_is_that_of_an_array(tmp_path: Path) -> None:
    harvest(tmp_path, wish())
    part = Store.open(tmp_path)["resid_post", 0]
    whole = part.read(0, len(part))
    rng = np.random.default_rng(0)
    for index in (
        slice(3, 200),
        slice(-20, None),
        slice(5, 100, 7),
        slice(9, 3),
        rng.integers(-len(part), len(part), 50),
    ):
        assert torch.equal(part[index], whole[index])
    mask = rng.random(len(part)) < 0.3
    assert torch.equal(part.take(mask), whole[torch.from_numpy(mask)])
    assert torch.equal(part[-1], whole[-1])
    assert np.array_equal(part.numpy(2, 9), whole[2:9].numpy())
    for index in (len(part), [0, len(part)]):
        with pytest.raises(IndexError, match="exist"):
            part[index]


@pytest.mark.parametrize(("positions", "count"), [("last", 1), ((0, -1), 2), ((5, 99), 1)])
def test_only_asked_positions_are_kept(tmp_path: Path, positions: "str | tuple[int, ...]", count: int) -> None:
    harvest(tmp_path, wish(positions=positions))
    store = Store.open(tmp_path)
    n_rows = sum(len(store.tokens(shard).ids) for shard in store.shards)
    assert n_rows * (count - 1) < len(store) <= n_rows * count
    tokens = store.tokens(0)
    row = model().capture(Batch((tuple(tokens.ids[0].tolist()),)), "embed", positions="all")["embed"]
    kept = tokens.kept[tokens.row == 0]
    torch.testing.assert_close(store["embed"][: int(kept.sum())], row[torch.from_numpy(kept)])


def test_bfloat16_is_kept_as_it_is(tmp_path: Path) -> None:
    harvest(tmp_path, wish(dtype="bfloat16"))
    part = Store.open(tmp_path)["embed"]
    assert part.dtype == torch.bfloat16 and part[0:3].dtype == torch.bfloat16
    with pytest.raises(InputError, match="numpy has no bfloat16"):
        part.numpy(0, 3)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="holds no store"):
        Store.open(tmp_path)
    harvest(tmp_path, wish())
    store = Store.open(tmp_path)
    for ask, words in (
        (("mlp_out", 0), "'mlp_out' is not in the store"),
        (("z", 7), "stored at layers"),
        (("embed", 0), "an end"),
    ):
        with pytest.raises(InputError, match=words):
            store.part(*ask)
    for sites, words in (
        (("pattern",), "pair of tokens"),
        (("L0.H1.z",), "whole sites"),
        (("L9.z",), "layers 0 to 1"),
        ((), "no site"),
    ):
        with pytest.raises((InputError, SiteError), match=words):
            open_harvest(model(), corpus(), tmp_path / "other", Wish(sites))
    assert not (tmp_path / "other").exists()


def test_another_store_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    harvest(tmp_path, wish())
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for other, words in (
        (wish(context=8), "context was 16, now 8"),
        (wish(dtype="float16"), "dtype was float32, now float16"),
    ):
        with pytest.raises(InputError, match=words):
            harvest(tmp_path, other)
    with pytest.raises(InputError, match="corpus was"):
        harvest(tmp_path, wish(), TextList(("another text",)))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_bad_documents_stop_or_are_counted(tmp_path: Path) -> None:
    texts = TextList((*corpus().texts[:5], " \n", corpus().texts[6], ""))
    with pytest.raises(DataError, match="text 5: the text is empty; mend it, or leave such out with --skip-bad"):
        harvest(tmp_path, wish(), texts)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"], "the folder is as it was"
    harvest(tmp_path, wish(skip_bad=True), texts)
    store = Store.open(tmp_path)
    assert store.plan.n_docs == 6 and store.plan.n_skipped == 2
    assert store.document(6).text == texts.texts[6]
    with pytest.raises(DataError, match="no document has a token"):
        harvest(tmp_path / "none", wish(skip_bad=True), TextList(("", " ")))


def test_a_value_too_large_for_the_format_is_an_error(tmp_path: Path) -> None:
    weight = model().module.transformer.wte.weight.data
    held = weight.clone()
    try:
        weight.mul_(1e6)
        with pytest.raises(RunError, match="too large for float16; use --store-dtype float32"):
            harvest(tmp_path, wish(dtype="float16"))
    finally:
        weight.copy_(held)


def test_one_call_from_python(tmp_path: Path) -> None:
    import conceptlab as cl

    texts = list(corpus().texts)
    store = cl.harvest(model(), texts, tmp_path, ["embed"], context=16, threads=1)
    assert store.complete and len(store) == store.plan.n_kept
    again = cl.harvest(model(), texts, tmp_path, "embed", context=16, threads=1)
    assert len(again) == len(store) and cl.Store.open(tmp_path).complete


def test_a_token_wider_than_a_block_is_checked_whole(tmp_path: Path) -> None:
    from conceptlab.runs.blocks import BLOCK, record_of
    from conceptlab.runs.place import LocalPlace
    from conceptlab.store.mapped import ShardFile
    from conceptlab.store.shard_files import header

    values = torch.arange(3 * 900_000, dtype=torch.float32).reshape(3, 900_000)  # 3.4 blocks a token
    content = header((3, 900_000), "float32") + values.numpy().tobytes()
    record = record_of(content)
    (tmp_path / "whole").write_bytes(content)
    file = ShardFile(LocalPlace(tmp_path), "whole", record)
    file.touch_all(np.array([1]))
    assert file.checked.nonzero()[0].tolist() == [
        0,
        *range((64 + 3_600_000) // BLOCK, (64 + 7_200_000 - 1) // BLOCK + 1),
    ]
    assert torch.equal(file.read(1, 2)[0], values[1])
    spoilt = bytearray(content)
    spoilt[5 * BLOCK + 7] ^= 1
    (tmp_path / "spoilt").write_bytes(spoilt)
    with pytest.raises(ResultError, match="is damaged between bytes 5,242,880"):
        ShardFile(LocalPlace(tmp_path), "spoilt", record).touch_all(np.array([1]))


@pytest.mark.parametrize("rows", ["packed", "documents"])
def test_a_harvest_may_stop_after_so_many_tokens(tmp_path: Path, rows: str) -> None:
    harvest(tmp_path / "all", wish(rows=rows))
    harvest(tmp_path / "some", wish(rows=rows, tokens=100))
    whole, some = Store.open(tmp_path / "all"), Store.open(tmp_path / "some")
    assert 100 <= some.plan.n_tokens < 100 + 16 < whole.plan.n_tokens
    last = max(int(table.doc.max()) for table in some.token_table())
    assert some.plan.n_docs == last + 1 < whole.plan.n_docs
    for doc in range(last):
        assert torch.allclose(some.values(doc, "embed"), whole.values(doc, "embed"), atol=1e-5)
        assert some.document(doc).text == whole.document(doc).text
