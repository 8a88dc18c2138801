"""Predicts what a larger model would reach."""
