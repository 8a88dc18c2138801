"""Markdown that every page needs."""


def fenced(text: str, language: str) -> str:
    """A fenced block that the text cannot break out of."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
