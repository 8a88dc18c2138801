"""The texts that models write, and their scores."""
