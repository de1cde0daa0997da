"""A range of a file as a file of its own: one of a pack's shard, one link of an Ogg chain."""

import io
import os
from typing import BinaryIO


class FileRange(io.RawIOBase):
    """Bytes `offset` to `offset + size` of a file, to be read."""

    def __init__(self, file: BinaryIO, offset: int, size: int, *, owned: bool = False) -> None:
        """With `owned` the file is closed together with its range."""
        super().__init__()
        self._file, self._owned = file, owned
        self._offset, self._size, self._place = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(origin + offset, 0)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer) -> int:  # type: ignore[override]  # the base's buffer type is private
        view = memoryview(buffer)
        self._file.seek(self._offset + self._place)
        data = self._file.read(max(min(len(view), self._size - self._place), 0))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        if self._owned:
            self._file.close()
        super().close()
