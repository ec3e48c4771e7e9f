"""Training examples written by a teacher, in proportion to severity.

templates   the teacher's prompts, text files with strict placeholders
schema      a reply in JSON (pure)
style       text or JSON, settled once a stage
parse       reply -> items (pure): parse_text, parse_json; labels, options, answers, markup, items
words       texts as words (pure)
quotes, verdicts    is a fact quoted, what does an explanation call right? (pure)
duplicates, paraphrases     near-duplicates by words (pure) and by meaning
contamination       what held-out files and an example share
checks      is an item an example? letters (pure)
advice      what the teacher is told about items that were turned down (pure)
units, synthesize   units -> examples, round by round
accounting  counts that balance, shortages, notes (pure)
verify      checks that cost: student, blind, judge; costs of them (pure)
export      training data for other trainers (pure)
hub         exports of a run: files, or a data set of the Hub; push
card        the card of such a data set
stage       the stage of a run
"""
