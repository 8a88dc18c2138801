"""Trains one run, from its newest checkpoint to its end."""
