"""What a codec is, as plain frozen dataclasses: validated, and to and from JSON.

`CodecConfig` describes a codec completely; `config.json` in a checkpoint folder and the files of
`configs/model/` map onto it one to one. No torch and no Hydra here: reading a checkpoint's config
costs nothing. How a codec is trained is in `training/settings.py`.
"""

import json
import math
import reprlib
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any

from bittern.errors import ConfigError

DEFAULT_MODEL = "speech-16khz"  # of those that come with Bittern
SEARCH_WIDTH, WIDEST_SEARCH = 4, 512  # candidates of the encoder's search, see `search.py`
LOUDEST = 16.0  # of samples that full scale may be 1 for: 24 dB above it
DEFAULT_QUALITY = 12.0  # of `compress`: about 5.4 kbit/s of speech with the shipped codec
_LARGEST = 1e12  # of any number in a configuration
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 60


class LinearPath(StrEnum):
    """The fixed linear analysis and synthesis beside the networks."""

    NONE = "none"
    MDCT = "mdct"  # lapped, sine window of two hops; one hop of delay


class NetworkInput(StrEnum):
    """What the encoder sees and the decoder makes."""

    SAMPLES = "samples"
    SPECTRUM = "spectrum"  # MDCT coefficients, one frame a hop


class Norm(StrEnum):
    NONE = "none"
    WEIGHT = "weight_norm"
    TIME_GROUP = "time_group_norm"  # over channels and time (EnCodec 48 kHz); cannot stream


class Padding(StrEnum):
    CONSTANT = "constant"
    REFLECT = "reflect"  # released EnCodec weights need it; the first frames then see ahead


class Activation(StrEnum):
    ELU = "elu"
    SILU = "silu"  # ten times as fast as ELU on CPUs, where PyTorch does not vectorise the latter


class Shortcut(StrEnum):
    IDENTITY = "identity"
    CONV = "conv"  # a kernel-1 convolution on the skip connection, as in EnCodec's released weights


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """An encoder; the decoder is the same read in mirror image.

    A stem convolution leads to `channels[0]`; each further level strides by its ratio. After the
    stem and after each stride stand `residual_units[level]` units.
    """

    input: NetworkInput = NetworkInput.SPECTRUM
    stem_stride: int = 1  # samples the stem takes at once; its kernel is then 2 * stem_stride
    stem_kernel: int = 3  # kernel of the stem when it does not stride
    ratios: tuple[int, ...] = ()  # stride of each level after the stem, in encoder order
    channels: tuple[int, ...] = (384,)  # width of each level, one more than ratios
    residual_units: tuple[int, ...] = (5,)  # units at each level
    residual_kernel: int = 3
    dilations: tuple[int, ...] = (1, 2, 4, 8)  # of the units at a level, repeated as needed
    compress: int = 1  # a unit's inner width is its level's width / compress
    shortcut: Shortcut = Shortcut.IDENTITY
    lstm_layers: int = 0  # at the bottleneck
    latent_kernel: int = 3  # kernel of the convolution between bottleneck and latent
    activation: Activation = Activation.SILU
    norm: Norm = Norm.NONE
    padding: Padding = Padding.CONSTANT
    causal: bool = True
    limit: float | None = None  # what the stem and every unit give stays within -limit..limit

    def __post_init__(self) -> None:
        _require(
            self.limit is None or self.limit > 0, f"limit is {self.limit}; give over 0, or null"
        )
        for name in ("ratios", "channels", "residual_units", "dilations"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        levels = len(self.ratios) + 1
        for name in ("channels", "residual_units"):
            got = getattr(self, name)
            _require(
                len(got) == levels,
                f"{name} has {len(got)} values for {len(self.ratios)} ratios; give {levels}, "
                "one for the stem and one for each ratio",
            )
        for name in ("stem_stride", "stem_kernel", "residual_kernel", "compress", "latent_kernel"):
            value = getattr(self, name)
            _require(1 <= value <= 65536, f"{name} is {value}; give 1 to 65536")
        for name in ("ratios", "channels", "dilations"):
            _require(
                all(1 <= value <= 65536 for value in getattr(self, name)),
                f"{name} is {list(getattr(self, name))}; every value must be 1 to 65536",
            )
        _require(bool(self.dilations), "dilations is empty; give at least one, such as [1]")
        _require(
            self.residual_kernel * max(self.dilations) <= 65536,
            f"dilations is {list(self.dilations)}; units that look so far back are not built",
        )
        _require(
            all(0 <= units <= 256 for units in self.residual_units) and levels <= 32,
            f"residual_units is {list(self.residual_units)}; give up to 32 values of 0 to 256",
        )
        _require(
            all(width % self.compress == 0 for width in self.channels),
            f"compress is {self.compress}; it must divide every width of {list(self.channels)}",
        )
        _require(0 <= self.lstm_layers <= 2, f"lstm_layers is {self.lstm_layers}; give 0, 1 or 2")
        if self.input is NetworkInput.SPECTRUM:
            _require(
                not self.ratios and self.stem_stride == 1,
                "input is spectrum, which is at the frame rate already: "
                "set ratios to [] and stem_stride to 1",
            )
        _require(
            not (self.norm is Norm.TIME_GROUP and self.causal),
            "norm is time_group_norm, which looks at the whole clip: set causal to false",
        )

    def least_weights(self, latent_dim: int) -> int:
        """Numbers that its weights have at least, from the widths alone."""
        levels = zip(self.channels, self.residual_units, strict=True)
        units = sum(
            count * (width * width // self.compress * (self.residual_kernel + 1) + 2)
            for width, count in levels
        )
        strides = sum(
            2 * ratio * self.channels[level] * self.channels[level + 1]
            for level, ratio in enumerate(self.ratios)
        )
        wide = self.channels[-1]
        ends = wide * latent_dim * self.latent_kernel + self.channels[0]
        return units + strides + ends + 8 * self.lstm_layers * wide * wide

    @property
    def streamable(self) -> bool:
        """Whether no step depends on what comes after it."""
        return self.causal and self.padding is Padding.CONSTANT

    @property
    def stride(self) -> int:
        """Input steps to one frame of latent."""
        return self.stem_stride * math.prod(self.ratios)


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """A residual vector quantizer: K stages of N entries each."""

    stages: int = 32
    codebook_size: int = 1024

    def __post_init__(self) -> None:
        _require(1 <= self.stages <= 255, f"stages is {self.stages}; give 1 to 255")
        size = self.codebook_size
        _require(
            2 <= size <= 65536 and size & (size - 1) == 0,
            f"codebook_size is {size}; give a power of two from 2 to 65536",
        )

    @property
    def bits_per_code(self) -> int:
        return self.codebook_size.bit_length() - 1


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Everything needed to build a codec's networks and to count its frames and bits."""

    name: str = "speech-16khz"
    sample_rate: int = 16_000  # Hz
    channels: int = 1
    hop_length: int = 320  # samples to one frame of codes
    highpass_hz: float = 0.0  # rumble below, and any offset, are taken out first; 0: nothing is
    latent_dim: int = 128
    linear_path: LinearPath = LinearPath.MDCT
    path_weighting: float = 0.5  # component i is scaled by std_i ** -path_weighting
    path_power: float = 1.0  # ... and each component becomes sign(x) |x| ** path_power
    envelope_bands: int = 0  # levels of so many bands lead the latent, and are divided out; 0: none
    envelope_weight: float = 1.0  # of a level's natural logarithm in the latent
    envelope_flattening: float = 0.3  # 0: a frame's level is divided out; 1: that of each band
    envelope_floor: float = 1e-3  # least level, of coefficients that are about 1 in typical speech
    envelope_range_db: float = 200.0  # levels of bands further below the loudest count as so far
    counts_stages: bool = False  # the decoder is told how many stages each frame has
    segment_samples: int = 0  # coded apart, each at its own level (EnCodec 48 kHz); 0: no segments
    encoder: NetworkConfig = field(default_factory=NetworkConfig)
    decoder: NetworkConfig | None = None  # None: the encoder's mirror image
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        _require(
            bool(self.name) and all(c.isalnum() or c in "-_." for c in self.name),
            f"name is {self.name!r}; use letters, digits, '-', '_' and '.'",
        )
        _require(
            1000 <= self.sample_rate <= 192_000,
            f"sample_rate is {self.sample_rate}; give 1000 to 192000 Hz",
        )
        _require(1 <= self.channels <= 8, f"channels is {self.channels}; give 1 to 8")
        _require(1 <= self.hop_length <= 65535, f"hop_length is {self.hop_length}; give 1 to 65535")
        _require(
            self.hop_length <= 4096 or not (self.lapped or self.highpass_hz),
            f"hop_length is {self.hop_length}; with an MDCT or a high-pass give up to 4096",
        )
        dim = self.latent_dim
        _require(1 <= dim <= 65536, f"latent_dim is {dim}; give 1 to 65536")
        _require(
            0.0 <= self.path_weighting <= 1.0,
            f"path_weighting is {self.path_weighting}; give 0 to 1",
        )
        _require(0.2 <= self.path_power <= 1.0, f"path_power is {self.path_power}; give 0.2 to 1")
        self._check_envelope()
        _require(
            self.highpass_hz == 0 or 1 <= self.highpass_hz < self.sample_rate / 8,
            f"highpass_hz is {self.highpass_hz}; give 0, or 1 to {self.sample_rate / 8:g}",
        )
        for side, network in (("encoder", self.encoder), ("decoder", self.decoder_network)):
            if network.input is NetworkInput.SAMPLES:
                _require(
                    network.stride == self.hop_length,
                    f"{side} strides by {network.stride} samples (stem_stride times ratios), "
                    f"but hop_length is {self.hop_length}; make them equal",
                )
        _require(
            self.segment_samples >= 0
            and not (self.segment_samples and (self.lapped or self.streamable)),
            f"segment_samples is {self.segment_samples}; give 0, or with networks on samples that look "
            "ahead 1 or more",
        )
        if self.linear_path is not LinearPath.NONE:
            _require(
                self.path_components <= self.hop_length * self.channels,
                f"latent_dim is {self.latent_dim}, but the {self.linear_path} path has only "
                f"{self.hop_length * self.channels} components a frame; give that or less",
            )
            _require(
                self.latent_dim % self.channels == 0,
                f"latent_dim is {self.latent_dim}; with a linear path it must be a multiple of "
                f"the {self.channels} channels",
            )

    def _check_envelope(self) -> None:
        if self.envelope_bands == 0:
            return
        _require(
            1 <= self.envelope_bands < self.latent_dim,
            f"envelope_bands is {self.envelope_bands}; give 0 up to below latent_dim, "
            f"{self.latent_dim}",
        )
        _require(
            0 < self.envelope_weight <= 1e6,
            f"envelope_weight is {self.envelope_weight}; give over 0",
        )
        _require(
            0 <= self.envelope_flattening <= 1,
            f"envelope_flattening is {self.envelope_flattening}; give 0 to 1",
        )
        _require(
            1e-6 <= self.envelope_floor <= 1,
            f"envelope_floor is {self.envelope_floor}; give 1e-6 to 1",
        )
        _require(
            self.envelope_range_db > 0,
            f"envelope_range_db is {self.envelope_range_db}; give over 0",
        )
        spectral = {self.encoder.input, self.decoder_network.input} == {NetworkInput.SPECTRUM}
        _require(
            spectral and self.linear_path is LinearPath.MDCT and self.channels == 1,
            "envelope_bands needs networks with input: spectrum, linear_path: mdct and 1 channel",
        )

    @property
    def path_components(self) -> int:
        """Coefficients that the linear path takes straight to the latent."""
        return self.latent_dim - self.envelope_bands

    @property
    def least_weights(self) -> int:
        """Numbers that its weights have at least, told without building anything."""
        codes = self.quantizer.stages * self.quantizer.codebook_size * self.latent_dim
        networks = self.encoder, self.decoder_network
        return codes + sum(network.least_weights(self.latent_dim) for network in networks)

    @property
    def decoder_network(self) -> NetworkConfig:
        return self.encoder if self.decoder is None else self.decoder

    @property
    def lapped(self) -> bool:
        """Whether an MDCT is used, whose frames overlap by one hop."""
        inputs = self.encoder.input, self.decoder_network.input
        return self.linear_path is LinearPath.MDCT or NetworkInput.SPECTRUM in inputs

    @property
    def delay(self) -> int:
        """Samples by which the synthesis lags: one hop with a lapped transform, otherwise 0."""
        return self.hop_length if self.lapped else 0

    @property
    def latency(self) -> int:
        """Algorithmic latency in samples: one frame to fill, and the delay."""
        return self.hop_length + self.delay

    @property
    def streamable(self) -> bool:
        return self.encoder.streamable and self.decoder_network.streamable

    def refuse_segments(self) -> None:
        """Refuse what works on one recording as a whole.

        Raises:
            ConfigError: the model codes in segments.
        """
        _require(
            not self.segment_samples,
            f"{self.name} codes in segments with levels of their own, which only .ecdc files hold: "
            "compress to and decompress from .ecdc",
        )

    @property
    def segment_stride(self) -> int:
        """Samples from one segment to the next, which lap over by 1 %; 0: no segments."""
        return self.segment_samples * 99 // 100

    @property
    def decoder_field(self) -> int | None:
        """Frames of codes before a frame that its samples depend on; None: all, or those after it too.

        A decoder that starts so many frames early, from silence, gives the same samples.
        """
        network = self.decoder_network
        if not self.streamable or network.lstm_layers:
            return None
        field, rate = float(network.latent_kernel - 1), 1  # steps to a frame, at the layer
        for level in reversed(range(len(network.channels))):
            for unit in range(network.residual_units[level]):
                dilation = network.dilations[unit % len(network.dilations)]
                field += (network.residual_kernel - 1) * dilation / rate
            if level:
                field += 1 / rate
                rate *= network.ratios[level - 1]
        field += (1 if network.stem_stride > 1 else network.stem_kernel - 1) / rate
        return math.ceil(field) + int(self.lapped)

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop_length

    @property
    def kbps_per_stage(self) -> float:
        return self.frame_rate * self.quantizer.bits_per_code / 1000

    def frame_count(self, samples: int) -> int:
        """Frames that `samples` samples of audio are coded in: F = ceil(T / hop), + 1 if lapped."""
        return 0 if samples == 0 else -(-samples // self.hop_length) + int(self.lapped)

    def stages_for(self, bitrate_kbps: float, streams: int = 1) -> int:
        """The most stages whose nominal bitrate, of all streams, is not above `bitrate_kbps`.

        Raises:
            ConfigError: not even one stage fits, or all stages together stay below.
        """
        self.check_bitrate(bitrate_kbps, streams)
        return math.floor(bitrate_kbps / (self.kbps_per_stage * streams) + 1e-9)

    def check_bitrate(self, bitrate_kbps: float, streams: int = 1, overhead: float = 0.0) -> None:
        """Refuse a bitrate that no file of frames with 1 to K stages can have, and an overhead.

        Raises:
            ConfigError: it is out of reach.
        """
        each = self.kbps_per_stage * streams
        low = math.ceil(100 * (each + overhead) - 1e-6) / 100
        high = math.floor(100 * (self.quantizer.stages * each + overhead) + 1e-6) / 100
        of = f" for {streams * self.channels} channels" if streams > 1 else ""
        _require(
            low <= bitrate_kbps <= high,
            f"bitrate {bitrate_kbps:g} kbit/s is out of reach of {self.name}; "
            f"give {low:g} to {high:g}{of}",
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "CodecConfig":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: not JSON, an unknown or wrongly typed key, or a value out of range.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"config is not JSON ({error})") from None
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Any, where: str = "config") -> "CodecConfig":
        """Build from plain dictionaries and lists; `where` is what messages call the whole.

        Raises:
            ConfigError: an unknown or wrongly typed key, or a value out of range.
        """
        return build(cls, data, where)


def build(kind: Any, data: Any, where: str) -> Any:
    """Turn plain data (of JSON or YAML) into a dataclass or another `kind`.

    Args:
        kind: a dataclass, a `StrEnum`, int, float, str, bool, or tuple, dict or `| None` of these.
        data: dictionaries, lists and scalars.
        where: what messages call the place of `data`, such as "model.encoder".

    Raises:
        ConfigError: an unknown key, a wrong type, or a value that the dataclass refuses.
    """
    origin = typing.get_origin(kind)
    if origin is types.UnionType:  # the only unions here are `X | None`
        inner = next(arg for arg in typing.get_args(kind) if arg is not types.NoneType)
        return None if data is None else build(inner, data, where)
    if origin is tuple:
        _require(isinstance(data, list), f"{where} is {_shown(data)}; expected a list")
        item = typing.get_args(kind)[0]
        return tuple(build(item, value, f"{where}[{i}]") for i, value in enumerate(data))
    if origin is dict:
        _require(isinstance(data, dict), f"{where} is {_shown(data)}; expected an object")
        item = typing.get_args(kind)[1]
        return {str(key): build(item, value, f"{where}.{key}") for key, value in data.items()}
    if is_dataclass(kind):
        _require(isinstance(data, dict), f"{where} is {_shown(data)}; expected an object")
        hints = typing.get_type_hints(kind)
        known = [f.name for f in fields(kind)]
        for key in data:
            _require(
                key in known, f"{where} has an unknown key {_shown(key)}; known: {', '.join(known)}"
            )
        try:
            return typing.cast(Any, kind)(
                **{key: build(hints[key], value, f"{where}.{key}") for key, value in data.items()}
            )
        except ConfigError as error:
            text = str(error)
            head = where.split(".")[0]
            raise ConfigError(text if text.startswith(head) else f"{where}: {text}") from None
    if issubclass(kind, StrEnum):
        choices = [member.value for member in kind]
        _require(
            data in choices, f"{where} is {_shown(data)}; expected one of {', '.join(choices)}"
        )
        return kind(data)
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        _require(abs(data) < _LARGEST, f"{where} is {_shown(data)}; expected less")
        return float(data)
    if kind is int and isinstance(data, int):
        _require(abs(data) < _LARGEST, f"{where} is {_shown(data)}; expected less")
    _require(
        isinstance(data, kind) and not (kind is int and isinstance(data, bool)),
        f"{where} is {_shown(data)}; expected {kind.__name__}",
    )
    return data


def _shown(data: Any) -> str:
    """A value in a message: of sane length, on one line."""
    return _BRIEF.repr(data)


def whole_number(value: Any, name: str) -> int:
    """A whole number of any type that has one: int, numpy's and torch's, floats such as 44100.0.

    Raises:
        ValueError: it is none.
    """
    number = real_number(value, name)
    if not number.is_integer():
        raise ValueError(f"{name} is {value!r}; expected a whole number")
    return int(number)


def real_number(value: Any, name: str, least: float = -math.inf) -> float:
    """A number of any type that has one, and is finite.

    Raises:
        ValueError: it is none, or below `least`.
    """
    try:
        number = math.nan if isinstance(value, bool | str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not (math.isfinite(number) and number >= least):
        from_on = "" if least == -math.inf else f" from {least:g} on"
        raise ValueError(f"{name} is {value!r}; expected a number{from_on}")
    return number


_NUMBERS = {
    "stages": whole_number,
    "bitrate_kbps": real_number,
    "quality": real_number,
    "search_width": whole_number,
    "chunk_seconds": real_number,
}


@dataclass(frozen=True, kw_only=True)
class CodingOptions:
    """How audio is to be coded: the options of `compress` in Python and on the command line.

    One of stages, bitrate and quality says how many stages frames get; without, it is quality 12.

    Raises:
        ValueError: more than one of them, or what is no number.
        ConfigError: there is no such coder, or `cbr` has nothing to hold constant.
    """

    stages: int | None = None  # the same number for each frame, 1 to K
    bitrate_kbps: float | None = None  # the average of the file, all its bytes and channels counted
    quality: float | None = None  # one trade-off, named by the stages that speech then has
    cbr: bool = False  # the same stages for each frame: as many as nominally fit the bitrate
    search_width: int = SEARCH_WIDTH  # candidates kept from stage to stage; more sound better
    coder: str = "auto"  # "range": by the entropy model, without loss; "raw": not; "auto": if any
    mono: bool = False  # mix channels down; otherwise those beyond the model's are coded apart
    chunk_seconds: float = 6.0  # audio to a chunk, down to one frame

    def __post_init__(self) -> None:
        for name, as_number in _NUMBERS.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_number(getattr(self, name), name))
        asked = ("stages", "bitrate_kbps", "quality")
        given = [name for name in asked if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give {' or '.join(given)}, not both")
        if self.cbr and given not in (["stages"], ["bitrate_kbps"]):
            raise ConfigError("cbr holds a bitrate or a number of stages constant; give either")
        if self.coder not in ("auto", "range", "raw"):
            raise ConfigError(f"coder is {self.coder!r}; give auto, range or raw")

    @property
    def constant(self) -> bool:
        """Whether all frames of a file get the same number of stages."""
        return self.cbr or self.stages is not None

    def count_stages(self, config: CodecConfig, streams: int = 1) -> int:
        """The number of stages, the same for each frame, of a codec and so many streams.

        A bitrate is that of the codes, nominally; without one it is all stages.

        Raises:
            ConfigError: stages or bitrate out of reach.
        """
        most = config.quantizer.stages
        if self.bitrate_kbps is not None:
            return config.stages_for(self.bitrate_kbps, streams)
        if self.stages is None:
            return most
        if not 1 <= self.stages <= most:
            raise ConfigError(f"got {self.stages} stages; {config.name} has 1 to {most}")
        return self.stages

    def mean_stages(self, config: CodecConfig) -> float:
        """The quality, in stages.

        Raises:
            ConfigError: it is out of reach.
        """
        most = config.quantizer.stages
        if self.quality is None:
            return min(DEFAULT_QUALITY, most)
        if not 1 <= self.quality <= most:
            raise ConfigError(
                f"quality is {self.quality:g}; {config.name} has 1 to {most}, which is the number "
                "of stages that frames of speech have on average"
            )
        return self.quality
