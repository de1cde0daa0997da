"""Files are coded and decoded without torch, by any engine that keeps the protocol."""

import subprocess
import sys
from pathlib import Path

PROGRAM = '''
import io, sys
from dataclasses import replace
sys.modules["torch"] = None  # an import of it now fails

from pathlib import Path

import numpy as np

from bittern import pipeline
from bittern.audio.streams import array_stream, gather
from bittern.checkpoint import Checkpoint
from bittern.model.allocation import Searched
from bittern.config import (
    CodecConfig, CodingOptions, LinearPath, NetworkConfig, NetworkInput, QuantizerConfig
)

HOP, ENTRIES = 4, 256
config = CodecConfig(
    name="means", hop_length=HOP, latent_dim=1, linear_path=LinearPath.NONE,
    encoder=NetworkConfig(
        input=NetworkInput.SAMPLES, stem_stride=HOP, channels=(1,), residual_units=(0,)
    ),
    quantizer=QuantizerConfig(stages=1, codebook_size=ENTRIES),
)


class Means:
    """Codes each frame by its mean in 256 steps, and repeats that; what is lost is 0.5."""

    config, decoder_field, gains = config, 0, np.ones(1)

    def encoder(self, streams, stages, search_width):
        return Means.Encoder(streams)

    def searcher(self, streams, stages, search_width):
        return Means.Searcher(streams)

    def decoder(self, streams):
        return Means.Decoder(streams)

    class Encoder:
        def __init__(self, streams):
            self.rest = np.zeros((streams, 1, 0), np.float32)

        def push(self, samples):
            wav = np.concatenate([self.rest, samples], axis=-1)
            whole = wav.shape[-1] // HOP * HOP
            wav, self.rest = wav[..., :whole], wav[..., whole:]
            means = wav.reshape(len(wav), 1, -1, HOP).mean(axis=-1)
            return np.clip(np.rint((means + 1) * 127.5), 0, ENTRIES - 1).astype(np.int64)

        def flush(self):
            return self.push(np.zeros((len(self.rest), 1, -self.rest.shape[-1] % HOP), np.float32))

    class Searcher(Encoder):
        def push(self, samples):
            codes = Means.Encoder.push(self, samples)
            return Searched(codes, np.ones(codes.shape), np.zeros(codes[:, 0].shape))

    class Decoder:
        def __init__(self, streams):
            self.streams = streams

        def push(self, codes):
            return np.repeat(codes / 127.5 - 1, HOP, axis=-1).astype(np.float32)

        def conceal(self, frames, *, silent=False):
            return np.full((self.streams, 1, frames * HOP), 0.0 if silent else 0.5, np.float32)

        def flush(self):
            return np.zeros((self.streams, 1, 0), np.float32)


checkpoint = Checkpoint(config=config, fingerprint=b"12345678", folder=Path("nowhere"))
wav = np.random.default_rng(0).uniform(-1, 1, (2, 1001)).astype(np.float32)
file = io.BytesIO()
options = CodingOptions(chunk_seconds=64 * HOP / config.sample_rate)
receipt = pipeline.compress(Means(), checkpoint, array_stream(wav, 16_000), file, options)
assert receipt.file_bytes == len(file.getvalue())


def decode(data, **options):
    stream = pipeline.decompress(Means(), checkpoint, io.BytesIO(data), "x", **options)
    return gather(stream.blocks, stream.channels)


padded = np.pad(wav, ((0, 0), (0, 3))).reshape(2, -1, HOP).mean(axis=-1)
expected = np.repeat(padded, HOP, axis=-1)[:, :1001]
got = decode(file.getvalue())
assert got.shape == wav.shape
assert np.abs(got - expected).max() <= 0.5 / 127.5 + 1e-6
part = decode(file.getvalue(), start=300 / 16_000, duration=500 / 16_000)
assert np.array_equal(part, got[:, 300:800])
assert file.getvalue()[4] == 2
constant = io.BytesIO()
same = replace(options, stages=1)
pipeline.compress(Means(), checkpoint, array_stream(wav, 16_000), constant, same)
assert constant.getvalue()[4] == 1
assert np.array_equal(decode(constant.getvalue()), got)
mono = io.BytesIO()
pipeline.compress(Means(), checkpoint, array_stream(wav[:1], 16_000), mono, options)
damaged = bytearray(mono.getvalue())
damaged[-100] ^= 255  # in the last chunk but one or the last
back = decode(bytes(damaged), recover=True)
lost = back[0] == 0.5
assert 0 < lost.sum() <= 64 * HOP
assert np.array_equal(back[0][~lost], got[0][~lost])
print("done")
'''


def test_a_file_is_coded_and_decoded_by_an_engine_without_torch(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
