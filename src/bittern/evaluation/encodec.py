"""EnCodec 24 kHz as a baseline, through its own package, where its weights are at hand already.

Nothing is downloaded: the weights are looked for where `torch.hub` puts them.
"""

import functools
import hashlib
import importlib.util
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch

from bittern.errors import ConfigError
from bittern.evaluation.clips import Clip
from bittern.evaluation.systems import Row, System

if TYPE_CHECKING:
    from encodec.model import EncodecModel

RATES = ("1.5", "3", "6", "12", "24")  # kbit/s, the model's own
WEIGHTS = "encodec_24khz-d7cc33bc.th"


@dataclass(frozen=True)
class EncodecFamily:
    """The published 24 kHz model, its codes packed as its package packs them, without its LM."""

    rates: tuple[str, ...] = RATES
    name: str = "EnCodec 24 kHz"
    is_model: bool = False

    @property
    def missing(self) -> str | None:
        """What to say when it cannot run."""
        if importlib.util.find_spec("encodec") is None:
            return f"{self.name}: not installed; pip install encodec"
        if not _weights().is_file():
            return f"{self.name}: no weights; put {WEIGHTS} into {_weights().parent}"
        return None

    @property
    def systems(self) -> tuple[System, ...]:
        digest = _digest(_weights())
        return tuple(
            System(self.name, f"{rate} kbit/s", f"encodec {digest} {rate}") for rate in self.rates
        )

    def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Row]:
        """Encode once at the highest rate; a lower one has the first codebooks of it."""
        model = _model(_weights())
        samples = soxr.resample(clip.samples, clip.sample_rate, model.sample_rate)
        model.set_target_bandwidth(max(float(rate) for rate in self.rates))
        with torch.inference_mode():
            ((codes, _),) = model.encode(torch.from_numpy(samples)[None, None])  # [1, K, F]
            for system, rate in zip(self.systems, self.rates, strict=True):
                if system not in wanted:
                    continue
                bits = model.bits_per_codebook * model.frame_rate
                part = codes[:, : round(float(rate) * 1000 / bits)]
                decoded = model.decode([(part, None)])[0, 0].numpy()
                header, payload = _file_bytes(part[0], len(samples), model.bits_per_codebook)
                resampled = soxr.resample(decoded, model.sample_rate, clip.sample_rate)
                yield Row(
                    clip.name,
                    system,
                    payload_bytes=payload,
                    file_bytes=header + payload,
                    samples=resampled.astype(np.float32),
                )


def family(rates: Sequence[str] | None) -> EncodecFamily:
    """EnCodec at the rates given, or at all that it has.

    Raises:
        ConfigError: a rate that it has not.
    """
    for rate in rates or ():
        if rate not in RATES:
            raise ConfigError(
                f"baseline encodec has no {rate} kbit/s; give some of {', '.join(RATES)}"
            )
    return EncodecFamily(tuple(rates or RATES))


def _file_bytes(codes: torch.Tensor, length: int, bits: int) -> tuple[int, int]:
    """Bytes of header and of packed codes in an .ecdc file."""
    from encodec import binary

    header, payload = io.BytesIO(), io.BytesIO()
    facts = {"m": "encodec_24khz", "al": length, "nc": len(codes), "lm": False}
    binary.write_ecdc_header(header, facts)
    packer = binary.BitPacker(bits, payload)
    for step in codes.T.tolist():
        for code in step:
            packer.push(code)
    packer.flush()
    return len(header.getvalue()), len(payload.getvalue())


def _weights() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


@functools.cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@functools.cache
def _model(path: Path) -> "EncodecModel":
    from encodec.model import EncodecModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses torch's older weight norm
        model = EncodecModel.encodec_model_24khz(pretrained=False)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()
