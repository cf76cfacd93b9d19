"""What ends a command: said on stderr in plain words, without a traceback, with exit code 1."""


class Failure(Exception):
    """The message says what failed and what to do."""
