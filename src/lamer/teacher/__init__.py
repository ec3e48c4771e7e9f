"""A chat model that is asked for facts and training examples, and everything that keeps its money safe.

template  a prompt: a text with strict placeholders
requests  what is asked and answered
teacher   ask it: an OpenAI-compatible server, or a function
session   workers within the limits, retries, group commit
limits    how many requests in flight, how many a minute, holds (pure)
progress  what is shown meanwhile
clock     the time that waits are measured in
formats   text or JSON by a schema: what the server honours
client    one try over HTTP
shortcut  the same requests as the openai client's, for less CPU time
batch     the same requests in batches
          batch_table: what is sent and what became of it, on disk; batch_lines: the files, as text (pure);
          batch_client, batch_service: the calls; batch_seats: room under the ceilings
key       the API key: from the environment, never shown
retry     when to ask again (pure)
ledger    every request and reply in SQLite, committed before use
"""
