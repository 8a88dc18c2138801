"""A command line becomes one job."""
