"""What the stream, or a part of it, says in the vocabulary: logit, tuned, component and token lenses."""
