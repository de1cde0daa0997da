"""EnCodec 24 kHz as a baseline, through its own package, where its weights are at hand already.

Nothing is downloaded: the weights are looked for where `torch.hub` puts them.
"""

import functools
import hashlib
import importlib.util
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bittern.errors import ConfigError
from bittern.evaluation.library import Decoded, LibraryFamily, Samples

if TYPE_CHECKING:
    from encodec.model import EncodecModel

RATES = ("1.5", "3", "6", "12", "24")  # kbit/s, the model's own
WEIGHTS = "encodec_24khz-d7cc33bc.th"


def family(rates: Sequence[str] | None) -> LibraryFamily:
    """EnCodec at the rates given, or at all that it has.

    Raises:
        ConfigError: a rate that it has not.
    """
    for rate in rates or ():
        if rate not in RATES:
            raise ConfigError(f"baseline encodec has no {rate} kbit/s; give {', '.join(RATES)}")
    name = "EnCodec 24 kHz"
    version, missing = "", None
    if importlib.util.find_spec("encodec") is None:
        missing = f"{name}: not installed; pip install encodec"
    elif not _weights().is_file():
        missing = f"{name}: no weights; put {WEIGHTS} into {_weights().parent}"
    else:
        version = f"encodec {hashlib.sha256(_weights().read_bytes()).hexdigest()[:16]}"
    return LibraryFamily(name, tuple(rates or RATES), version, _work, 24_000, missing)


@torch.inference_mode()
def _work(samples: Samples, sample_rate: int, rate: str) -> Decoded:
    """Its codes packed as its package packs them, without its language model."""
    model = _model(_weights())
    stages = round(float(rate) * 1000 / (model.bits_per_codebook * model.frame_rate))
    codes = _codes(_weights(), samples.tobytes())[:, :stages]
    decoded = model.decode([(codes, None)])[0, 0].numpy()
    header, payload = _file_bytes(codes[0], len(samples), model.bits_per_codebook)
    return Decoded(decoded, sample_rate, payload, header + payload)


@functools.lru_cache(maxsize=1)
def _codes(weights: Path, samples: bytes) -> torch.Tensor:
    """All codes [1, K, F] of a clip; a lower rate has the first codebooks of them."""
    model = _model(weights)
    model.set_target_bandwidth(float(RATES[-1]))
    wav = torch.from_numpy(np.frombuffer(samples, np.float32).copy())
    ((codes, _),) = model.encode(wav[None, None])
    return codes


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
def _model(path: Path) -> "EncodecModel":
    from encodec.model import EncodecModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses torch's older weight norm
        model = EncodecModel.encodec_model_24khz(pretrained=False)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()
