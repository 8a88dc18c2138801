"""A law from records, doubted."""
