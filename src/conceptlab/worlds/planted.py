"""PlantedWorld: a model whose truth is known because its weights were written by hand, with prompts and that truth."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlab.data import ConceptSet, read_concepts
from conceptlab.errors import ResultError
from conceptlab.results.saving import write_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SCHEMA = 1
TRUTH_FILE = "truth.json"
CONCEPTS_FILE = "concepts.csv"


@dataclass(frozen=True, eq=False)
class PlantedWorld:
    """An ordinary Hugging Face causal LM, texts for it, and what is true of it.

    `prompts` are named families of texts; families that belong together (`clean` and its corruptions) have the same
    length and aligned tokens, row by row. `answers` holds, for the families that have one, the right next word of each
    row. `concepts` are labelled texts, where the world is about a concept. `truth` is plain JSON; the function that built
    the world describes its keys, and its numbers were measured in this host unless that function derives them.
    A null twin (`null`) has the same shapes, prompts and labels, and nothing planted; its truth names nothing.
    """

    name: str
    host: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerFast"
    prompts: Mapping[str, tuple[str, ...]]
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    concepts: ConceptSet | None = None
    truth: Mapping[str, Any] = field(default_factory=dict)
    null: bool = False

    def answer_ids(self, family: str) -> list[int]:
        """Token ids of the answers of one family of prompts. Raises KeyError where it has none."""
        vocabulary = self.tokenizer.get_vocab()
        return [vocabulary[word] for word in self.answers[family]]

    def save(self, folder: Path | str) -> None:
        """Write an ordinary model folder (safetensors, config, tokenizer), `truth.json` and, if any, `concepts.csv`.

        `from_pretrained` opens it; `truth.json` is written last. Raises RunError when the disk refuses.
        """
        folder = Path(folder)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.concepts is not None:
            write_bytes(folder / CONCEPTS_FILE, labelled_csv(self.concepts).encode())
        record = {
            "schema": SCHEMA,
            "name": self.name,
            "host": self.host,
            "null": self.null,
            "truth": self.truth,
            "prompts": self.prompts,
            "answers": self.answers,
        }
        write_bytes(folder / TRUTH_FILE, json.dumps(record, indent=1, ensure_ascii=False).encode())

    @classmethod
    def load(cls, folder: Path | str) -> "PlantedWorld":
        """Read what `save` wrote. Raises ResultError when `truth.json` is missing, damaged or newer."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(folder)
        record = _read_truth(folder / TRUTH_FILE)
        labelled = folder / CONCEPTS_FILE
        return cls(
            name=record["name"],
            host=record["host"],
            model=AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval(),
            tokenizer=AutoTokenizer.from_pretrained(folder, local_files_only=True),
            prompts={name: tuple(texts) for name, texts in record["prompts"].items()},
            answers={name: tuple(words) for name, words in record["answers"].items()},
            concepts=read_concepts(labelled) if labelled.exists() else None,
            truth=record["truth"],
            null=record["null"],
        )


def labelled_csv(concepts: ConceptSet) -> str:
    """The labelled file of a concept set: columns text, label (the class name), concept, words (those of the class)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("text", "label", "concept", "words"))
    for concept in concepts:
        for text, label in zip(concept.texts, concept.labels.tolist(), strict=True):
            words = "" if concept.words is None else ",".join(concept.words[label])
            writer.writerow((text, concept.class_names[label], concept.name, words))
    return out.getvalue()


def _read_truth(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} cannot be read as a planted world's truth: {error}") from error
    missing = {"schema", "name", "host", "null", "truth", "prompts", "answers"} - set(record)
    if missing:
        raise ResultError(f"{path} lacks {', '.join(sorted(missing))}; save the world again")
    if record["schema"] > SCHEMA:
        raise ResultError(f"{path} was written by a newer conceptlab (schema {record['schema']}); update to read it")
    return record
