"""What the models write, and how good it is."""
