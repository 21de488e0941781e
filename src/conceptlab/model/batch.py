"""Ragged rows of tokens: padding is the engine's business and never reaches the user."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conceptlab.errors import ModelError


@dataclass(frozen=True)
class Batch:
    """Token ids per row, with the character offsets [token] -> (start, end) of each token where the tokenizer gives them."""

    ids: tuple[tuple[int, ...], ...]
    offsets: tuple[tuple[tuple[int, int], ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> list[int]:
        """Real tokens per row."""
        return [len(row) for row in self.ids]

    def select(self, rows: Sequence[int]) -> "Batch":
        """A batch of some of the rows, in the given order."""
        offsets = None if self.offsets is None else tuple(self.offsets[r] for r in rows)
        return Batch(tuple(self.ids[r] for r in rows), offsets)

    def positions_of(self, spans: Sequence[tuple[int, int] | None]) -> list[list[int]]:
        """Real-token positions that overlap each row's characters [start, end); None means the last token.

        Raises ModelError when a span covers no token, or the tokenizer gives no offsets.
        """
        return [self._span(row, span) for row, span in enumerate(spans)]

    def _span(self, row: int, span: tuple[int, int] | None) -> list[int]:
        if span is None:
            return [len(self.ids[row]) - 1]
        if self.offsets is None:
            raise ModelError("this tokenizer gives no character offsets, so start/end cannot be used; leave them out")
        start, end = span
        found = [i for i, (a, b) in enumerate(self.offsets[row]) if a < end and b > start and b > a]
        if not found:
            raise ModelError(f"row {row}: no token lies between characters {start} and {end}")
        return found

    def chunks(self, max_tokens: int) -> Iterator[list[int]]:
        """Rows of like length together, at most `max_tokens` padded tokens a chunk, so little padding is computed."""
        chunk: list[int] = []
        for row in sorted(range(len(self)), key=lambda r: (len(self.ids[r]), r)):
            if chunk and (len(chunk) + 1) * len(self.ids[row]) > max_tokens:
                yield chunk
                chunk = []
            chunk.append(row)
        if chunk:
            yield chunk

    def padded(self, rows: Sequence[int], *, side: str, pad: int, device: torch.device) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` [row, col] of some rows, padded on `side`."""
        width = max(len(self.ids[r]) for r in rows)
        ids = torch.full((len(rows), width), pad, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            tokens = torch.tensor(self.ids[row], dtype=torch.long)
            start = 0 if side == "right" else width - len(tokens)
            ids[i, start : start + len(tokens)] = tokens
            mask[i, start : start + len(tokens)] = 1
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def input_device(module: nn.Module) -> torch.device:
    """Where inputs go: the device of the first weight that is held, or the one an offloaded model computes on."""
    held = next((p.device for p in module.parameters() if p.device.type != "meta"), None)
    if held is not None:
        return held
    hooks = (getattr(m, "_hf_hook", None) for m in module.modules())
    found = next((getattr(h, "execution_device", None) for h in hooks if h is not None), None)
    return torch.device("cpu" if found is None else found)
