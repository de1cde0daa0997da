"""How many bytes of a compressed file carry audio, and how many are its container.

A bitrate that counts page headers and comment fields says more about the file format than about
the codec; one that leaves out frame headers flatters it. Here payload is every byte that the
decoder needs while playing: Opus packets, MP3 frames (with their headers), AAC access units.
"""

import struct
from pathlib import Path
from typing import NamedTuple

from bittern.errors import FormatError


class FileBytes(NamedTuple):
    payload: int
    total: int
    container: str  # "Ogg", "MP3", "MP4", "ADTS", "Bittern" or "" for unknown: all is payload


def count(path: Path) -> FileBytes:
    """Count a file's payload by its container, told by its first bytes.

    Raises:
        FormatError: it begins like a known container but cannot be walked.
    """
    data = path.read_bytes()
    for container, is_one, walk in (
        ("Ogg", data[:4] == b"OggS", _ogg_payload),
        ("MP4", data[4:8] == b"ftyp", _mp4_payload),
        ("ADTS", len(data) > 1 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0, _adts_payload),
        ("MP3", data[:3] == b"ID3" or _mp3_frame_bytes(data, 0) > 0, _mp3_payload),
    ):
        if is_one:
            try:
                return FileBytes(walk(data), len(data), container)
            except (IndexError, struct.error):
                raise FormatError(f"{path}: this {container} file is cut short") from None
    return FileBytes(len(data), len(data), "")


def _ogg_payload(data: bytes) -> int:
    """Bytes in packets, less header packets (OpusHead, OpusTags; Vorbis and Speex have others).

    Source: RFC 3533, section 6 (pages and lacing); RFC 7845, section 5 (Opus headers).
    """
    total = position = 0
    packet = bytearray()
    while position < len(data):
        if data[position : position + 4] != b"OggS":
            raise FormatError(f"no Ogg page at byte {position}")
        segments = data[position + 26]
        lacing = data[position + 27 : position + 27 + segments]
        position += 27 + segments
        for size in lacing:
            packet += data[position : position + size]
            position += size
            if size < 255:  # a shorter segment ends the packet
                if not packet.startswith((b"OpusHead", b"OpusTags")):
                    total += len(packet)
                packet.clear()
    return total


def _mp4_payload(data: bytes) -> int:
    """Bytes in `mdat` boxes, which hold nothing but samples in files with one audio track.

    Source: ISO/IEC 14496-12, section 4.2.
    """
    total = position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, position + 8)
            header = 16
        elif size == 0:  # to the end of the file
            size = len(data) - position
        if size < header:
            raise FormatError(f"no MP4 box at byte {position}")
        if kind == b"mdat":
            total += size - header
        position += size
    return total


def _adts_payload(data: bytes) -> int:
    """Access units without their headers of 7 or 9 bytes. Source: ISO/IEC 14496-3, annex 1.A."""
    total = position = 0
    while position + 7 <= len(data):
        size = (data[position + 3] & 3) << 11 | data[position + 4] << 3 | data[position + 5] >> 5
        if data[position] != 0xFF or size < 7:
            raise FormatError(f"no ADTS frame at byte {position}")
        total += size - (7 if data[position + 1] & 1 else 9)
        position += size
    return total


def _mp3_payload(data: bytes) -> int:
    """All audio frames, without ID3 tags and the Xing/Info frame, which holds no audio."""
    position = 0
    if data[:3] == b"ID3":
        size = sum((data[6 + i] & 127) << (21 - 7 * i) for i in range(4))
        position = 10 + size
    total = 0
    first = True
    while (size := _mp3_frame_bytes(data, position)) > 0:
        frame = data[position : position + size]
        if not (first and (b"Xing" in frame[:48] or b"Info" in frame[:48])):
            total += len(frame)
        first = False
        position += size
    return total


_MP3_KBPS = {  # layer III, index 1 to 14
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG-1
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG-2 and 2.5
}
_MP3_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


def _mp3_frame_bytes(data: bytes, position: int) -> int:
    """Length of the layer III frame at `position`, header included, or 0 if there is none."""
    header = data[position : position + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version = header[1] >> 3 & 3
    rate_index, kbps_index = header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or rate_index == 3 or not 1 <= kbps_index <= 14:
        return 0
    mpeg1 = version == 3
    kbps = _MP3_KBPS[mpeg1][kbps_index - 1]
    samples = 1152 if mpeg1 else 576
    padding = header[2] >> 1 & 1
    return samples // 8 * kbps * 1000 // _MP3_RATES[version][rate_index] + padding
