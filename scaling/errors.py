"""The one exception of bad input."""


class ScalingError(ValueError):
    """Input that no fit can be made of: what is wrong, where, and what to do, in a few lines."""
