"""The command line in process: exit codes, one line an error, one JSON object, nothing heavy imported for help."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import conceptlab.atlas
from atlas.synthetic import atlas as synthetic_atlas
from conceptlab.cli import loading, main, mapping
from conceptlab.cli.summary import print_atlas, print_record
from conceptlab.errors import RunError

CSV = "text,label\n" + "".join(f"text {i},{'a' if i % 2 else 'b'}\n" for i in range(12))
HEAVY = ("torch", "transformers", "xarray", "altair", "sklearn", "zarr", "pandas", "pyarrow", "scipy")


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(CSV)
    return path


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Replace the model and the atlas; what the command passed on is recorded."""
    seen: dict = {}

    def map_concepts(model: object, concepts: object, **options: object) -> object:
        seen.update(options, model=model, concepts=concepts)
        if "raises" in seen:
            raise seen["raises"]
        return synthetic_atlas()

    def open_model(source: str | None, options: object, *, seed: int) -> object:
        seen.update(source=source, loading=options)
        return SimpleNamespace(name=source or "embedded")

    monkeypatch.setattr(mapping, "open_model", open_model)
    monkeypatch.setattr(conceptlab.atlas, "map_concepts", map_concepts, raising=False)
    return seen


def test_map_prints_a_table_and_the_paths(mapped: dict, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "org/model", "--concepts", str(labels), "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    atlas = synthetic_atlas()
    assert all(concept.name in out for concept in atlas.concepts)
    assert all(heading in out for heading in ("depth", "best layer", "effect", "top heads", "top neurons"))
    assert out.count("control") >= 2
    assert "report: conceptlab-atlas/org-model-labels/report.html" in out
    assert err == ""
    assert (mapped["seed"], mapped["quick"], str(mapped["out"])) == (3, False, "conceptlab-atlas/org-model-labels")
    assert "permutations" not in mapped


def test_map_json_is_one_object_with_the_promised_keys(
    mapped: dict, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", "m", "--concepts", str(labels), "--json", "--quick", "--permutations", "99", "--out", "o"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "NaN" not in out
    record = json.loads(out)
    assert set(record) == {"model", "revision", "seconds", "concepts"}
    promised = "name found n best_layer score score_interval control jump settled effect effect_interval effect_control"
    assert all(set(concept) >= {*promised.split(), "top_heads", "top_neurons"} for concept in record["concepts"])
    assert (mapped["quick"], mapped["permutations"], str(mapped["out"])) == (True, 99, "o")
    assert mapped["progress"].quiet


def test_numbers_that_are_none_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    atlas = synthetic_atlas()
    odd = replace(
        atlas.concepts[0], score=float("nan"), score_interval=(float("nan"), 1.0), effect=None, jump=float("inf")
    )
    print_record(replace(atlas, concepts=(odd,)))
    concept = json.loads(capsys.readouterr().out)["concepts"][0]
    assert (concept["score"], concept["score_interval"]) == (None, [None, 1.0])
    assert (concept["effect"], concept["jump"]) == (None, None)


def test_names_from_files_cannot_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    atlas = synthetic_atlas()
    odd = replace(
        atlas.concepts[0], name="\x1b[31mred\nline [bold]", warnings=("\x1b]0;title\x07",), effect_kind="\x1b[2J"
    )
    print_atlas(replace(atlas, concepts=(odd,)), Path("\x1b[1m"))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[bold]" in out


def test_atlas_show_and_export_read_what_was_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atlas = synthetic_atlas()
    atlas.save(tmp_path / "a")
    assert main(["atlas", "show", str(tmp_path / "a")]) == 0
    assert all(concept.name in capsys.readouterr().out for concept in atlas.concepts[:1])
    assert main(["atlas", "show", str(tmp_path / "a"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["concepts"]) == len(atlas.concepts)
    (tmp_path / "file").write_text("")
    assert main(["atlas", "export", str(tmp_path / "a"), "--to", str(tmp_path / "file")]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["map", "--seed", "x"], "--seed"),
        (["map", "--seed", "-4"], "--seed -4 is out of range"),
        (["map", "--seed", "9" * 30], "out of range"),
        (["map", "--permutations", "3"], "--permutations 3 is out of range; use 19 to 100000"),
        (["map", "--sed", "1"], "Did you mean --seed?"),
        (["map", "--dtype", "int4"], "--dtype"),
        (["map", "a", "b"], "Unused"),
        (["map", "--concepts"], "--concepts requires an argument"),
        (["nonsense"], "Unknown command"),
        (["models", "check"], "requires an argument"),
        (["map", "m", "--concepts", "absent.csv"], "absent.csv: no such file"),
        (["map", "m", "--concepts", "\x1b[31m\nabsent.csv"], r"\x1b[31m absent.csv: no such file"),
        (["atlas", "show", "absent"], "absent"),
        (["models", "check", ""], "the model's name is empty"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (RunError("cannot write x"), 1, "cannot write x"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"), 1, "the disk is full"),
        (RuntimeError("CUDA error: device lost\nsecond line"), 1, "the device failed"),
        (MemoryError(), 1, "no memory"),
    ],
)
def test_a_failed_run_says_how_to_resume(
    mapped: dict, labels: Path, capsys: pytest.CaptureFixture[str], raised: BaseException, code: int, said: str
) -> None:
    mapped["raises"] = raised
    arguments = ["map", "m", "--concepts", str(labels), "--out", "with space"]
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert said in first
    assert second == f"resume with: conceptlab map m --concepts {labels} --out 'with space'"


def test_a_bug_is_one_line_and_its_trace_is_kept(
    mapped: dict, labels: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    mapped["raises"] = ZeroDivisionError("by\nzero")
    assert main(["map", "m", "--concepts", str(labels)]) == 1
    err = capsys.readouterr().err
    (trace,) = (tmp_path / "conceptlab").iterdir()
    assert err.splitlines()[0] == f"error: ZeroDivisionError: by zero; the full trace is in {trace}"
    assert "Traceback" not in err
    assert "Traceback" in trace.read_text()


def test_out_that_is_a_file_is_refused_before_the_model_loads(mapped: dict, labels: Path) -> None:
    assert main(["map", "m", "--concepts", str(labels), "--out", str(labels)]) == 2
    assert "source" not in mapped


def test_a_reader_that_goes_away_is_no_traceback(mapped: dict, labels: Path) -> None:
    code = "import sys; from conceptlab.cli import main; sys.exit(main(['--help'] * 1))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_random_weights_are_another_model_of_the_same_shape(tmp_path: Path) -> None:
    import torch

    from conceptlab.cli.options import ModelOptions

    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=30, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "tiny")
    plain = loading.open_model(str(tmp_path / "tiny"), ModelOptions())
    first, again, other = (
        loading.open_model(str(tmp_path / "tiny"), ModelOptions(random_weights=True), seed=s) for s in (1, 1, 2)
    )
    weights = [m.module.transformer.wte.weight for m in (plain, first, again, other)]
    assert [tuple(w.shape) for w in weights] == [(30, 8)] * 4
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[3])
    assert "random weights" in first.revision


@pytest.mark.parametrize("program", ["import conceptlab", "from conceptlab.cli import main; main(['--help'])",
                                     "from conceptlab.cli import main; main(['map', '--help'])",
                                     "from conceptlab.cli import main; main(['--version'])",
                                     "from conceptlab.cli import main; main(['map', '--seed', 'x'])",
                                     "from conceptlab.cli import main; main(['map', '--concepts', 'absent.csv'])"])  # fmt: skip
def test_nothing_heavy_is_imported_before_it_is_needed(program: str) -> None:
    allowed = () if "absent" not in program else ("numpy",)
    code = f"import sys\n{program}\nprint(*[m for m in {HEAVY!r} if m in sys.modules and m not in {allowed!r}], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == ""


def test_every_public_name_is_there_and_a_wrong_one_is_named() -> None:
    import conceptlab

    for name in conceptlab.__all__:
        if name != "map_concepts" or hasattr(conceptlab.atlas, "map_concepts"):
            assert getattr(conceptlab, name).__name__ == name
    assert set(conceptlab.__all__) <= set(dir(conceptlab))
    assert conceptlab.__version__
    with pytest.raises(AttributeError, match="has no 'load_mode'"):
        _ = conceptlab.load_mode
