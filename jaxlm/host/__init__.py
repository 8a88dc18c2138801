"""This machine, and the person at it."""
