"""A trained run, opened: evaluated, read, let write, reported."""
