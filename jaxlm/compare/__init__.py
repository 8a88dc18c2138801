"""Reads and compares runs, and writes the report of a study or of any set of runs.

metrics defines what is measured; reading and variants read run directories; statistics,
convergence, claims and sweeps compute; analysis combines the results; figures, pages, texts,
provenance, log and document show them; report writes the files.
"""
