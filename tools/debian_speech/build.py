"""Builds a corpus of free speech from Debian packages and folders: 16 kHz mono FLAC, by source.

What comes out is what training takes. The packages are in `packages.py`, the work on each signal in
`pieces.py`; here are the passes over all files, the manifest and the summary.
"""

import argparse
import csv
import hashlib
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from bittern.audio.names import is_audio_name
from bittern.audio.wav import to_pcm16
from bittern.errors import AudioError, CodecError, ConfigError
from debian_speech import packages as debian
from debian_speech.packages import SELECTIONS, Recording
from debian_speech.pieces import (
    SAMPLE_RATE,
    Rejected,
    find_duplicates,
    fingerprint,
    read_pieces,
)

_JOIN_BELOW_SECONDS, _JOINED_SECONDS, _GAP_SECONDS = 2.0, 5.0, 0.1
_COLUMNS = (
    "path",
    "seconds",
    "source",
    "package",
    "version",
    "language",
    "speaker",
    "licence",
    "originals",
    "sha256",
)


@dataclass(frozen=True)
class Piece:
    """A good piece of a recording; `start` and `samples` are its place in the scratch file."""

    recording: Recording
    number: int  # within the recording
    start: int
    samples: int
    top_band_db: float  # how far 7.2-7.9 kHz lies below 4-6 kHz

    @property
    def voice(self) -> tuple[str, str, str]:
        return self.recording.source, self.recording.language, self.recording.speaker


@dataclass(frozen=True)
class Entry:
    """One file of the corpus."""

    path: str
    seconds: float
    pieces: Sequence[Piece]
    sha256: str

    @property
    def recording(self) -> Recording:
        return self.pieces[0].recording


@dataclass(frozen=True)
class Built:
    """What a build has made."""

    entries: list[Entry]
    dropped: dict[str, Counter[str]]  # by source, then by reason: files or pieces
    missing: list[str]  # a line for each package that could not be had


def build(out: Path, work: Path, packages: Iterable[str], folders: Iterable[Path]) -> Built:
    """Build the corpus in a folder beside `out` and put it in its place when it is whole.

    Raises:
        ConfigError: `out` holds something else, a folder is not there, a program is missing.
        AudioError: no speech was found.
    """
    if out.exists() and not (out / "manifest.csv").exists() and any(out.iterdir()):
        raise ConfigError(
            f"{out} holds other files; give a new folder or one that was built before"
        )
    part = out.with_name(f".{out.name}.part")
    found = [recording for folder in folders for recording in folder_recordings(folder)]
    missing = []
    for package in tqdm(list(packages), desc="packages", unit="package"):
        try:
            found += debian.recordings(package, debian.fetch(package, work))
        except ConfigError:
            raise
        except CodecError as error:
            missing.append(str(error))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        entries, dropped = _convert(found, part)
        built = Built(entries, dropped, missing)
        _write_manifest(entries, part / "manifest.csv")
        (part / "SOURCES.md").write_text(summary(built), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return built


def folder_recordings(folder: Path) -> list[Recording]:
    """All audio below a folder; its first-level folders are the sources, as in training."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; give one with audio, or leave it out")
    found = []
    for path in sorted(folder.rglob("*")):
        if (is_audio_name(path) or path.suffix.lower() == ".g722") and path.is_file():
            name = path.relative_to(folder).as_posix()
            head, _, rest = name.partition("/")
            source = head if rest else folder.resolve().name
            found.append(Recording(path, name, source, "folder", "", "", "", "as given"))
    return found


def _convert(
    found: list[Recording], part: Path
) -> tuple[list[Entry], defaultdict[str, Counter[str]]]:
    dropped: defaultdict[str, Counter[str]] = defaultdict(Counter)
    pieces: list[Piece] = []
    prints: list[np.ndarray] = []
    scratch = part / "scratch.pcm"
    with scratch.open("wb") as pcm:
        start = 0
        for recording in tqdm(found, desc="files", unit="file"):
            for number, wav in enumerate(read_pieces(recording.path)):
                if isinstance(wav, Rejected):
                    dropped[recording.source][wav.reason] += 1
                    continue
                pcm.write(to_pcm16(wav))
                pieces.append(Piece(recording, number, start, len(wav), _top_band_db(wav)))
                prints.append(fingerprint(wav))
                start += len(wav)
    if not pieces:
        raise AudioError(
            f"no speech in {len(found)} audio files; give packages or folders that hold some"
        )
    lengths = np.array([piece.samples for piece in pieces], dtype=np.float64)
    repeats = find_duplicates(np.stack(prints), lengths)
    for piece in (piece for piece, repeat in zip(pieces, repeats, strict=True) if repeat):
        dropped[piece.recording.source]["near-duplicate"] += 1
    kept = [piece for piece, repeat in zip(pieces, repeats, strict=True) if not repeat]
    mapped = np.memmap(scratch, dtype="<i2", mode="r")
    entries = [
        _write(group, part, mapped) for group in tqdm(joined(kept), desc="writing", unit="file")
    ]
    del mapped
    scratch.unlink()
    return sorted(entries, key=lambda entry: entry.path), dropped


def joined(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces by the files they go to: short ones of a package's voice share files of about 5 s.

    A word of a second would fill a training crop with more silence than speech. What comes from
    folders stays as it is: who speaks is not known there.
    """
    groups: list[list[Piece]] = []
    waiting: dict[tuple[str, ...], list[Piece]] = {}
    for piece in pieces:
        recording = piece.recording
        if recording.package == "folder" or piece.samples >= _JOIN_BELOW_SECONDS * SAMPLE_RATE:
            groups.append([piece])
            continue
        group = waiting.setdefault((*piece.voice, recording.package, recording.licence), [])
        group.append(piece)
        if sum(one.samples for one in group) >= _JOINED_SECONDS * SAMPLE_RATE:
            groups.append(group)
            del waiting[(*piece.voice, recording.package, recording.licence)]
    return groups + list(waiting.values())


def _write(group: list[Piece], part: Path, pcm: np.ndarray) -> Entry:
    gap = np.zeros(round(_GAP_SECONDS * SAMPLE_RATE), dtype=np.int16)
    parts: list[np.ndarray] = []
    for piece in group:
        parts += [gap] if parts else []
        parts.append(pcm[piece.start : piece.start + piece.samples])
    wav = np.concatenate(parts)
    first = group[0].recording
    stem = hashlib.sha256(f"{first.package}/{first.name}".encode()).hexdigest()[:8]
    voice = "-".join(filter(None, (first.language.replace("@", "-"), first.speaker)))
    name = "-".join(filter(None, (voice, stem, str(group[0].number))))
    path = part / first.source / f"{name}.flac"
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, wav, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Entry(path.relative_to(part).as_posix(), len(wav) / SAMPLE_RATE, group, digest)


def _top_band_db(wav: np.ndarray) -> float:
    power = np.square(np.abs(np.fft.rfft(wav)))
    frequency = np.fft.rfftfreq(len(wav), 1 / SAMPLE_RATE)
    top = power[(frequency > 7200) & (frequency < 7900)].mean()
    middle = power[(frequency > 4000) & (frequency < 6000)].mean()
    return float(10 * np.log10((top + 1e-12) / (middle + 1e-12)))


def _write_manifest(entries: list[Entry], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for entry in entries:
            one = entry.recording
            about = (one.source, one.package, one.version, one.language, one.speaker, one.licence)
            originals = "|".join(dict.fromkeys(piece.recording.name for piece in entry.pieces))
            writer.writerow((entry.path, f"{entry.seconds:.3f}", *about, originals, entry.sha256))


def by_source(entries: list[Entry]) -> dict[str, list[Entry]]:
    """Files of every source, by name."""
    groups: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.recording.source].append(entry)
    return dict(sorted(groups.items()))


def band_limited(entries: list[Entry]) -> bool:
    """Whether most pieces of a source have next to nothing above 7.2 kHz."""
    drops = [piece.top_band_db for entry in entries for piece in entry.pieces]
    source = entries[0].recording.source
    told = any(one.source == source and one.band_limited for one in SELECTIONS)
    return told or float(np.median(drops)) < -15


def weights(entries: list[Entry]) -> dict[str, float]:
    """A weight for each source, the heaviest 5: the root of its minutes times its voices.

    The root keeps one voice with an hour from outweighing twenty with ten minutes; a source that
    ends near 7 kHz gets 0.4 of that, or the codec learns to end there.
    """
    raw = {}
    for source, own in by_source(entries).items():
        minutes = sum(entry.seconds for entry in own) / 60
        raw[source] = (minutes * _voices(own)) ** 0.5 * (0.4 if band_limited(own) else 1.0)
    top = max(raw.values())
    return {source: max(round(5 * value / top, 1), 0.1) for source, value in raw.items()}


def _voices(entries: list[Entry]) -> int:
    return len({piece.voice for entry in entries for piece in entry.pieces})


def summary(built: Built) -> str:
    """SOURCES.md: what is in the corpus, where from, under which licence, and what was left out."""
    lines = [
        "# Sources",
        "",
        "16 kHz mono 16-bit FLAC; one line of `manifest.csv` for each file. A voice is a language and",
        "speaker of a source as far as the files tell: several people may hide behind one.",
        "",
        "| source | package, version | minutes | voices | languages | licence | band-limited |",
        "|---|---|---|---|---|---|---|",
    ]
    for source, own in by_source(built.entries).items():
        packages = sorted({f"{e.recording.package} {e.recording.version}".strip() for e in own})
        languages = sorted({e.recording.language or "not told" for e in own})
        licences = sorted({e.recording.licence for e in own})
        minutes = sum(e.seconds for e in own) / 60
        lines.append(
            f"| {source} | {', '.join(packages)} | {minutes:.1f} | {_voices(own)} | "
            f"{' '.join(languages)} | {'; '.join(licences)} | {'yes' if band_limited(own) else 'no'} |"
        )
    used = {e.recording.package for e in built.entries}
    holders = sorted({f"{s.package}: {s.holder}" for s in SELECTIONS if s.package in used})
    lines += ["", totals(built.entries), "", "## Weights for training", "", _weights_line(built)]
    lines += ["", "## Who made the recordings", "", *(f"- {holder}" for holder in holders)]
    lines += ["", "## Left out (files or pieces)", ""]
    for source, reasons in sorted(built.dropped.items()):
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        lines.append(f"- {source}: {told}")
    return "\n".join([*lines, *(f"- package missing: {line}" for line in built.missing), ""])


def totals(entries: list[Entry]) -> str:
    """One line: hours, files, voices, languages, hours by language."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for entry in entries:
        seconds[entry.recording.language or "not told"] += entry.seconds
    longest_first = sorted(seconds.items(), key=lambda item: -item[1])
    each = ", ".join(f"{name} {value / 60:.0f} min" for name, value in longest_first)
    return (
        f"{sum(seconds.values()) / 3600:.2f} h in {len(entries)} files, {_voices(entries)} voices, "
        f"{len(seconds)} languages ({each})"
    )


def _weights_line(built: Built) -> str:
    told = ", ".join(f"{name}: {value:g}" for name, value in weights(built.entries).items())
    return f"    'data.weights={{{told}}}'"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    every = list(dict.fromkeys(selection.package for selection in SELECTIONS))
    parser = argparse.ArgumentParser(
        prog="prepare_debian_speech.py",
        description="Build a corpus of free speech from Debian packages and folders.",
        epilog=f"Packages: {', '.join(every)}.",
    )
    parser.add_argument("out", type=Path, help="folder to build; replaced if it was built before")
    parser.add_argument("folders", type=Path, nargs="*", help="folders of more speech that join in")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("~/.cache/bittern/debian"),
        help="keeps downloads, 1.7 GB (default: %(default)s)",
    )
    parser.add_argument(
        "--packages", default="all", help="names with commas, all (default) or none"
    )
    options = parser.parse_args(arguments)
    asked = {"all": every, "none": []}.get(options.packages, options.packages.split(","))
    try:
        if unknown := [name for name in asked if name not in every]:
            raise ConfigError(
                f"package {unknown[0]!r} is not known; choose from {', '.join(every)}"
            )
        work = options.work.expanduser()
        work.mkdir(parents=True, exist_ok=True)
        built = build(options.out, work, asked, options.folders)
    except CodecError as error:
        print(f"prepare_debian_speech: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"prepare_debian_speech: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    for line in built.missing:
        print(f"prepare_debian_speech: skipped package {line}", file=sys.stderr)
    print((options.out / "SOURCES.md").read_text(encoding="utf-8"), end="")
    return 0
