"""The output of an analysis: tables, figures and a report."""
