"""What each part of the model contributes to a number: direct, first-order, decomposed."""
