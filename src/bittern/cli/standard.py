"""Standard input, output and error as commands need them, whatever started the command left of them.

A stream that is closed is None in Python, where `print` writes to standard output instead, and its
number goes to the next file opened, into which libraries then print. So each closed one is replaced:
standard error by nothing at all, the others by what cannot be read or written, and says so.
"""

import io
import os
import sys
from typing import TextIO, cast


def mend_standard_streams() -> None:
    """Make sure that none is None, that names of any letters can be printed."""
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = _text(0, "r")
    if sys.stdout is None:
        sys.stdout = _text(1, "w")
    if sys.stderr is None:
        sys.stderr = _text(2, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _text(number: int, mode: str) -> TextIO:
    buffering = -1 if mode == "r" or not os.isatty(number) else 1
    file = open(  # noqa: SIM115  # it stays open
        number, mode, buffering, encoding="utf-8", errors="backslashreplace", closefd=False
    )
    return cast(TextIO, file)
