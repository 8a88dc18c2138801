"""Runs read, compared, written: the report of a study, or of any set of runs.

metrics names what is measured; reading and variants know run directories; statistics, convergence,
claims and sweeps compute; analysis puts it together; figures, pages, texts, provenance, log and
document show it; report writes it.
"""
