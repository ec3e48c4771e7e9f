"""Exact log-likelihoods of continuations under a causal language model."""
