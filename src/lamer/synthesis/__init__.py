"""Training examples written by a teacher, in proportion to severity.

templates   the teacher's prompts, text files with strict placeholders
parse       reply -> items (pure)
words       texts as words (pure)
duplicates  near-duplicates among questions (pure)
checks      is an item an example? letters (pure)
synthesize  units -> examples, round by round
export      training data for other trainers (pure)
hub         exports of a run: files, or a data set of the Hub; push
card        the card of such a data set
stage       the stage of a run
"""
