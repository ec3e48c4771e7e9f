"""Training examples written by a teacher, in proportion to severity.

templates   the teacher's prompts, text files with strict placeholders
teacher     an OpenAI-compatible server or a function; retries, concurrency
retry       when to ask again (pure)
ledger      every request and reply in SQLite, committed before use
parse       reply -> items (pure)
words       texts as words (pure)
duplicates  near-duplicates among questions (pure)
checks      is an item an example? letters (pure)
synthesize  units -> examples, round by round
export      training data for other trainers
stage       the stage of a run
"""
