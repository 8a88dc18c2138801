"""What a person sees of an analysis: tables, figures, a report."""
