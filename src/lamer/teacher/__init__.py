"""A chat model that is asked for facts and training examples, and everything that keeps its money safe.

template  a prompt: a text with strict placeholders
requests  what is asked and answered
teacher   ask it: an OpenAI-compatible server, or a function
session   workers, retries, group commit
batch     the same requests in batches: batch_table (intents, on disk), batch_service (calls), batch_lines (files)
client    one try over HTTP
key       the API key: from the environment, never shown
retry     when to ask again (pure)
ledger    every request and reply in SQLite, committed before use
"""
