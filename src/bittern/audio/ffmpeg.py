"""What libsndfile does not read (M4A, AAC, MP4, WebM, AMR and others), by ffmpeg as WAV on a pipe."""

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

from bittern.errors import AudioError, AudioWarning, UnreachableError


@contextmanager
def decoded(path: Path, kind: str, name: str) -> Generator[BinaryIO, None, None]:
    """The first audio stream of a file as 32-bit float WAV, to be read once and forwards.

    Raises:
        UnreachableError: there is no ffmpeg.
        AudioError: from the end of the block, if ffmpeg failed and all it gave was read.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise UnreachableError(
            f"{name}: is {kind}, which ffmpeg reads, and that is not installed; install it, or "
            "convert the file to WAV or FLAC"
        )
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [
                *(program, "-v", "error", "-nostdin", "-protocol_whitelist", "file,pipe"),
                *("-i", f"file:{path}", "-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav", "-"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        assert process.stdout is not None
        try:
            yield _Checked(process, process.stdout, said, name)  # type: ignore[misc]
        finally:
            process.stdout.close()
            process.kill()
            process.wait()


class _Checked:
    """ffmpeg's output, of which the end counts only if ffmpeg says that all went well."""

    def __init__(
        self, process: subprocess.Popen[bytes], output: IO[bytes], said: IO[bytes], name: str
    ) -> None:
        self._process, self._output, self._said, self._name = process, output, said, name

    def read(self, size: int) -> bytes:
        data = self._output.read(size)
        if not data:
            code = self._process.wait()
            self._said.seek(0)
            lines = self._said.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1].strip() if lines else f"exit code {code}"
            if code:
                raise AudioError(f"{self._name}: damaged, or not audio ({reason}, says ffmpeg)")
            if lines:
                warnings.warn(f"{self._name}: ffmpeg says: {reason}", AudioWarning, stacklevel=2)
        return data
