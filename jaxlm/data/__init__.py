"""Text to tokens to batches, and back. `prepare.prepare` is the entry point."""
