"""Values come from a GPU through a few buffers that are used in turn: the same bytes, bounded memory, no wait without an end."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from benchmarks.speed.models import make_module, word_tokenizer
from conceptlab.model import load_model
from conceptlab.runs import SILENT, blocks
from conceptlab.runs.blocks import BlockWriter, record_of
from conceptlab.runs.durable import begin_writing
from conceptlab.store import shard_files
from conceptlab.store.copies import SLOTS, Copies, Values
from conceptlab.store.harvesting import harvest
from conceptlab.store.overlap import Overlap
from conceptlab.store.shard_files import ShardFiles
from tests.store.launched import files


class Slow:
    """A carrier whose copies begin at once and are there later, so that who reads too early reads what was there before."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.under_way = 0
        self.most = 0

    def buffer(self, n_bytes: int) -> Tensor:
        self.sizes.append(n_bytes)
        return torch.full((n_bytes,), 255, dtype=torch.uint8)

    def carry(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Callable[[], None]:
        sources = [source.clone() for _, source in pairs]
        self.under_way += 1
        self.most = max(self.most, self.under_way)

        def copy() -> None:
            time.sleep(0.005)
            for (into, _), source in zip(pairs, sources, strict=True):
                into.copy_(source)

        thread = threading.Thread(target=copy)
        thread.start()
        return thread.join


def batch(seed: int, n_tokens: int) -> Values:
    """Parts of several shapes; one is a cast, one a layer of a larger tensor, one holds NaN in odd batches."""
    generator = torch.Generator().manual_seed(seed)
    stacked = torch.randn(n_tokens, 3, 7, generator=generator)
    wide = torch.randn(n_tokens, 5, generator=generator)
    if seed % 2:
        wide[-1, -1] = float("nan")
    return {
        "resid_post/0": (stacked[:, 0], None),
        "resid_post/1": (stacked[:, 1].to(torch.bfloat16), stacked[:, 1]),
        "embed": (wide.to(torch.float16), wide),
    }


def same(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype == theirs.dtype and torch.equal(ours.nan_to_num(9.0), theirs.contiguous().nan_to_num(9.0))


def test_every_batch_arrives_as_it_was_through_a_few_buffers() -> None:
    carrier = Slow()
    copies, seen = Copies(carrier), []
    sizes = [4, 9, 9, 2, 7, 9, 9, 1, 5, 9]

    def write(number: int, handed) -> None:
        with handed:
            wanted = batch(number, sizes[number])
            assert list(handed.values) == list(wanted)
            for part, (values, source) in handed.values.items():
                assert same(values, wanted[part][0])
                assert source is None if wanted[part][1] is None else same(source, wanted[part][1])
            assert handed.finite == {"resid_post/0": True, "resid_post/1": True, "embed": number % 2 == 0}
            carrier.under_way -= 1
            time.sleep(0.002)
        seen.append(number)

    with Overlap() as writer:
        for number, n_tokens in enumerate(sizes):
            handed = copies._begun(batch(number, n_tokens), writer)
            writer.give(lambda n=number, h=handed: write(n, h))
    assert seen == list(range(len(sizes)))
    assert carrier.most <= SLOTS
    assert len(carrier.sizes) <= 2 * SLOTS, "buffers were made anew for batches that fit"


def test_a_writer_that_fails_ends_the_wait_for_a_buffer() -> None:
    copies = Copies(Slow())

    def fail(handed) -> None:
        with handed:
            raise OSError("no space")

    start = time.monotonic()
    with pytest.raises(OSError, match="no space"), Overlap() as writer:
        for number in range(3 * SLOTS):
            handed = copies._begun(batch(number, 4), writer)
            writer.give(lambda h=handed: fail(h))
    assert time.monotonic() - start < 30
    copies.reset()
    with Overlap() as writer:
        for number in range(2 * SLOTS):
            handed = copies._begun(batch(number, 4), writer)
            writer.give(lambda h=handed: h.__exit__())


def test_values_on_the_cpu_are_handed_on_as_they_are() -> None:
    carrier, values = Slow(), batch(0, 4)
    with Overlap() as writer:
        handed = Copies(carrier).handed(values, writer)
    assert all(handed.values[part][0] is values[part][0] for part in values) and not carrier.sizes and not handed.finite


def test_more_threads_and_early_flushes_change_no_byte(tmp_path, monkeypatch) -> None:
    """Beside a GPU the cores are free: parts, and the writing and the two hashes of a part, run at the same time."""
    module = make_module("gpt2", tiny=True, n_layers=2)
    size = int(module.config.vocab_size)
    texts = [" ".join(f"w{i % size}" for i in range(n, 3 * n + 5)) for n in range(40)]
    asked = []
    real = ShardFiles.__init__

    def beside_a_gpu(self, *args) -> None:
        real(self, *args[:-1], torch.device("meta"))

    monkeypatch.setattr(blocks, "begin_writing", lambda handle: asked.append(handle) or begin_writing(handle))
    for name, n_threads in (("one", 1), ("many", 4)):
        monkeypatch.setattr(shard_files, "WRITERS", 1)
        monkeypatch.setattr(shard_files, "FREE_WRITERS", n_threads)
        monkeypatch.setattr(shard_files, "EARLY", 1 << 10)
        if name == "many":
            monkeypatch.setattr(ShardFiles, "__init__", beside_a_gpu)
        model = load_model(module, tokenizer=word_tokenizer(size))
        wish = {"context": 16, "batch_tokens": 64, "shard_tokens": 256, "threads": 1}
        harvest(model, texts, tmp_path / name, ("resid_post", "embed", "z"), progress=SILENT, **wish)
    assert files(tmp_path / "one") == files(tmp_path / "many")
    assert asked, "nothing was flushed early, so that was not tested"


def test_the_steps_of_a_file_run_at_the_same_time(tmp_path) -> None:
    writer = BlockWriter(tmp_path / "draft")
    content = bytes(range(256)) * 20_000
    for start in range(0, len(content), 700_001):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda step: step(), writer.steps(content[start : start + 700_001])))
        writer.begin_flush()
    assert writer.close() == record_of(content) and (tmp_path / "draft").read_bytes() == content
    writer.begin_flush()  # a file that was closed meanwhile
