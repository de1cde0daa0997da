"""Code many recordings of any length at once: python examples/batch_encode.py FILE...

What comes of each is what it has alone. For whole corpora there is `bittern tokenize`.
"""

import sys
from pathlib import Path

import soundfile
import torch
from torch.nn.utils.rnn import pad_sequence

import bittern

EXAMPLE = Path(__file__).with_name("speech.flac")


def main(files: list[Path]) -> None:
    codec = bittern.load("speech-16khz")
    wavs = [torch.from_numpy(soundfile.read(file, dtype="float32")[0]) for file in files]
    lengths = [len(wav) for wav in wavs]  # mono, at codec.sample_rate
    batch = pad_sequence(wavs, batch_first=True)[:, None]  # [B, 1, T]
    codes = codec.encode(batch, bitrate_kbps=3.0, lengths=lengths)  # [B, k, F]
    back = codec.decode(codes, lengths=lengths)  # [B, 1, T]
    for file, length, own, wav in zip(files, lengths, codes, back, strict=True):
        frames = codec.config.frame_count(length)
        print(
            f"{file}: {length} samples, codes {list(own[:, :frames].shape)}, back {list(wav.shape)}"
        )
    alone = codec.encode(batch[:1, :, : lengths[0]], bitrate_kbps=3.0)[0]
    assert torch.equal(codes[0, :, : alone.shape[-1]], alone)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or [EXAMPLE])
