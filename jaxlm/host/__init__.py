"""This machine and its user."""
