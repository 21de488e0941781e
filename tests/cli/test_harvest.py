"""`conceptlab harvest` and `conceptlab store`: from a file to a store and back, by one process and by two, and what is refused."""

import json
import random
from pathlib import Path

import pytest

from conceptlab.cli import main
from conceptlab.runs.place import LocalPlace
from conceptlab.store import Store
from tests.model.tiny import WORDS, tokenizer
from tests.reliability.small import fresh_module, hashes

SMALL = [
    "--context",
    "16",
    "--batch-tokens",
    "64",
    "--shard-tokens",
    "100",
    "--threads",
    "1",
    "--sites",
    "resid_post,embed",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-model")
    fresh_module().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(4, 12))) for _ in range(60)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_a_harvest_says_what_it_will_cost_and_what_it_did(model, corpus, tmp_path, capsys):
    store = str(tmp_path / "store")
    assert main(["harvest", model, corpus, store, *SMALL]) == 0
    told = capsys.readouterr()
    assert "of 60 documents, in" in told.err and "tokens/s a worker" in told.err and "of memory a worker" in told.err
    assert f"{store}: complete" in told.out and "limited by the" in told.out
    assert main(["harvest", model, corpus, store, *SMALL]) == 0
    assert "everything is there already" in capsys.readouterr().err
    assert main(["store", "info", store, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["complete"] and record["documents"] == 60 and record["source"]["model"] == model
    assert main(["store", "info", store]) == 0
    assert "resid_post: layers 0-1, 16 float32 a token" in capsys.readouterr().out


def test_estimate_alone_computes_nothing(model, corpus, tmp_path, capsys):
    assert main(["harvest", model, corpus, str(tmp_path), *SMALL, "--estimate", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["shards"][0] == 0 and record["estimate"]["tokens_left"] > 0
    values = Store.open(tmp_path).plan.n_kept * 3 * 16 * 4
    assert record["estimate"]["bytes_disk"] == record["bytes"] == values


def test_two_processes_write_the_bytes_of_one(model, corpus, tmp_path):
    assert main(["harvest", model, corpus, str(tmp_path / "one"), *SMALL, "--quiet"]) == 0
    assert main(["harvest", model, corpus, str(tmp_path / "two"), *SMALL, "--quiet", "--workers", "2"]) == 0
    assert hashes(LocalPlace(tmp_path / "one")) == hashes(LocalPlace(tmp_path / "two"))


def test_verify_and_repair_from_the_command_line(model, corpus, tmp_path, capsys):
    store = tmp_path / "store"
    assert main(["harvest", model, corpus, str(store), *SMALL, "--quiet"]) == 0
    whole = hashes(LocalPlace(store))
    assert main(["store", "verify", str(store)]) == 0
    path = sorted((store / "acts" / "embed").glob("*"))[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    assert main(["store", "verify", str(store), "--quiet"]) == 1
    assert f"damaged: acts/embed/{path.name} is damaged between bytes" in capsys.readouterr().out
    assert main(["store", "repair", str(store), "--quiet"]) == 0
    assert "every byte is as it was written" in capsys.readouterr().out
    assert hashes(LocalPlace(store)) == whole


def test_statistics_from_the_command_line(model, corpus, tmp_path, capsys):
    store = str(tmp_path / "store")
    assert main(["harvest", model, corpus, store, *SMALL, "--statistics", "--no-values", "--quiet"]) == 0
    assert "statistics only" in capsys.readouterr().out
    assert main(["store", "info", store]) == 0
    assert f"conceptlab store statistics {store}" in capsys.readouterr().out
    assert main(["store", "statistics", store]) == 0
    told = capsys.readouterr().out
    command = told.strip().splitlines()[-1].removeprefix("one unit: conceptlab ").split()
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "0 NaN, 0 infinite" in told and "99 %" in told and told.count("«") == 16
    assert main([*command, "--json"]) == 0
    record, found = json.loads(capsys.readouterr().out), Store.open(store).statistics("resid_post", 0)
    assert record["max"] == found.max[record["unit"]] and len(record["exemplars"]) == 16
    assert main(["store", "statistics", store, "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert [(part["site"], part["layer"]) for part in parts] == [("resid_post", 0), ("resid_post", 1), ("embed", None)]
    assert main(["store", "statistics", store, "resid_post/0/99"]) == 2
    assert "units 0 to 15; 99 was asked" in capsys.readouterr().err
    for commit in (tmp_path / "store" / "commit").iterdir():
        commit.unlink()
    assert main(["store", "statistics", store]) == 2
    assert "is finished yet; run the same `conceptlab harvest` command again" in capsys.readouterr().err


def test_export_from_the_command_line(model, corpus, tmp_path, capsys):
    store, to = str(tmp_path / "store"), tmp_path / "out"
    assert main(["harvest", model, corpus, store, *SMALL, "--quiet"]) == 0
    assert main(["store", "export", store, str(to), "--layout", "npy", "--quiet"]) == 0
    assert sorted(p.name for p in to.iterdir()) == ["embed.npy", "resid_post-0.npy", "resid_post-1.npy", "tokens.npy"]
    assert main(["store", "export", store, str(to), "--layout", "npy", "--quiet"]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--sites", "resid_pots"], "no site is called 'resid_pots'"),
        (["--sites", "L9.resid_post"], "has layers 0 to 1"),
        (["--layers", "0,x"], "--layers 'x' is no list of whole numbers"),
        (["--positions", "first"], "--positions 'first' is no list"),
        (["--context", "4000"], "--context 4000 is out of range"),
        (["--column", "body"], "no column 'body'"),
        (["--memory", "lots"], "--memory 'lots' is no size"),
        (["--memory", "1MB"], "--memory allows 1 MB"),
        (["--rank", "3"], "--rank and --world-size belong together"),
        (["--rank", "3", "--world-size", "2"], "rank 3 of 2 does not exist"),
        (["--rank", "0", "--world-size", "2", "--workers", "2"], "leave out --workers"),
        (["--workers", "0"], "--workers 0 is out of range"),
        (["--no-values"], "neither values nor statistics"),
    ],
)
def test_a_wrong_request_is_one_line(model, corpus, tmp_path, capsys, more, says):
    options = [o for o in SMALL if not (o == "resid_post,embed" and "--sites" in more)]
    options = [o for o in options if not (o == "--sites" and "--sites" in more)]
    options = options if "--context" not in more else options[2:]
    assert main(["harvest", model, corpus, str(tmp_path / "store"), *options, "--quiet", *more]) == 2
    told = capsys.readouterr().err
    assert says in told and len(told.strip().splitlines()) == 1


def test_another_model_or_corpus_is_refused_and_the_store_left_alone(model, corpus, tmp_path, capsys):
    store = tmp_path / "store"
    assert main(["harvest", model, corpus, str(store), *SMALL, "--quiet"]) == 0
    whole = hashes(LocalPlace(store))
    other = tmp_path / "other.txt"
    other.write_text("some other text\n")
    assert main(["harvest", model, str(other), str(store), *SMALL, "--quiet"]) == 2
    assert "holds another store (corpus was" in capsys.readouterr().err
    assert main(["harvest", model, corpus, str(store), *SMALL, "--quiet", "--random-weights"]) == 2
    assert "revision was" in capsys.readouterr().err
    assert hashes(LocalPlace(store)) == whole


def test_a_disk_that_is_too_small_is_refused_beforehand(model, corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(LocalPlace, "free", lambda self: 1000)
    assert main(["harvest", model, corpus, str(tmp_path / "store"), *SMALL, "--quiet"]) == 1
    told = capsys.readouterr().err
    assert "are needed and 1 kB are free" in told and "resume with: conceptlab harvest" in told


def test_store_commands_on_what_is_no_store(tmp_path: Path, capsys):
    for command in (["info"], ["verify"], ["repair"]):
        assert main(["store", *command, str(tmp_path)]) == 2
        assert "holds no store" in capsys.readouterr().err


def test_a_model_spread_by_device_map_gives_the_same_bytes(model, corpus, tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is an optional test dependency")
    assert main(["harvest", model, corpus, str(tmp_path / "one"), *SMALL, "--quiet"]) == 0
    assert main(["harvest", model, corpus, str(tmp_path / "spread"), *SMALL, "--quiet", "--device-map", "auto"]) == 0
    assert hashes(LocalPlace(tmp_path / "one")) == hashes(LocalPlace(tmp_path / "spread"))
    assert main(["harvest", model, corpus, str(tmp_path / "x"), *SMALL, "--device-map", "auto", "--device", "cpu"]) == 2


def test_each_process_takes_the_gpu_of_its_rank(monkeypatch):
    from conceptlab.model.load import own_device

    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "6")
    assert own_device("cuda") == "cuda:2"
    assert own_device("cuda:1") == "cuda:1" and own_device("cpu") == "cpu"
