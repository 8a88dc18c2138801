"""Checks that the engines compute what they should."""
