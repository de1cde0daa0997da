"""One line that says how far the work is, on a terminal only."""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from bittern.audio.streams import AudioStream
    from bittern.audio.wav import Block

_INTERVAL = 0.2  # seconds from one writing of the line to the next


class Progress:
    """Share done, time left and speed; the line is wiped out at the end."""

    def __init__(
        self, total: float | None, *, unit: str, quiet: bool = False, file: TextIO | None = None
    ) -> None:
        """Begin.

        Args:
            total: how many of `unit` there are, None if nobody knows.
            unit: "s" of audio, or "files".
            quiet: show nothing.
            file: standard error by default; nothing is shown unless it is a terminal.
        """
        self._file = sys.stderr if file is None else file
        self.shown = not quiet and self._file.isatty()
        self._total = total
        self._unit = unit
        self._began = time.monotonic()
        self._written = -_INTERVAL
        self._width = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._write("")

    def show(self, done: float, audio: float) -> None:
        """Say that `done` of the unit and `audio` seconds of audio are done."""
        now = time.monotonic()
        if not self.shown or now - self._written < _INTERVAL:
            return
        self._written = now
        elapsed = now - self._began
        line = f"{done:.0f}"
        if self._total:
            left = elapsed * max(self._total - done, 0) / done if done else 0.0
            line += f" of {self._total:.0f} {self._unit} ({100 * done / self._total:.0f} %)"
            line += f", {_clock(left)} left" if done else ""
        else:
            line += f" {self._unit}"
        self._write(f"{line}, {self.speed(audio)}")

    def speed(self, audio: float) -> str:
        """How fast `audio` seconds were done, for people."""
        return f"{audio / max(time.monotonic() - self._began, 1e-9):.0f}x real time"

    def watch(self, stream: "AudioStream") -> "AudioStream":
        """The same audio, of which each block taken is shown; the unit is seconds."""
        return replace(stream, blocks=self._watched(stream))

    def _watched(self, stream: "AudioStream") -> "Iterator[Block]":
        samples = 0
        for block in stream.blocks:
            yield block
            samples += len(block)
            self.show(samples / stream.sample_rate, samples / stream.sample_rate)

    def _write(self, line: str) -> None:
        if self.shown and (line or self._width):
            self._file.write("\r" + line.ljust(self._width) + ("" if line else "\r"))
            self._file.flush()
            self._width = len(line)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
