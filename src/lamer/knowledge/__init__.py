"""Corpus, encoders and retrieval: which facts belong to which query."""
