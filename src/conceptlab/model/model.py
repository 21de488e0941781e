"""Model: an unmodified Hugging Face model with its anatomy, and the four things one does with it: read, change, generate, check."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conceptlab.errors import ModelError, SiteError
from conceptlab.model.anatomy import Stack
from conceptlab.model.attention_edits import scores_visit
from conceptlab.model.batch import Batch, input_device
from conceptlab.model.capture import ENDS, Activations, Collector, asked_layers
from conceptlab.model.edits import edit_visit
from conceptlab.model.instrument import Instrument, StopForward
from conceptlab.model.layout import Positions
from conceptlab.model.lens import lens_logits
from conceptlab.model.tap import Tap
from conceptlab.results import SITES, Edit
from conceptlab.results.edit import AT_SCORES

Texts = str | Sequence[str] | Batch


class Model:
    """A Hugging Face model as it is, plus where its parts are. Make one with `load_model`.

    `module` is the user's own object; nothing on it is changed, and every hook is gone when a call returns.
    """

    def __init__(
        self,
        module: nn.Module,
        stack: Stack,
        *,
        name: str,
        revision: str,
        tokenizer: Any,
        runner: nn.Module,
        max_length: int,
    ) -> None:
        self.module, self.stack, self.name, self.revision = module, stack, name, revision
        self.tokenizer, self.runner, self.max_length = tokenizer, runner, max_length
        decoding = runner is module and getattr(getattr(module, "config", None), "is_encoder_decoder", False)
        self.instrument = Instrument(runner, stack, mask_key="decoder_attention_mask" if decoding else "attention_mask")
        accepted = inspect.signature(runner.forward).parameters
        from_ids = any(
            hasattr(m, "create_position_ids_from_input_ids") for m in runner.modules()
        )  # RoBERTa counts by itself
        self._takes_positions = "position_ids" in accepted and not from_ids
        self._takes_cache = "use_cache" in accepted
        self.forwards = 0.0  # texts that went through the model since loading; a replay counts the share that it ran

    # -- what it is -----------------------------------------------------------------------------------------------
    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.stack.n_layers

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return self.stack.d_model

    @property
    def n_heads(self) -> int:
        """Query heads per block (0 where there is no attention)."""
        return self.stack.n_heads

    @property
    def d_mlp(self) -> int:
        """Neurons per block (the largest; 0 where there are none)."""
        return self.stack.d_mlp

    @property
    def has_logits(self) -> bool:
        """Whether the model ends in an unembedding."""
        return self.stack.unembed is not None

    @property
    def unembedding(self) -> Tensor:
        """W_U [d_vocab, d_model]. Raises SiteError where the model has none."""
        if self.stack.unembed is None:
            raise SiteError(f"{self.name}: {self.stack.missing['logits']}")
        return self.stack.unembed.weight  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the first parameter."""
        return input_device(self.module)

    def tap(self, name: str, layer: int | None = None) -> Tap:
        """Where a site is. Raises SiteError with the reason where this model does not have it."""
        if name in ENDS:
            return self._end_tap(name)
        if name not in SITES:
            raise SiteError(f"no site is called {name!r}; the sites are {', '.join(SITES)}")
        if layer is None or not 0 <= layer < self.n_layers:
            raise SiteError(f"{self.name} has layers 0 to {self.n_layers - 1}; {name} was asked at layer {layer}")
        block = self.stack.blocks[layer]
        if name not in block.taps:
            raise SiteError(f"{self.name} has no L{layer}.{name}: {block.missing.get(name, 'not found')}")
        return block.taps[name]

    def _end_tap(self, name: str) -> Tap:
        if name == "embed":
            return self.stack.blocks[0].taps["resid_pre"]
        if name in self.stack.missing:
            raise SiteError(f"{self.name} has no {name}: {self.stack.missing[name]}")
        if name == "final_norm" and self.stack.final_norm is not None:
            return self.stack.final_norm
        return Tap(self.module, "output", "logits", 0)

    def layers_with(self, name: str) -> tuple[int, ...]:
        """The layers that have this site."""
        return tuple(i for i, block in enumerate(self.stack.blocks) if name in block.taps)

    @property
    def reads_text(self) -> bool:
        """Whether tokens alone are enough: not so for a decoder that needs an encoder's input, or for images."""
        decoding = self.runner is self.module and getattr(self.module.config, "is_encoder_decoder", False)
        return not decoding and getattr(self.runner, "main_input_name", "input_ids") == "input_ids"

    # -- text in --------------------------------------------------------------------------------------------------
    def encode(self, texts: Texts) -> Batch:
        """Tokenise texts (special tokens as the tokenizer adds them), without padding.

        Raises ModelError where there is no tokenizer, a text has no token, or one is longer than the context.
        """
        if isinstance(texts, Batch):
            return texts
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not self.reads_text:
            raise ModelError(
                f"{self.name} does not read text alone; capture a mapping of its inputs, or choose another stack="
            )
        if self.tokenizer is None:
            raise ModelError(
                f"{self.name} comes without a tokenizer; put tokenizer.json beside its weights or pass tokenizer="
            )
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        coded = self.tokenizer(texts, return_offsets_mapping=fast, padding=False, truncation=False, verbose=False)
        offsets = tuple(tuple(map(tuple, row)) for row in coded["offset_mapping"]) if fast else None
        return self._checked(Batch(tuple(tuple(row) for row in coded["input_ids"]), offsets))

    def _checked(self, batch: Batch) -> Batch:
        vocabulary = getattr(getattr(self.module, "config", None), "vocab_size", None)
        for row, ids in enumerate(batch.ids):
            if not ids:
                raise ModelError(f"row {row}: the text has no tokens; remove the row")
            if len(ids) > self.max_length:
                raise ModelError(
                    f"row {row}: {len(ids)} tokens are longer than the context of {self.name} ({self.max_length}); shorten the text"
                )
            if isinstance(vocabulary, int) and max(ids) >= vocabulary:
                raise ModelError(
                    f"row {row}: token {max(ids)} is outside the vocabulary of {vocabulary}; is this the model's tokenizer?"
                )
        return batch

    @property
    def pad_id(self) -> int:
        """A token id to fill with; which one does not matter, since padding is masked and never read."""
        config = getattr(self.module, "config", None)
        found = (getattr(owner, "pad_token_id", None) for owner in (self.tokenizer, config))
        return next((pad for pad in found if isinstance(pad, int) and pad >= 0), 0)

    def padded(self, batch: Batch, rows: Sequence[int], side: str = "right") -> dict[str, Tensor]:
        """Inputs of some rows. Left padding shifts absolute positions, so they are given where the model takes them."""
        inputs = batch.padded(rows, side=side, pad=self.pad_id, device=self.device)
        if side == "left" and self._takes_positions:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
        return inputs

    @cached_property
    def left_padding_exact(self) -> bool:
        """Whether padding on the left leaves real tokens as they are, tried on this model: not so where positions cannot be
        given (OPT-like decoders of BART) or a state is carried (state-space layers). Generation then runs rows one by one."""
        ids = [6, 9, 7, 11, 8]
        batch = Batch((tuple(ids), tuple(ids[:2])))
        last, ends = self.n_layers - 1, []
        with torch.no_grad():
            for rows, side in (([0, 1], "left"), ([1], "right")):
                held: list[Tensor] = []
                tap = self.tap("resid_post", last)
                with self.instrument.visiting([(tap, last, False, lambda v, held=held: held.append(v))]):
                    self._forward(self.padded(batch, rows, side), stop_after=last)
                ends.append(held[0][-1, -1])
        limit = 1e-4 if ends[0].dtype in (torch.float32, torch.float64) else 5e-2
        return bool((ends[0] - ends[1]).norm() <= limit * ends[1].norm())

    @cached_property
    def side_axes(self) -> Any:
        """Which axes of a block's side inputs (rotary angles, masks) count rows and positions, asked of this model once."""
        from conceptlab.model.side_inputs import side_axes

        return side_axes(self)

    @cached_property
    def sweep_strategy(self) -> Any:
        """Which shortcuts of a sweep are exact on this model, tried on it once."""
        from conceptlab.model.sweep.strategy import find_strategy

        return find_strategy(self)

    # -- read -----------------------------------------------------------------------------------------------------
    def capture(
        self,
        texts: Texts | Mapping[str, Tensor],
        sites: str | Sequence[str] | Mapping[str, Sequence[int]],
        *,
        layers: Sequence[int] | None = None,
        positions: Positions = "last",
        max_tokens: int = 2048,
        padding_side: str = "right",
        keep_graph: bool = False,
    ) -> Activations:
        """Values of `sites` (names such as "resid_post"; `layers` defaults to all that have the site), or a mapping name -> layers.

        `positions`: "last" real token, "all" real tokens, indices, or a list of indices per row. Rows of like length run
        together, at most `max_tokens` padded tokens a forward; blocks above the last one asked for and, unless asked, the
        unembedding are not run. Raises SiteError where the model lacks a site.
        """
        wanted = asked_layers(sites, layers, self.layers_with)
        for name, chosen in wanted.items():
            for layer in chosen or (0,):
                self.tap(name, layer)
        if isinstance(texts, Mapping):
            return self._capture_inputs(texts, wanted, positions, keep_graph)
        if padding_side == "left" and not self.left_padding_exact:
            raise SiteError(
                f"{self.name} counts or carries padding on the left, which would change its real tokens; pad right"
            )
        batch = self.encode(texts)
        counts, row, position = _token_table(batch.lengths, positions)
        collector = Collector(counts, self.instrument, positions, max(batch.lengths, default=0))
        visits = self._readers(collector, wanted, keep_graph)
        with self.instrument.visiting(visits), torch.set_grad_enabled(keep_graph):
            for rows in batch.chunks(max_tokens):
                collector.begin(rows)
                inputs, chunk = self.padded(batch, rows, padding_side), (torch.tensor(rows), len(batch))
                self._forward(inputs, stop_after=self._last_block(wanted), chunk=chunk)
                while collector.spoilt():
                    self._forward(inputs, stop_after=self._last_block(wanted), chunk=chunk)
        return Activations(collector.values, row, position, {n: c for n, c in wanted.items() if n not in ENDS})

    def _capture_inputs(
        self, inputs: Mapping[str, Tensor], wanted: dict[str, tuple[int, ...]], positions: Positions, keep_graph: bool
    ) -> Activations:
        """Inputs that are no text (images, decoder ids): one forward; the token axis is read off the stream."""
        lengths = self._measure(inputs)
        counts, row, position = _token_table(lengths, positions)
        collector = Collector(counts, self.instrument, positions, max(lengths), hold=False)
        collector.begin(range(len(lengths)))
        with self.instrument.visiting(self._readers(collector, wanted, keep_graph)), torch.set_grad_enabled(keep_graph):
            self._forward(dict(inputs), stop_after=self._last_block(wanted))
        return Activations(collector.values, row, position, {n: c for n, c in wanted.items() if n not in ENDS})

    def _measure(self, inputs: Mapping[str, Tensor]) -> list[int]:
        with self.instrument.active():
            self._forward(dict(inputs), stop_after=0)
            layout = self.instrument.layout
        return [] if layout is None else layout.length.tolist()

    def _readers(self, collector: Collector, wanted: dict[str, tuple[int, ...]], keep_graph: bool) -> list[Any]:
        visits = []
        for name, layers in wanted.items():
            if name in ENDS:
                visits.append((self.tap(name), None, False, collector.reader(name, None, 0, keep_graph)))
            for axis, layer in enumerate(layers):
                visits.append(
                    (self.tap(name, layer), layer, False, collector.reader(name, axis, len(layers), keep_graph))
                )
        return visits

    def _last_block(self, wanted: dict[str, tuple[int, ...]]) -> int | None:
        """The highest block that must run; None when an end above the stack is wanted."""
        if {"final_norm", "logits"} & set(wanted):
            return None
        return max((layer for layers in wanted.values() for layer in layers), default=0)

    def _forward(
        self, inputs: dict[str, Tensor], *, stop_after: int | None = None, chunk: Any = None, share: float = 1.0
    ) -> Any:
        """One forward of the user's module; `stop_after` ends it when that block has run."""
        self.instrument.chunk = chunk
        handle = None

        def stop(*_: Any) -> None:
            raise StopForward

        try:
            if stop_after is not None:
                handle = self.stack.blocks[stop_after].module.register_forward_hook(stop)
            self.forwards += share * next(iter(inputs.values())).shape[0]
            if (
                getattr(getattr(self.module, "config", None), "use_cache", None) is not None
                and "use_cache" not in inputs
            ):
                inputs = {**inputs, "use_cache": False}  # type: ignore[dict-item]
            return self.runner(**inputs)
        except StopForward:
            return None
        finally:
            self.instrument.chunk = None
            if handle is not None:
                handle.remove()

    def logits(self, texts: Texts, *, positions: Positions = "last", **options: Any) -> Tensor:
        """Logits [token, d_vocab] at the asked positions."""
        return self.capture(texts, "logits", positions=positions, **options)["logits"]

    def lens(self, stream: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Logits [..., d_vocab] of a stream [..., d_model]: the model's own final norm, unembedding, scale and soft cap.

        `out` [row, d_vocab] is memory they may be written into, for whoever reads block after block without gradients.
        Raises SiteError where the model has no unembedding or more stands between.
        """
        return lens_logits(self.stack, self.name, stream, out)

    # -- change ---------------------------------------------------------------------------------------------------
    @contextmanager
    def edited(self, *edits: Edit) -> Iterator["Model"]:
        """Apply edits to every forward inside the block, also to plain calls of `model.module` and to `generate`.

        Everything is undone at the end, also when the body raises. Raises SiteError before anything runs when an edit names
        a site, layer, head, neuron or width that this model does not have.
        """
        visits = []
        for edit in edits:
            self.check_edit(edit)
            tap, visit = self.tap(edit.site.name, edit.site.layer), edit_visit(edit, self.instrument, str(edit))
            if edit.op in AT_SCORES:
                tap, visit = replace(tap, key="scores"), scores_visit(edit, lambda: self.instrument.layout)
            visits.append((tap, edit.site.layer, True, visit))
        visits.sort(key=lambda v: v[0].side == "mid")
        with self.instrument.visiting(visits):
            yield self

    def check_edit(self, edit: Edit) -> None:
        """Raise SiteError where an edit names a site, unit or width that this model does not have."""
        site, tap = edit.site, self.tap(edit.site.name, edit.site.layer)
        if tap.read_only:
            raise SiteError(f"{self.name}: {site} can only be read: {tap.read_only}")
        size = tap.heads if site.kind in ("head", "kv_head") else tap.width
        if site.units and size and max(site.units) >= size:
            raise SiteError(
                f"{self.name}: {site} names unit {max(site.units)}, but L{site.layer}.{site.name} has {size} (0 to {size - 1})"
            )
        for tensor in (edit.value, edit.center):
            width = tensor.shape[-1] if tensor is not None and tensor.dim() else 1
            allowed = {1, tap.width, len(site.units)} if tap.width else {width}
            if width not in allowed:
                raise SiteError(f"{self.name}: {edit} brings {width} values, the site has {tap.width}")

    # -- generate and check -----------------------------------------------------------------------------------------
    def generate(self, texts: Texts, *, max_new_tokens: int = 32, use_cache: bool = True, **options: Any) -> list[str]:
        """Greedy (unless `options` say otherwise) continuations of the texts, new text only, under the active edits."""
        from conceptlab.model.generate import generate_texts

        return generate_texts(self, texts, max_new_tokens=max_new_tokens, use_cache=use_cache, **options)

    def check(self, texts: Sequence[str] | None = None) -> Any:
        """Test this model's identities (parts add up, pattern @ v = z, last lens row = logits, …) and list its sites."""
        from conceptlab.model.selfcheck import check_model

        return check_model(self, texts)

    def __repr__(self) -> str:
        return f"Model({self.name}: {self.n_layers} layers, d_model {self.d_model}, {self.n_heads} heads, d_mlp {self.d_mlp})"


def _token_table(lengths: Sequence[int], positions: Positions) -> tuple[list[int], np.ndarray, np.ndarray]:
    """How many tokens each row gives, and the row and real-token position of each. Raises SiteError out of range."""
    table: list[list[int]] = []
    for row, length in enumerate(lengths):
        if isinstance(positions, str):
            chosen = list(range(length)) if positions == "all" else [length - 1]
        else:
            picked = positions[row] if len(positions) and isinstance(positions[0], (list, tuple)) else positions
            chosen = [p + length if p < 0 else p for p in picked]  # type: ignore[operator, union-attr]
        if any(not 0 <= p < length for p in chosen):
            raise SiteError(f"row {row} has {length} real tokens; positions {chosen} do not all exist")
        table.append(chosen)
    row = np.repeat(np.arange(len(table)), [len(t) for t in table])
    return [len(t) for t in table], row, np.array([p for t in table for p in t], dtype=np.int64)
