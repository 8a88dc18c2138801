"""How many examples hypothesis tries where one of them costs a second or so."""

from hypothesis import settings

few = settings(max_examples=max(1, settings.default.max_examples // 5))
