"""Codecs as commands: each encodes a 16-bit WAV file and decodes its own file again."""

import functools
import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

from bittern.audio import streams as audio
from bittern.errors import AudioError
from bittern.evaluation.clips import Clip, to_int16
from bittern.evaluation.systems import Row, System, not_coded

TIMEOUT_SECONDS = 300  # for one clip
SCRIPTS = {"nolace": Path(__file__).with_name("nolace.cjs")}  # of ours, that commands may name
_CONTAINERS = ("ogg", "mp3", "aac", "mov,mp4,m4a,3gp,3g2,mj2")  # as ffprobe names them
_SURE = 51  # of 100: by more than the file's ending
_BUILTINS = ("cd", "echo", "exit", "export", "set", "test", "true")  # of the shell: no programs


@dataclass(frozen=True)
class Tool:
    """How to run a codec: a shell line with {in}, {code}, {out} and {rate} (kbit/s) or {bps}."""

    label: str
    command: str
    suffix: str = ".bin"  # of the compressed file
    package: str = ""  # Debian's
    rates: tuple[str, ...] = ()  # kbit/s, by default
    sample_rate: int | None = None  # Hz, that it must be given; None for the clip's own
    raw: bool = False  # takes and gives 16-bit samples without a header, mono
    about: str = ""  # a command that prints the versions
    libraries: tuple[str, ...] = ()  # of these

    @property
    def programs(self) -> list[str]:
        """The commands of the line, in order of first use.

        Raises:
            ValueError: a quotation is not closed.
        """
        lexer = shlex.shlex(self.command, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        found: list[str] = []
        begins = True  # whether the next word is a command
        for word in lexer:
            if word in ("&&", "||", "|", ";", "&"):
                begins = True
            elif begins and "=" not in word:  # not a variable's assignment
                found.append(word)
                begins = False
        return list(dict.fromkeys(word for word in found if word not in _BUILTINS))


@dataclass(frozen=True)
class ToolFamily:
    """A codec's command at one or several rates."""

    tool: Tool
    rates: tuple[str, ...]  # kbit/s; empty for a command without {rate}
    version: str  # of the programs, or what else tells runs apart
    missing: str | None = None
    is_model: bool = False

    @classmethod
    def of(cls, tool: Tool, rates: Sequence[str] = ()) -> "ToolFamily":
        """A tool at the rates given, or at its own, if it can run here.

        Raises:
            ValueError: a quotation in its command is not closed.
        """
        missing = _missing(tool)
        version = "" if missing else _version(tool)
        return cls(tool, tuple(rates or tool.rates), version, missing)

    @property
    def name(self) -> str:
        return self.tool.label

    @property
    def systems(self) -> tuple[System, ...]:
        return tuple(
            System(
                self.tool.label,
                f"{rate} kbit/s" if rate else "",
                f"{self.version} | {self.tool.command} | {rate}",
            )
            for rate in self.rates or ("",)
        )

    def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Row]:
        for system, rate in zip(self.systems, self.rates or ("",), strict=True):
            if system not in wanted:
                continue
            with tempfile.TemporaryDirectory(prefix="bittern-") as folder:
                try:
                    yield _run(self.tool, rate, clip, system, Path(folder))
                except (AudioError, OSError) as error:
                    yield not_coded(clip, system, str(error).replace(folder, "").strip())


def payload_bytes(path: Path) -> int:
    """Bytes of a compressed file that carry audio: the packets in its container, by ffprobe.

    A bitrate that counts page headers and comment fields says more about the file format than about
    the codec. A file in none of these containers counts whole.
    """
    probe = (
        "ffprobe -loglevel quiet -of json -show_entries format=format_name,probe_score:packet=size"
    )
    done = subprocess.run([*probe.split(), path], capture_output=True, check=False)
    found = json.loads(done.stdout or "{}")
    about = found.get("format", {})
    if about.get("format_name") not in _CONTAINERS or about["probe_score"] < _SURE:
        return path.stat().st_size
    return sum(int(packet["size"]) for packet in found["packets"])


def _missing(tool: Tool) -> str | None:
    """What to say where it cannot run; None where it can."""
    needed = tool.programs if tool.raw else [*tool.programs, "ffprobe"]  # it counts the bytes
    missing = [program for program in needed if shutil.which(program) is None]
    if missing:
        packages = [tool.package] if tool.package else []
        if "ffprobe" in missing and "ffmpeg" not in packages:
            packages.append("ffmpeg")
        advice = f"; install Debian's {' and '.join(packages)}" if packages else ""
        return f"{tool.label}: {' and '.join(missing)} not found on the PATH{advice}"
    done = _asked(tool.about)
    if done.returncode:
        return f"{tool.label}: {(done.stderr.strip().splitlines() or [tool.about])[-1]}"
    return None


def _version(tool: Tool) -> str:
    """What runs: as the programs say, or as Debian names their package."""
    said = _asked(tool.about).stdout
    found = []
    for library in tool.libraries:
        match = re.search(rf"{library}\b.*?(\d+\.[\w.+~-]*)", said, re.IGNORECASE)
        found += [f"{library} {match[1]}"] if match else []
    return ", ".join(found) or _debian_version(tool.package) or " ".join(tool.programs)


@functools.cache
def _asked(command: str) -> subprocess.CompletedProcess[str]:
    line = _filled(command, SCRIPTS)
    return subprocess.run(line, shell=True, capture_output=True, text=True, check=False)


def _debian_version(package: str) -> str:
    if not package or shutil.which("dpkg-query") is None:
        return package
    command = ["dpkg-query", "-W", "-f", "${Package} ${Version}", package]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or package


def _run(tool: Tool, rate: str, clip: Clip, system: System, folder: Path) -> Row:
    wanted_rate = tool.sample_rate or clip.sample_rate
    ending = ".raw" if tool.raw else ".wav"
    source, out = folder / f"in{ending}", folder / f"out{ending}"
    code = folder / f"code{tool.suffix}"
    samples = to_int16(soxr.resample(clip.samples, clip.sample_rate, wanted_rate))
    if tool.raw:
        source.write_bytes(samples.tobytes())
    else:
        sf.write(source, samples, wanted_rate, "PCM_16")
    _shell(
        tool.command,
        {"in": source, "code": code, "out": out},
        rate=rate,
        bps=f"{float(rate) * 1000:.0f}" if rate else "",
        sample_rate=str(wanted_rate),
    )
    for path in (code, out):
        if not path.exists() or path.stat().st_size == 0:
            raise AudioError(f"no {path.name} was written")
    if tool.raw:
        decoded = np.fromfile(out, "<i2").astype(np.float32) / 32768
        decoded_rate = wanted_rate
    else:
        channels, decoded_rate = audio.read(out, checked=False)
        decoded = channels.mean(axis=0)
    return Row(
        clip.name,
        system,
        payload_bytes=code.stat().st_size if tool.raw else payload_bytes(code),
        file_bytes=code.stat().st_size,
        samples=soxr.resample(decoded, decoded_rate, clip.sample_rate).astype(np.float32),
    )


def _shell(command: str, files: dict[str, Path], **values: str) -> None:
    """Run a line with its fields filled in, each quoted; raise `AudioError` if it fails."""
    line = _filled(command, SCRIPTS | files | values)
    try:
        done = subprocess.run(
            line,
            shell=True,  # a line may join commands with && or |; it is the user's own
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AudioError(f"took more than {TIMEOUT_SECONDS} s: {line}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing said"]
        raise AudioError(f"exit code {done.returncode}: {said[-1]}")


def _filled(command: str, values: Mapping[str, str | Path]) -> str:
    for key, value in values.items():
        command = command.replace("{" + key + "}", shlex.quote(str(value)))
    return command
