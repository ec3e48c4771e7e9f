"""Relative entropy of the answers before and after a fact, and what follows from it."""
