"""Model folders gone wrong: the config, the weights, the tokenizer, or the folder itself."""

import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

GARBAGE: tuple[Any, ...] = (
    None,
    "x",
    -1,
    0,
    1.5,
    True,
    [],
    {},
    [1, 2],
    {"a": 1},
    "../../etc",
    10**9,
    2**62,
    1e308,
    float("nan"),
    "é" * 99,
)
CODE: tuple[tuple[str, Any], ...] = (
    ("auto_map", {"AutoModelForCausalLM": "modeling_evil.Evil"}),
    ("auto_map", {"AutoConfig": "someone/evil--configuration.Evil"}),
    ("_attn_implementation_internal", "someone/evil-kernel"),
    ("_attn_implementation", "someone/evil:flash"),
    ("attn_implementation", "someone/evil"),
    ("trust_remote_code", True),
    ("custom_pipelines", {"p": {"impl": "evil.Evil", "pt": ["AutoModel"]}}),
    ("text_config", {"auto_map": {"AutoModel": "evil.Evil"}}),
    ("quantization_config", {"quant_method": "evil", "modules_to_load": "someone/evil"}),
)
SMALL = b'{"model_type": "gpt2", "n_layer": 1, "n_embd": 4}'
FIELDS: tuple[tuple[str, Any], ...] = (
    ("dtype", "F128"), ("dtype", "I8"), ("dtype", None), ("shape", [2**62, 2]), ("shape", [-1]), ("shape", "x"),
    ("shape", [10**9, 10**9]), ("data_offsets", [0, 2**63]), ("data_offsets", [10, 0]), ("data_offsets", [0, 4]),
)  # fmt: skip


def make_models(folder: Path) -> list[Path]:
    """Two tiny good models with tokenizers, saved as their libraries save them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "word": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=12, n_positions=16))
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=12, max_position_embeddings=16))
    for name, model in (("gpt2", gpt2), ("llama", llama)):
        model.save_pretrained(folder / name)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder / name)
    return [folder / "gpt2", folder / "llama"]


def bad_folder(rng: random.Random, good: list[Path], at: Path) -> str:
    """Copy one good model to `at`, spoil it, and say how."""
    at.unlink() if at.is_file() else shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(rng.choice(good), at)
    way = rng.choice(
        (
            _config_value,
            _config_value,
            _config_bytes,
            _config_code,
            _header,
            _header,
            _weights,
            _weights,
            _tokenizer,
            _whole,
        )
    )
    return f"{way.__name__}: {way(rng, at)}"


def _config_value(rng: random.Random, at: Path) -> str:
    config = json.loads((at / "config.json").read_text())
    key, value = rng.choice([*config]), rng.choice(GARBAGE)
    config[key] = value
    (at / "config.json").write_text(json.dumps(config))
    return f"{key} = {value!r}"


def _config_code(rng: random.Random, at: Path) -> str:
    config = json.loads((at / "config.json").read_text())
    key, value = rng.choice(CODE)
    (at / "config.json").write_text(json.dumps({**config, key: value}))
    return f"{key} = {value!r}"


def _config_bytes(rng: random.Random, at: Path) -> str:
    good = (at / "config.json").read_bytes()
    cut = rng.randrange(len(good))
    bad = rng.choice((
        b"", b"[]", b"null", b"{}", b'"x"', b"[" * 100_000, b'{"a":' * 3000, good[:cut], rng.randbytes(50), b"\xff\xfe" + good,
        good[:cut] + b"\0" + good[cut:], good.replace(b"model_type", b"model_typo"), SMALL,
    ))  # fmt: skip
    (at / "config.json").write_bytes(bad)
    return repr(bad[:60])


def _header(rng: random.Random, at: Path) -> str:
    """Spoil the header of the safetensors file: its length, its JSON, a dtype, a shape, an offset, a name."""
    path = at / "model.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    way = rng.randrange(4)
    if way == 0:
        size = rng.choice((0, 1, length - 1, length + 1, len(data), 2**31, 2**62, 2**64 - 1, 100_000_001))
        path.write_bytes(struct.pack("<Q", size) + header + body)
        return f"length {size} for {length}"
    if way == 1:
        place = rng.randrange(length)
        header = header[:place] + bytes([header[place] ^ (1 << rng.randrange(8))]) + header[place + 1 :]
        path.write_bytes(data[:8] + header + body)
        return f"bit flip at {place}"
    entries = json.loads(header)
    name = rng.choice([key for key in entries if key != "__metadata__"])
    field, value = rng.choice(FIELDS)
    if way == 2:
        entries[name][field] = value
    else:
        entries[rng.choice((name + "x", "../../x", ""))] = entries.pop(name)
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return f"{name}: {field} = {value!r}" if way == 2 else f"{name} renamed"


def _weights(rng: random.Random, at: Path) -> str:
    path = at / "model.safetensors"
    data = path.read_bytes()
    way = rng.randrange(5)
    if way <= 1:
        cut = rng.choice((0, 1, 7, 8, 9, rng.randrange(len(data)), len(data) - 1))
        path.write_bytes(data[:cut])
        return f"cut at {cut}"
    if way == 2:
        path.write_bytes(data + b"\0" * rng.randint(1, 9))
        return "bytes appended"
    if way == 3:
        place = len(data) - 4 * rng.randint(1, 100)
        path.write_bytes(data[:place] + struct.pack("<f", float("nan")) + data[place + 4 :])
        return f"NaN at {place}"
    path.unlink()
    other = rng.choice(("pytorch_model.bin", "model.pt", "model.safetensors.index.json", "flax_model.msgpack"))
    (at / other).write_bytes(
        rng.choice(
            (b"", b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.", b'{"weight_map": {"a": "../../x.safetensors"}}')
        )
    )
    return f"{other} in its place"


def _tokenizer(rng: random.Random, at: Path) -> str:
    names = [path.name for path in at.glob("tokenizer*")] + [path.name for path in at.glob("special*")]
    way = rng.randrange(3)
    if way == 0:
        for name in names:
            (at / name).unlink()
        return "gone"
    name = rng.choice(names)
    (at / name).write_bytes(
        rng.choice(
            (
                b"",
                b"{}",
                b"[]",
                b"null",
                rng.randbytes(40),
                (at / name).read_bytes()[:-5],
                b'{"auto_map": {"AutoTokenizer": ["evil.E", null]}}',
            )
        )
    )
    return f"{name} spoiled"


def _whole(rng: random.Random, at: Path) -> str:
    way = rng.randrange(4)
    shutil.rmtree(at)
    if way == 0:
        at.mkdir()
        return "empty"
    if way == 1:
        at.write_bytes(b"not a folder")
        return "a file"
    if way == 2:
        at.mkdir()
        (at / "readme.md").write_text("hello")
        (at / "config.json").mkdir()
        return "config.json is a folder"
    return "gone"
