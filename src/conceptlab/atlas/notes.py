"""What every number of an atlas means, a sentence or two each: the method notes of the report."""

NOTES = {
    "score": (
        "How well a linear probe reads the concept from one layer of the stream, on texts it was not fitted on: accuracy or "
        "AUC for classes (0.5 is chance for two equal classes), the correlation r for a graded concept (0 is chance)."
    ),
    "interval": "In square brackets: 95 % of resamplings of the texts give a value inside it.",
    "control": (
        "The same number from the same whole procedure, choice of the layer included, after the labels were shuffled among "
        "the texts. What a score is worth is how far it lies above this."
    ),
    "p": "The share of shuffled runs that score at least as well as the real one, the real one counted among them.",
    "q": (
        "p corrected for having looked many times (Benjamini-Hochberg): among all that is called found at q ≤ 0.05, at most "
        "5 % are expected to be false. Concepts are corrected over this run's concepts, heads and neurons over all searched."
    ),
    "found": "q ≤ 0.05 for the score of a layer that was chosen inside the folds, never on the texts it is scored on.",
    "best layer": "The layer where the score is highest. Layers count from 0; “embed” is the stream before the first block.",
    "jump, settled": (
        "The first layer whose score is at least 1.1 times that of the layer before and above the null, and the first from "
        "which on no step changes it by 3 % or more; both as a share of the depth, 0 the embedding and 100 % the last layer."
    ),
    "control task": (
        "The score of the same probe on labels that were drawn at random for each kind of text and kept: what a probe can "
        "learn by heart. Selectivity is the score minus this."
    ),
    "compression": "How many times shorter the labels can be told to someone who has the activations (minimum description length).",
    "noised input, quantised weights": (
        "The score when the texts were disturbed, and when the model's weights were rounded to few bits. A concept that is "
        "kept robustly stays readable."
    ),
    "heads, neurons": (
        "Each head's own output and each MLP neuron is scored alone and compared with shuffled labels. Reading a concept from "
        "a unit does not show that the model uses it there; the effects do."
    ),
    "causal effect": (
        "What changes when the model runs on with the concept's direction taken out or pushed, or with the top units set to "
        "their mean. KL compares the next-token distributions before and after; log-odds are those of the concept's own "
        "label words; a readout shift is measured at the last layer in standard deviations of that readout."
    ),
    "control of an effect": (
        "The mean of the same change made with random directions of the same norm, or with as many random heads or neurons. "
        "Any push changes something; only what lies beyond the random ones speaks for the concept."
    ),
    "cosine": (
        "Of two concepts' directions: 1 the same, 0 unrelated, −1 opposite. The causal inner product weighs directions by how "
        "the model's own outputs vary, so that it does not depend on the basis the model happens to use."
    ),
}  # fmt: skip
