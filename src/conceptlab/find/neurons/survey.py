"""What detectors of neurons look at, each thing made once however many of them ask: weights, the vocabulary, its rows."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor, nn

from conceptlab.model import Model
from conceptlab.model.neuron_weights import Gain, NeuronWeights, end_gain, neuron_weights
from conceptlab.model.vocabulary import Vocabulary, learned_vocabulary
from conceptlab.numerics.top_of_product import BUDGET

if TYPE_CHECKING:
    from conceptlab.find.neurons.expert_neurons import Labelled


@dataclass(eq=False)
class NeuronSurvey:
    """`fold` multiplies the gains of norms into the vectors; `budget_bytes` bounds the working memory of products; `labelled`
    are texts of concepts, for detectors that ask for them."""

    model: Model
    seed: int = 0
    fold: bool = True
    budget_bytes: int = BUDGET
    labelled: "Labelled | None" = None

    @cached_property
    def weights(self) -> list[NeuronWeights]:
        """Vectors of every layer that has neurons. Raises as `neuron_weights`."""
        return neuron_weights(self.model, fold=self.fold)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words that are read. Raises SiteError where the model has no unembedding."""
        return learned_vocabulary(self.model)

    @cached_property
    def unembedding(self) -> Tensor:
        """Its rows [kept, d_model], the model's own tensor where none is left out."""
        rows = self.model.unembedding.detach()
        return rows if len(self.vocabulary.ids) == len(rows) else rows[self.vocabulary.ids]

    @cached_property
    def end(self) -> Gain:
        """The final norm as a gain."""
        return end_gain(self.model, fold=self.fold)

    @cached_property
    def responses(self) -> "tuple[Tensor, Tensor | None]":
        """Largest and smallest activation over each labelled text, [text, layer, neuron]: all that is kept of one pass. Raises
        SiteError where no layer has neurons."""
        from conceptlab.find.neurons.expert_neurons import pooled_responses

        given = self.labelled
        return pooled_responses(self.model, given.texts, given.spans) if given else pooled_responses(self.model, ())

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of tokens should know."""
        counts = self.vocabulary.to_record()
        kept = counts.pop("kept")
        said = [f"{n} {name}" for name, n in counts.items() if n]
        left_out = (f"rows of the vocabulary left out of {kept + sum(counts.values())}: {', '.join(said)}",)
        tied = any(p is self.model.unembedding for m in self.model.module.modules() if isinstance(m, nn.Embedding)
                   for p in m.parameters())  # fmt: skip
        note = "embeddings are tied: a neuron that detects a word also decodes to it"
        return (left_out if said else ()) + ((note,) if tied else ())
