"""Trains the many runs that answer one question."""
