"""Speech to score, and one small evaluation that many tests look at."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import soxr

from bittern.evaluation import arguments, run

RATE = 16_000
EXAMPLE = Path(__file__).parents[2] / "examples" / "speech.flac"


def excerpt(start: float, seconds: float) -> np.ndarray:
    """Real speech, float32 [T] at 16 kHz."""
    return sf.read(EXAMPLE, dtype="float32")[0][int(start * RATE) :][: int(seconds * RATE)]


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Four seconds at 16 kHz, [T]."""
    return excerpt(0.0, 4.0)


@pytest.fixture(scope="session")
def speech_file(speech: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little more than a second, to make nasty sounds of."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    sf.write(path, speech[: round(1.2 * RATE)], RATE)
    return path


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of 2 s, one at 44.1 kHz in stereo, and everything that cannot be evaluated."""
    folder = tmp_path_factory.mktemp("clips")
    sf.write(folder / "one.wav", excerpt(0.0, 2.0), RATE)
    wide = np.repeat(soxr.resample(excerpt(2.0, 2.0), RATE, 44_100)[:, None], 2, axis=1)
    (folder / "below").mkdir()
    sf.write(folder / "below" / "stereo & <b>44100.flac", wide, 44_100)
    sf.write(folder / "short.wav", excerpt(1.0, 0.1), RATE)
    sf.write(folder / "silence.wav", np.zeros(RATE), RATE)
    sf.write(folder / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, "FLOAT")
    (folder / "broken.wav").write_bytes(b"RIFF\x24\x00\x00\x00WAVE nothing more")
    (folder / "notes.txt").write_text("no audio")
    return folder


@dataclass(frozen=True)
class Evaluated:
    out: Path
    exit_code: int
    said: str


def run_evaluate(*given: object) -> int:
    """Run `bittern evaluate` in this process."""
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser)
    return run.run(parser.parse_args([str(argument) for argument in given]))


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., int]:
    return run_evaluate


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory,
    clip_folder: Path,
    tiny_checkpoint: Path,
    cache_folder: Path,
) -> Evaluated:
    """The clips through a tiny model and an external command that cuts to 8 bits."""
    out = tmp_path_factory.mktemp("report")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_to_stderr", said.append)
        exit_code = run_evaluate(
            clip_folder,
            "--model",
            tiny_checkpoint,
            "--stages",
            "2,4,8",
            "--out",
            out,
            "--cache",
            cache_folder,
            "--jobs",
            "1",
            "--baseline",
            EIGHT_BITS,
        )
    return Evaluated(out, exit_code, "\n".join(said))


EIGHT_BITS = (
    "8 bits: python3 -c \"import sys; d = open(sys.argv[1], 'rb').read(); "
    "open(sys.argv[2], 'wb').write(d[45::2])\" {in} {code} "
    "&& python3 -c \"import sys, wave; d = open(sys.argv[1], 'rb').read(); "
    "w = wave.open(sys.argv[2], 'wb'); w.setparams((1, 2, 16000, 0, 'NONE', '')); "
    "w.writeframes(b''.join(bytes((0, b)) for b in d)); w.close()\" {code} {out}"
)
