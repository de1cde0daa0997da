"""Which files are audio: by their names where files are looked for, by their first bytes where read."""

import os
from collections.abc import Iterator
from pathlib import Path

import soundfile as sf

_LIBSNDFILE = {f".{name.lower()}" for name in sf.available_formats()} - {".raw"} | {
    *(".aif", ".aifc", ".aiffc", ".bwf", ".wave", ".rf64", ".8svx", ".iff"),
    *(".oga", ".opus", ".spx", ".mp1", ".mp2", ".mp3"),
    *(".snd", ".sf", ".sph", ".nist", ".pvf", ".fap", ".gsm", ".vox"),
}
_FFMPEG = {
    *(".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".3g2", ".aac", ".adts"),
    *(".webm", ".mka", ".mkv", ".amr", ".awb", ".bw64", ".wma", ".asf", ".alac"),
}
_HEADERLESS = {".raw", ".pcm", ".ul", ".al", ".s16", ".s16le"}  # whose rate nobody knows
_SUFFIXES = _LIBSNDFILE | _FFMPEG

_FFMPEG_HEADS = (  # offset, bytes, what it is
    (4, b"ftyp", "MP4 or M4A"),
    (4, b"moov", "MP4 or QuickTime"),
    (4, b"mdat", "MP4 or QuickTime"),
    (4, b"wide", "QuickTime"),
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (0, b"#!AMR", "AMR"),
    (0, b"ADIF", "AAC"),
    (0, b"\x30\x26\xb2\x75", "WMA"),
)
_LIBSNDFILE_HEADS = (b"fLaC", b"OggS", b"ID3", b"FORM", b"caff", b".snd", b"riff", b"NIST", b"Crea")
WAV_HEADS = (b"RIFF", b"RF64", b"BW64")


def is_audio_name(path: Path) -> bool:
    """Whether a file of this name is one that `open_audio` is meant for."""
    return path.suffix.lower() in _SUFFIXES


def may_hold_audio(path: Path) -> bool:
    """Whether a file is audio by its name, headerless samples included, or by its first bytes.

    What the guard against writing `.btn` data over a recording asks.
    """
    if is_audio_name(path) or path.suffix.lower() in _HEADERLESS:
        return True
    try:
        with path.open("rb") as file:
            return path.is_file() and is_audio_head(file.read(16))
    except OSError:
        return False


def find_audio(root: Path, *, beside: tuple[str, ...] = ()) -> list[Path]:
    """The audio files below a folder by their names, sorted; linked folders are entered once.

    What macOS keeps beside files on foreign disks (`._name`) is passed over. Files of the endings
    `beside` are found too.
    """
    return sorted(
        path
        for path in _walk(root, set())
        if (is_audio_name(path) or path.suffix.lower() in beside)
        and not path.name.startswith("._")
        and os.path.isfile(path)  # noqa: PTH113 (never raises)
    )


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    for place, folders, files in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()  # a link that leads back, or a second one to the same place
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        yield from (Path(place) / name for name in files)


def is_audio_head(head: bytes) -> bool:
    """Whether the first 16 bytes of a file are those of audio known here."""
    return (
        (head[:4] in WAV_HEADS and head[8:12] == b"WAVE")
        or head.startswith(_LIBSNDFILE_HEADS)
        or needs_ffmpeg(head) is not None
        or _is_mpeg(head)
    )


def needs_ffmpeg(head: bytes) -> str | None:
    """What a file of these first bytes is, if ffmpeg alone reads it."""
    for offset, mark, kind in _FFMPEG_HEADS:
        if head[offset : offset + len(mark)] == mark:
            return kind
    is_adts = len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0
    return "AAC" if is_adts else None


def _is_mpeg(head: bytes) -> bool:
    """Whether these are a frame of MP3 (or of layers 1 and 2)."""
    return (
        len(head) > 2
        and head[0] == 0xFF
        and head[1] & 0xE0 == 0xE0
        and head[1] & 0x06 != 0
        and head[2] & 0xF0 != 0xF0
    )
