"""The number of examples of hypothesis if one example takes about a second."""

from hypothesis import settings

few = settings(max_examples=max(1, settings.default.max_examples // 5))
