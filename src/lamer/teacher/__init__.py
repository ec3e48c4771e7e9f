"""A chat model that is asked for facts and training examples, and everything that keeps its money safe.

template  a prompt: a text with strict placeholders
requests  what is asked and answered
teacher   ask it: an OpenAI-compatible server, or a function
session   workers, retries, group commit
formats   text or JSON by a schema: what the server honours
client    one try over HTTP
key       the API key: from the environment, never shown
retry     when to ask again (pure)
ledger    every request and reply in SQLite, committed before use
"""
