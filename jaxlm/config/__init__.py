"""Every key, and what fits."""
