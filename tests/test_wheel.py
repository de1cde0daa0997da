"""What people install works: wheel and source archive, each in a clean environment."""

import os
import subprocess
import sysconfig
import tarfile
import venv
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import bittern

ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "examples" / "speech.flac"

pytestmark = pytest.mark.slow  # fetches the build tool


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command that knows nothing of this checkout."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, made by the build backend as publishing makes them."""
    base = tmp_path_factory.mktemp("built")
    venv.create(base / "tools", with_pip=True)
    python = base / "tools" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "hatchling", cwd=base)
    run(python, "-m", "hatchling", "build", "-d", base / "dist", cwd=ROOT)
    return base / "dist"


@pytest.fixture(scope="module")
def expected() -> tuple[bytes, np.ndarray]:
    """What this checkout makes of the example: the file, and what comes back."""
    codec = bittern.load("speech-16khz", device="cpu")
    wav, rate = sf.read(SPEECH, dtype="float32", frames=48_000)
    data = codec.compress(wav, rate, bitrate_kbps=3.0)
    return data, codec.decompress(data).wav.numpy()


def install(archive: Path, base: Path) -> Path:
    """The interpreter of a clean environment with nothing but an archive, and what it depends on."""
    venv.create(base / "clean", with_pip=True)
    python = base / "clean" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", archive, cwd=base)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=base)
    dependencies = sysconfig.get_path("purelib")  # torch and others, after what is installed
    (Path(site.strip()) / "dependencies.pth").write_text(dependencies + "\n")
    home = run(python, "-c", "import bittern; print(bittern.__file__)", cwd=base)
    assert home.startswith(str(base))
    return python


def test_the_source_archive_has_its_tests_and_they_pass(built, tmp_path):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (root,) = tmp_path.glob("bittern-*")
    for name in ("CITATION.cff", "Makefile", "examples/speech.flac", "src/bittern/py.typed"):
        assert (root / name).exists(), name
    python = install(archive, tmp_path)
    part = (
        *(
            "tests/test_bitstream.py",
            "tests/test_codec.py",
            "tests/test_config.py",
            "tests/test_size.py",
        ),
        *("tests/test_readme.py", "tests/test_package.py", "tests/training/test_configs.py"),
        *("tests/corpus/test_shards.py", "tests/corpus/test_sources.py"),
    )
    said = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *part, cwd=root)
    assert " passed" in said
    assert "failed" not in said


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_an_installed_package_makes_a_round_trip(kind, built, expected, tmp_path):
    (archive,) = built.glob(kind)
    python = install(archive, tmp_path)
    command = python.with_name("bittern")

    wav, rate = sf.read(SPEECH, dtype="float32", frames=48_000)
    sf.write(tmp_path / "a.wav", wav, rate)
    device = ("--device", "cpu")
    run(command, "compress", "a.wav", "a.btn", "--bitrate", "3", *device, cwd=tmp_path)
    run(command, "decompress", "a.btn", "b.wav", *device, cwd=tmp_path)
    data, back = expected
    assert (tmp_path / "a.btn").read_bytes() == data
    got, rate = sf.read(tmp_path / "b.wav", dtype="float32")
    assert (rate, got.shape) == (16_000, (48_000,))
    np.testing.assert_allclose(got, back[0], rtol=0, atol=1 / 32768)
    assert "model fingerprint" in run(command, "info", "a.btn", cwd=tmp_path)
    shown = run(command, "train", "data.root=x", "--cfg", "job", cwd=tmp_path)
    assert "codebook_size: 1024" in shown  # its configs are there


def test_the_base_install_compresses_without_torch(built, expected, tmp_path):
    """With the dependencies that the wheel names, and no others: 300 MB, 200 MB of memory."""
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "base", with_pip=True)
    python, command = (tmp_path / "base" / "bin" / name for name in ("python", "bittern"))
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    size = sum(p.lstat().st_size for p in (tmp_path / "base").rglob("*") if p.is_file())
    assert size < 300e6
    assert "None" in run(
        python, "-c", "import importlib.util as u; print(u.find_spec('torch'))", cwd=tmp_path
    )
    wav, rate = sf.read(SPEECH, dtype="float32", frames=48_000)
    sf.write(tmp_path / "a.wav", wav, rate)
    run(command, "compress", "a.wav", "a.btn", "--bitrate", "3", cwd=tmp_path)
    program = (
        "import sys; from bittern.cli import main; code = main(sys.argv[1:]); "
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')); "
        "print(code, peak.split()[1])"  # getrusage also tells of the process that started this one
    )
    told = run(python, "-c", program, "decompress", "a.btn", "b.wav", cwd=tmp_path)
    code, peak_kb = map(int, told.split())
    assert code == 0
    assert peak_kb < 200_000
    got, _ = sf.read(tmp_path / "b.wav", dtype="float32")
    assert (tmp_path / "a.btn").stat().st_size == pytest.approx(len(expected[0]), rel=0.02)
    assert np.abs(got - expected[1][0]).mean() < 1e-3
    for words in (
        ["--engine", "torch", "decompress", "a.btn", "c.wav"],
        ["train"],
        ["evaluate", "x"],
    ):
        argv = [*words[2:], *words[:2]] if words[0] == "--engine" else words
        failed = subprocess.run(
            [command, *argv], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert failed.returncode == 1
        assert "is not installed; pip install 'bittern[" in failed.stderr
        assert len(failed.stderr.splitlines()) == 1
