"""The report of a study, or of any set of runs: read, compare, write. `write_report` is the door.

metrics names what is measured; reading and variants know run directories; statistics, convergence,
claims and sweeps compute; analysis puts it together; figures, pages, samples, provenance, log and
document show it; report writes it.
"""

from jaxlm.comparison.report import report_job, write_report

__all__ = ["report_job", "write_report"]
