"""One run, from its newest checkpoint to its end."""
