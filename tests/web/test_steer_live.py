"""Steered texts: those of the library's own generate under the same edit, a token at a time, and nobody left waiting or hooked."""

import http.client
import json
import threading
import time
from urllib.parse import urlencode, urlsplit

import pytest
import torch

from conceptlab import Edit
from conceptlab.errors import InputError
from conceptlab.model import Batch
from conceptlab.results import Site
from conceptlab.web.live.continuations import continuations, repetition
from conceptlab.web.live.steering import Steering, readout_of
from conceptlab.web.pages.steer import asked_of
from tests.web.prompt_models import fetch, finish

PROMPT = "Nina gave the bucket to"


@pytest.fixture(scope="module")
def model(desk):
    return desk.live.model


@pytest.fixture(scope="module")
def subspace(desk):
    shelf = desk.atlas()
    return shelf.concept(next(iter(shelf.concepts))).direction


def texts_of(result) -> list[str]:
    return [column["text"] for column in result["columns"]]


def column(result, name: str):
    return next(one for one in result["columns"] if one["name"] == name)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_three_texts_are_those_of_generate_under_the_same_edits(model, subspace, temperature) -> None:
    asked = Steering(strength=1.2, prompt=PROMPT, n_new=12, temperature=temperature, seed=4, draw=2)
    result = finish(continuations(model, asked, subspace))
    site = subspace.site
    stream = model.capture(PROMPT, site.name, layers=[site.layer], positions="all").at(site.name, site.layer)
    unit = float(stream.float().norm(dim=-1)[1:].mean())
    assert result["unit"] == pytest.approx(unit, rel=1e-5)
    towards = (subspace.class_points[1] - subspace.class_points[0]).float() @ subspace.basis.float()
    random = torch.randn(model.d_model, generator=torch.Generator().manual_seed(2))
    options = {"do_sample": True, "top_k": 0, "temperature": temperature} if temperature else {}
    wanted = []
    for vector in (None, towards, random):
        edits = [] if vector is None else [Edit(site, "add", vector / vector.norm(), strength=1.2 * unit)]
        torch.manual_seed(4)
        with model.edited(*edits):
            wanted.append(model.generate(PROMPT, max_new_tokens=12, **options)[0])
    assert texts_of(result) == wanted
    assert len(set(wanted)) > 1, "the push does something"


@pytest.mark.parametrize(
    ("kind", "strength", "edit"),
    [
        ("neuron", 6.0, Edit(Site("mlp_post", 3, (7,)), "set", torch.tensor([6.0]))),
        ("head", -2.0, Edit(Site("z", 3, (7,)), "scale", strength=-2.0)),
    ],
)
def test_a_neuron_is_clamped_and_a_head_rescaled_beside_another_of_the_layer(model, kind, strength, edit) -> None:
    asked = Steering(kind=kind, layer=3, unit=7, strength=strength, prompt=PROMPT, n_new=8)
    result = finish(continuations(model, asked, None))
    with model.edited(edit):
        assert column(result, "steered")["text"] == model.generate(PROMPT, max_new_tokens=8)[0]
    steered, random = result["edits"]
    assert steered == str(edit)
    assert random != steered
    assert random.replace(random.split(".")[1], "X") == steered.replace(steered.split(".")[1], "X"), "but for the unit"


def test_readouts_and_divergence_are_those_of_plain_captures(model, subspace) -> None:
    asked = Steering(strength=0.8, prompt=PROMPT, n_new=6)
    result = finish(continuations(model, asked, subspace))
    steered = column(result, "steered")
    ids = (*model.encode(PROMPT).ids[0], *(t["id"] for t in steered["tokens"]))
    begin = len(ids) - len(steered["tokens"]) - 1
    readout, site = readout_of(subspace, 1), subspace.site
    acts = model.capture(Batch((ids,)), [site.name, "logits"], layers=[site.layer], positions="all")
    read = readout.of(acts.at(site.name, site.layer))[begin + 1 :]
    assert [t["read"] for t in steered["tokens"]] == pytest.approx(read.tolist(), abs=1e-4)
    assert steered["read"] == pytest.approx(float(read.mean()), abs=1e-4)
    towards = (subspace.class_points[1] - subspace.class_points[0]).float() @ subspace.basis.float()
    push = Edit(site, "add", towards / towards.norm(), strength=result["applied"])
    with model.edited(push):
        edited = model.capture(Batch((ids,)), [site.name, "logits"], layers=[site.layer], positions="all")
    log_q, log_p = (a["logits"][begin:-1].float().log_softmax(-1) for a in (edited, acts))
    kl = (log_q.exp() * (log_q - log_p)).sum(-1)
    assert [t["kl"] for t in steered["tokens"]] == pytest.approx(kl.tolist(), abs=1e-3)
    held = readout.of(edited.at(site.name, site.layer))[begin:-1]
    assert [t["readout"] for t in steered["tokens"]] == pytest.approx(held.tolist(), abs=1e-4)
    assert column(result, "plain")["kl"] == pytest.approx(0.0, abs=1e-4)


def test_a_push_moves_the_readout_by_its_size_and_a_random_one_hardly(model, subspace) -> None:
    asked = Steering(strength=1.0, scale="class", prompt=PROMPT, n_new=1)
    result = finish(continuations(model, asked, subspace))
    held = {one["name"]: one["tokens"][0]["readout"] for one in result["columns"]}
    assert held["steered"] - held["plain"] == pytest.approx(1.0, abs=1e-3)
    assert abs(held["random"] - held["plain"]) < 0.4


def test_repetition_counts_pairs_that_stood_there_before() -> None:
    assert repetition([1, 2, 3, 4]) == 0
    assert repetition([1, 2, 1, 2, 1]) == 0.5
    assert repetition([1]) is None


# -- over the wire -----------------------------------------------------------------------------------------------------
class Reader:
    """A client that reads server-sent events and notes when each came."""

    def __init__(self, url: str, **settings) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self.connection.request("GET", f"/stream/steer?{urlencode({'prompt': PROMPT, **settings})}")
        self.answer = self.connection.getresponse()
        self.events: list[tuple[str, dict, float]] = []

    def read(self, until: str = "done", most: int = 10_000) -> list[tuple[str, dict, float]]:
        name = ""
        while len(self.events) < most:
            line = self.answer.readline().decode()
            if not line:
                break
            if line.startswith("event: "):
                name = line[7:].strip()
            elif line.startswith("data: "):
                self.events.append((name, json.loads(line[6:]), time.monotonic()))
                if name == until:
                    break
        return self.events

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


def test_tokens_arrive_one_by_one_in_turn(server) -> None:
    reader = Reader(server.url, tokens=10, strength=2, temperature=1, seed=1)
    events = reader.read()
    reader.close()
    tokens = [(data["column"], data["n"]) for name, data, _ in events if name == "token"]
    assert tokens[:6] == [(c, n) for n in (0, 1) for c in ("plain", "steered", "random")]
    at = [when for name, _, when in events if name == "token"]
    assert len({round(t, 3) for t in at}) > len(at) / 2, "not all at once"
    assert events[0][0] == "job"
    assert [name for name, *_ in events][-1] == "done"
    twin = fetch(
        f"{server.url}/steer?{urlencode({'prompt': PROMPT, 'tokens': 10, 'strength': 2, 'temperature': 1, 'seed': 1})}&as=json"
    )
    read = {data["name"]: data for name, data, _ in events if name == "read"}
    assert [read[one["name"]] for one in twin.json()["result"]["columns"]] == twin.json()["result"]["columns"]


def test_two_streams_move_side_by_side(server) -> None:
    readers = [Reader(server.url, tokens=40, strength=2, temperature=1, seed=seed) for seed in (21, 22)]
    threads = [threading.Thread(target=reader.read) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    spans = [[when for name, _, when in reader.events if name == "token"] for reader in readers]
    assert all(spans)
    assert spans[0][0] < spans[1][-1]
    assert spans[1][0] < spans[0][-1], "the second begins before the first has ended"
    for reader in readers:
        reader.close()


def test_a_client_that_goes_away_cancels_its_job(server) -> None:
    reader = Reader(server.url, tokens=100, strength=3, temperature=2, seed=31)
    reader.read(until="token")
    job = server.desk.jobs.get(reader.events[0][1]["id"])
    reader.close()
    deadline = time.monotonic() + 20
    while not job.over and time.monotonic() < deadline:
        time.sleep(0.05)
    assert job.state == "cancelled"
    assert server.desk.live.model.instrument._depth == 0


def test_a_button_cancels_a_job_that_others_would_read(server) -> None:
    reader = Reader(server.url, tokens=100, strength=3, temperature=2, seed=32)
    reader.read(until="token")
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request("POST", f"/jobs/{reader.events[0][1]['id']}/cancel")
    assert connection.getresponse().status == 204
    assert reader.read(until="cancelled")[-1][0] == "cancelled"
    reader.close()


def test_a_model_that_raises_is_said_and_leaves_no_hook(server) -> None:
    model = server.desk.live.model
    before = model.logits(PROMPT)
    fail = lambda *_: (_ for _ in ()).throw(RuntimeError("the fan has stopped"))  # noqa: E731
    handle = model.stack.blocks[5].module.register_forward_hook(fail)
    try:
        events = Reader(server.url, tokens=5, strength=1, seed=41).read(until="failed")
    finally:
        handle.remove()
    assert events[-1][0] == "failed"
    assert "the fan has stopped" in events[-1][1]["error"]
    assert model.instrument._depth == 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
    assert torch.equal(model.logits(PROMPT), before)
    assert Reader(server.url, tokens=5, strength=1, seed=41).read()[-1][0] == "done", "and the next one works"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("strength=much", "is no number"),
        ("strength=nan", "out of range"),
        ("tokens=100000", "out of range"),
        ("kind=soul", "is not known"),
        ("layer=1.5", "no whole number"),
        ("temperature=-1", "out of range"),
        ("concept=nothing", "no concept"),
        ("kind=head&head=99&layer=0", "heads 0 to 7"),
        ("kind=neuron&neuron=0&layer=99", "layers 0 to 7"),
        ("towards=9", "classes 0 to"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(server, query, said) -> None:
    answer = fetch(f"{server.url}/stream/steer?{query}")
    assert said in answer.content.decode()
    assert "Traceback" not in answer.content.decode()
    page = fetch(f"{server.url}/steer?{query}")
    assert "Traceback" not in page.content.decode()


def test_settings_come_back_from_their_address() -> None:
    asked = asked_of({"kind": "head", "layer": "2", "head": "3", "strength": "-0.5", "tokens": "7", "draw": "4"}, "The")
    assert asked == Steering("head", "", 1, 2, 3, -0.5, "norm", "The", 7, 0.0, 0, 4)
    with pytest.raises(InputError, match="at most"):
        asked_of({"prompt": "a" * 30_000}, "")
