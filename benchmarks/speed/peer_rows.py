"""Runs in the peers' own environment: `python -m benchmarks.speed.peer_rows PEER`; prints one JSON object.

{what: [ratio, low, high]}, or the error's text. Every peer does the work that our rows do, on the same random GPT-2-small, against
the same bare forwards.
"""

import json
import sys
from collections.abc import Callable

import torch

from .models import Subject, make_subject, word_tokenizer
from .pairs import Call, ratio

FORWARD, STREAM, EVERYTHING, STEER = "forward", "stream", "everything", "steer"
NEW_TOKENS = 64


def transformer_lens(subject: Subject) -> dict[str, Call]:
    """TransformerBridge, the form that version 4 offers."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bridge = build_bridge_from_module(subject.module, "GPT2LMHeadModel", hf_config=subject.module.config)
    at = "blocks.6.hook_out"
    stream = {f"blocks.{i}.hook_out" for i in range(12)}
    vector = steering_vector()

    def steered() -> object:
        with bridge.hooks(fwd_hooks=[(at, lambda value, **_: value + vector)]):
            return bridge.generate(
                subject.ids[:1, :32], max_new_tokens=NEW_TOKENS, do_sample=False, stop_at_eos=False, verbose=False,
                return_type="tokens",
            )  # fmt: skip

    return {
        FORWARD: lambda: bridge(subject.ids),
        STREAM: lambda: bridge.run_with_cache(subject.ids, names_filter=lambda n: n in stream, pos_slice=-1),
        EVERYTHING: lambda: bridge.run_with_cache(subject.ids),
        STEER: steered,
    }


def nnsight(subject: Subject) -> dict[str, Call]:
    """Around the module as it is."""
    from nnsight import LanguageModel

    model, vector = LanguageModel(subject.module, tokenizer=word_tokenizer(50257)), steering_vector()
    inputs = subject.inputs
    prompt = {"input_ids": subject.ids[:1, :32], "attention_mask": torch.ones_like(subject.ids[:1, :32])}

    def forward() -> object:
        with model.trace(**inputs):
            logits = model.output.logits.save()
        return logits  # noqa: RET504 - a trace's body runs elsewhere

    def stream() -> object:
        with model.trace(**inputs):
            kept = list().save()
            for block in model.transformer.h:
                out = block.output
                kept.append((out[0] if isinstance(out, tuple) else out)[:, -1])
        return kept

    def everything() -> object:
        with model.trace(**inputs) as tracer:
            cache = tracer.cache()
        return cache  # noqa: RET504

    def steered() -> object:
        options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
        with model.generate(**prompt, **options) as tracer:
            for _ in tracer.iter[:NEW_TOKENS]:
                out = model.transformer.h[6].output
                (out[0] if isinstance(out, tuple) else out)[:] += vector
        return None

    return {FORWARD: forward, STREAM: stream, EVERYTHING: everything, STEER: steered}


def pyvene(subject: Subject) -> dict[str, Call]:
    """IntervenableModel with collecting and adding interventions."""
    import pyvene as pv

    n_cols = subject.ids.shape[1]

    def collecting(components: list[str], units: int):
        collect = {"intervention_type": pv.CollectIntervention, "max_number_of_units": units}
        specs = [{"layer": i, "component": c, **collect} for i in range(12) for c in components]
        return pv.IntervenableModel(pv.IntervenableConfig(specs), model=subject.module)

    inputs = dict(subject.inputs)
    stream = collecting(["block_output"], 1)
    names = ["block_input", "block_output", "mlp_activation", "mlp_input", "mlp_output", "attention_input"]
    names += ["attention_output", "attention_value_output", "query_output", "key_output", "value_output"]
    every = collecting(names, n_cols)
    adding = pv.IntervenableModel(
        pv.IntervenableConfig(
            [{"layer": 6, "component": "block_output", "intervention_type": pv.AdditionIntervention}]
        ),
        model=subject.module,
    )
    prompt = {"input_ids": subject.ids[:1, :32], "attention_mask": torch.ones_like(subject.ids[:1, :32])}
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    return {
        FORWARD: lambda: stream.model(**inputs),
        STREAM: lambda: stream(base=inputs, unit_locations={"base": n_cols - 1}),
        EVERYTHING: lambda: every(base=inputs, unit_locations={"base": list(range(n_cols))}),
        STEER: lambda: adding.generate(
            prompt, source_representations=steering_vector(), unit_locations=None, intervene_on_prompt=True, **options
        ),
    }


def steering_vector() -> torch.Tensor:
    """The vector that every tool adds after block 6."""
    return torch.randn(768, generator=torch.Generator().manual_seed(2))


PEERS: dict[str, Callable[[Subject], dict[str, Call]]] = {
    "transformer-lens": transformer_lens, "nnsight": nnsight, "pyvene": pyvene,
}  # fmt: skip


def patching_transformer_lens(subject: Subject) -> dict[str, tuple[Call, float]]:
    """One forward with one hook a patch; (a share of the patches, how many times it stands in all of them)."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    bridge = build_bridge_from_module(subject.module, "GPT2LMHeadModel", hf_config=subject.module.config)
    values = torch.randn(768, generator=torch.Generator().manual_seed(3))

    def at(pos: int) -> Callable[..., torch.Tensor]:
        def hook(value: torch.Tensor, **_: object) -> torch.Tensor:
            value = value.clone()
            value[:, pos] = values
            return value

        return hook

    def head(number: int) -> Callable[..., torch.Tensor]:
        def hook(value: torch.Tensor, **_: object) -> torch.Tensor:
            value = value.clone()
            value.view(*value.shape[:2], 12, -1)[:, :, number] = values[:64]
            return value

        return hook

    def stream() -> None:
        for layer in range(0, 12, 3):
            for pos in range(0, 32, 8):
                bridge.run_with_hooks(subject.ids, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", at(pos))])

    def heads() -> None:
        for layer in range(12):
            bridge.run_with_hooks(subject.ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", head(layer))])

    return {"patch_stream": (stream, 384 / 16), "patch_heads": (heads, 144 / 12)}


def patching_nnsight(subject: Subject) -> dict[str, tuple[Call, float]]:
    """32 prompts in one batch, one patch a row: the best form that any peer offers by hand."""
    from nnsight import LanguageModel

    model = LanguageModel(subject.module, tokenizer=word_tokenizer(50257))
    values, rows = torch.randn(768, generator=torch.Generator().manual_seed(3)), torch.arange(32)
    ids = subject.ids[:1].repeat(32, 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}

    def stream() -> None:
        for layer in (0, 6):
            with model.trace(**inputs):
                model.transformer.h[layer].input[rows, rows] = values

    def heads() -> None:
        for layer in (0, 6):
            with model.trace(**inputs):
                z = model.transformer.h[layer].attn.c_proj.input
                z.view(32, 32, 12, 64)[rows, :, rows % 12] = values[:64]

    return {"patch_stream": (stream, 384 / 64), "patch_heads": (heads, 144 / 64)}


def patching(peer: str) -> dict[str, object]:
    """Ratios of whole sweeps to the bare forward of the prompt."""
    makers = {"transformer-lens": patching_transformer_lens, "nnsight": patching_nnsight}
    bare, found = make_subject("gpt2", 1, 32), {}
    for what, (call, times) in makers[peer](make_subject("gpt2", 1, 32)).items():
        try:
            with torch.no_grad():
                timing = ratio(call, bare.bare, n=5, limit=30.0)
            found[what] = [timing.value * times, timing.low * times, timing.high * times]
        except Exception as error:  # a peer may fail in its own ways; its own words stand in the table
            found[what] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return found


def main(peer: str) -> dict[str, object]:
    """Ratios of one peer; what it cannot do here becomes the error's text. Bare calls run on a module of their own."""
    bare = make_subject("gpt2", 8, 128)
    prompt, mask = bare.ids[:1, :32], torch.ones_like(bare.ids[:1, :32])
    found: dict[str, object] = {}

    def generate() -> object:
        options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
        with torch.no_grad():
            return bare.module.generate(input_ids=prompt, attention_mask=mask, **options)  # type: ignore[operator]

    for what, call in PEERS[peer](make_subject("gpt2", 8, 128)).items():
        try:
            with torch.no_grad():
                timing = ratio(call, generate if what == STEER else bare.bare, n=5, limit=15.0)
            found[what] = [timing.value, timing.low, timing.high]
        except Exception as error:  # a peer may fail in its own ways; its own words stand in the table
            found[what] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return found


if __name__ == "__main__":
    asked = sys.argv[1].removeprefix("patching:")
    print("\n" + json.dumps(main(asked) if asked == sys.argv[1] else patching(asked)))
