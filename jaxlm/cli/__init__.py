"""Turns a command line into one job."""
