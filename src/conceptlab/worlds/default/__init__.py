"""The embedded default model: a small Llama that knows a closed world of ours, with labelled concepts about it.

`default_model_path()` is a folder that any loader of Hugging Face models takes; `default_concepts()` are its concepts.
The modules beside this one made them: the world, its texts, the tokenizer, training, and the card of held-out accuracies.
"""

from pathlib import Path

from conceptlab.data import ConceptSet, read_concepts

__all__ = ["default_concepts", "default_model_path"]

_HERE = Path(__file__).parent


def default_model_path() -> Path:
    """The folder with the embedded model, its tokenizer and its card."""
    return _HERE / "weights"


def default_concepts() -> ConceptSet:
    """The embedded labelled concepts, read from `concepts.jsonl`, an example of the file format."""
    return read_concepts(_HERE / "concepts.jsonl")
