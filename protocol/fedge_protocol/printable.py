"""Foreign text for people: what a peer says must not steer the terminal or the log that it ends up in."""


def printable(text: str, *, instead: str = "?") -> str:
    """The text with `instead` for every character that is not printable: escape sequences, new lines, bidi marks."""
    return "".join(character if character.isprintable() else instead for character in text)
