"""Models that come wrapped, quantised or in half precision pass through; a local folder loads; what is wrong is one line."""

import json

import pytest
import torch
from torch import nn

from conceptlab.errors import ModelError
from conceptlab.model import load_model
from conceptlab.model.quantise import int8_round_trip, quantised
from conceptlab.results import Edit
from tests.conformance.tiny_models import tiny_model
from tests.model.tiny import TEXTS, decoder, tokenizer


def test_a_peft_model_keeps_its_adapter_and_has_every_site() -> None:
    peft = pytest.importorskip("peft", reason="peft is an optional test dependency")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "o_proj", "down_proj"], init_lora_weights=False)
    module = peft.get_peft_model(tiny_model("llama"), config)
    model = load_model(module, tokenizer=tokenizer())
    check = model.check()
    assert check.passed, [i for i in check.identities if i.error is not None and not i.holds]
    for site in ("z", "mlp_post", "pattern", "resid_mid"):
        assert check.sites[site] == tuple(range(model.n_layers))
    z = model.capture(TEXTS[0], "z", positions="all")["z"][:, 0]
    with model.edited(Edit("L0.z", "set", z)):  # the adapter must read the edited input too
        same = model.logits(TEXTS[0])
    assert torch.equal(same, model.logits(TEXTS[0]))


class Int8Linear(nn.Module):
    """A weight-only int8 layer of a made-up library, to stand for the real ones, which need a GPU."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", torch.round(linear.weight / scale).to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight.float() * self.scale).T


def test_a_quantised_model_passes_through() -> None:
    module = tiny_model("llama")
    for layer in module.model.layers:
        layer.mlp.down_proj = Int8Linear(layer.mlp.down_proj)
        layer.self_attn.o_proj = Int8Linear(layer.self_attn.o_proj)
    model = load_model(module, tokenizer=tokenizer())
    assert model.check().passed
    assert {"z", "mlp_post", "attn_out"} <= set(model.stack.blocks[0].taps)


def test_half_precision_keeps_its_dtype_and_its_identities() -> None:
    model = load_model(tiny_model("llama").to(torch.bfloat16), tokenizer=tokenizer())
    acts = model.capture(TEXTS, "resid_post")
    assert acts["resid_post"].dtype == torch.bfloat16
    assert model.check().passed


def test_rounded_weights_change_the_stream_and_are_put_back_bitwise() -> None:
    model = decoder("gpt2")
    weights = {n: p.data_ptr() for n, p in model.module.named_parameters()}
    before = model.capture(TEXTS, "resid_post")["resid_post"]
    with quantised(model):
        rounded = model.capture(TEXTS, "resid_post")["resid_post"]
    assert 1e-5 < float((rounded - before).norm() / before.norm()) < 0.2
    assert {n: p.data_ptr() for n, p in model.module.named_parameters()} == weights
    assert torch.equal(model.capture(TEXTS, "resid_post")["resid_post"], before)
    weight = torch.randn(5, 7)
    assert float((int8_round_trip(weight) - weight).abs().max()) <= float(weight.abs().max()) / 127


def test_a_local_folder_loads_with_the_same_logits(tmp_path) -> None:
    module = tiny_model("llama")
    module.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = load_model(tmp_path)
    ids = torch.tensor(model.encode(TEXTS[0]).ids)
    with torch.no_grad():
        assert torch.equal(model.module(ids).logits, module(ids).logits)
    assert model.revision == load_model(tmp_path).revision


def test_a_folder_that_names_remote_code_is_refused_and_can_be_overruled(tmp_path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling.Evil"}}))
    with pytest.raises(ModelError, match="names remote code"):
        load_model(tmp_path)
    assert load_model(tmp_path, ignore_remote_code=True).n_layers
    (tmp_path / "config.json").write_text(json.dumps({**config, "_attn_implementation": "someone/kernel"}))
    with pytest.raises(ModelError, match="kernel"):
        load_model(tmp_path)


def test_weights_that_lack_a_tensor_are_refused(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    tiny_model("llama").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    lost = next(n for n in tensors if "down_proj" in n)
    save_file({n: t for n, t in tensors.items() if n != lost}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lack 1 tensors"):
        load_model(tmp_path)


def test_a_missing_tokenizer_matters_only_when_text_comes(tmp_path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    model = load_model(tmp_path)
    with pytest.raises(ModelError, match="without a tokenizer"):
        model.encode("w1")


def test_an_unknown_stack_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match="its stacks are"):
        load_model(tiny_model("llama"), stack="third")


def test_a_model_offloaded_by_device_map_passes_through_and_keeps_its_own_forward(tmp_path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is an optional test dependency")
    from conceptlab.model.replay import prepare_replay

    module = tiny_model("llama")
    plain = load_model(tiny_model("llama"), tokenizer=tokenizer())
    module = accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    forwards = [layer.forward for layer in module.model.layers]
    model = load_model(module, tokenizer=tokenizer())
    batch = model.encode(TEXTS)
    assert torch.equal(model.logits(batch), plain.logits(batch))
    prepare_replay(model, batch, [n - 1 for n in batch.lengths])
    assert [layer.forward for layer in module.model.layers] == forwards
