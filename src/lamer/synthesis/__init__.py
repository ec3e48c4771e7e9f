"""Training examples written by a teacher, in proportion to severity.

templates   the teacher's prompts, text files with strict placeholders
schema      a reply in JSON (pure)
style       text or JSON, settled once a stage
parse       reply -> items (pure): parse_text, parse_json; labels, options, answers, markup, items
words       texts as words (pure)
duplicates  near-duplicates among questions (pure)
checks      is an item an example? letters (pure)
synthesize  units -> examples, round by round
export      training data for other trainers
stage       the stage of a run
"""
