"""Readers of corpora, one file a kind; all of them stream."""
