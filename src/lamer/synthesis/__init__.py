"""Training examples written by a teacher, in proportion to severity."""
