"""Fits laws to records, with their uncertainty."""
