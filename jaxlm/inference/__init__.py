"""Opens a trained run: evaluation, generation, figures and report."""
