"""`decompress --start --duration --recover` as people type it."""

import io
import sys
from pathlib import Path

import pytest
import soundfile as sf
from synthetic import make_sound

from bittern.cli import main


@pytest.fixture
def damaged(tmp_path, monkeypatch, tiny_codec) -> bytes:
    """A file of 4 s in chunks of 0.64 s, the third damaged; `a.btn` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    sf.write("a.wav", make_sound(64_000).T, 16_000)
    tiny_codec.compress_file("a.wav", "a.btn", chunk_seconds=0.64)
    data = bytearray(Path("a.btn").read_bytes())
    data[len(data) * 2 // 5] ^= 0x10
    Path("a.btn").write_bytes(data)
    return bytes(data)


def test_recovering_names_what_is_lost(damaged, tiny_checkpoint, capsys):
    model = ["--model", str(tiny_checkpoint), "--device", "cpu"]
    assert main(["decompress", "a.btn", "b.wav", *model]) == 4
    assert not Path("b.wav").exists()
    capsys.readouterr()
    assert main(["decompress", "a.btn", "b.wav", "--recover", *model]) == 0
    assert sf.info("b.wav").frames == 64_000
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "bittern: a.btn: lost 1.28-1.92 s (chunk 3), concealed"


def test_a_pipe_is_recovered_too(damaged, tiny_checkpoint, monkeypatch):
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(damaged)))
    model = ["--model", str(tiny_checkpoint), "--device", "cpu"]
    assert main(["decompress", "-", "c.wav", "--recover", "-q", *model]) == 0
    main(["decompress", "a.btn", "b.wav", "--recover", "-q", *model])
    assert Path("c.wav").read_bytes() == Path("b.wav").read_bytes()


def test_a_span_of_a_damaged_file(damaged, tiny_checkpoint, capsys):
    model = ["--model", str(tiny_checkpoint), "--device", "cpu"]
    main(["decompress", "a.btn", "b.wav", "--recover", *model])
    capsys.readouterr()
    span = ["--start", "0.25", "--duration", "0.5"]
    assert main(["decompress", "a.btn", "c.wav", *span, *model]) == 0
    assert "0.50 s" in capsys.readouterr().err
    whole, part = sf.read("b.wav")[0], sf.read("c.wav")[0]
    assert (part == whole[4_000:12_000]).all()
    assert main(["decompress", "a.btn", "d.wav", "--recover", *span, *model]) == 1
    assert "recover the whole file" in capsys.readouterr().err
