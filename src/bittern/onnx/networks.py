"""Encoder and decoder of any codec that streams, as ONNX graphs: the equations of `model/`, once more.

    encoder.onnx  samples [streams, C, F * hop], state.* -> latent [streams, F, D], levels, next.*
    decoder.onnx  codes [streams, k, F], fade [F], state.* -> samples [streams, C, F * hop], next.*

States begin as zeros, and `next.*` of a push are `state.*` of the next one; any number of frames comes
at once. `rows` in the shape of a state are streams * C. `levels` [streams, F] are natural logarithms of
amplitudes, there if the codec has an envelope. A frame whose `fade` is below 1 is lost: the last latent
takes its place, that much softer. To search codes for a latent is not in the graph (`model/search.py`).
Inside, steps come before channels: [streams, steps, channels]. Tests hold these graphs to torch's networks.
"""

import math
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto

from bittern.audio.atomic import write_atomically
from bittern.checkpoint import CONFIG_FILE, WEIGHTS_FILE, Checkpoint
from bittern.config import (
    LOUDEST,
    Activation,
    CodecConfig,
    LinearPath,
    NetworkConfig,
    NetworkInput,
    Shortcut,
)
from bittern.errors import ModelError
from bittern.format.entropy import ENTROPY_FILE
from bittern.onnx.graph import Graph, read_places

# As in model/: path.py, codec_model.py, highpass.py.
PEAK, FLATTEST, FORGOTTEN, LOG_RANGE = 2.0, 256.0, 1e-6, (-9.0, 6.0)


def build(found: Checkpoint, side: str) -> ModelProto:
    """The graph of a checkpoint's "encoder" or "decoder"; its weights are those of the folder.

    Raises:
        ModelError: the codec cannot stream, or its weights are not those of its configuration.
    """
    if not found.config.streamable:
        raise ModelError(f"{found.folder}: looks ahead, and such a codec has no graph; use torch")
    graph = Graph(side, read_places(found.folder / WEIGHTS_FILE))
    try:
        (_encode if side == "encoder" else _decode)(graph, found.config)
    except KeyError as error:
        raise ModelError(f"{found.folder / WEIGHTS_FILE}: lacks {error}") from None
    return graph.model({"fingerprint": found.fingerprint.hex(), "config": found.config.to_json()})


def write(found: Checkpoint, folder: Path) -> None:
    """Write both graphs, and beside them what they refer to, where it is not there already.

    Raises:
        ModelError: see `build`.
    """
    graphs = {side: build(found, side).SerializeToString() for side in ("encoder", "decoder")}
    if not folder.exists() or not folder.samefile(found.folder):
        for name in (CONFIG_FILE, WEIGHTS_FILE, ENTROPY_FILE):
            if (found.folder / name).exists():
                write_atomically(folder / name, (found.folder / name).read_bytes())
    for side, graph in graphs.items():
        write_atomically(folder / f"{side}.onnx", graph)


def _encode(g: Graph, config: CodecConfig) -> None:
    x = g.input("samples", ("streams", config.channels, "samples"))
    x = g.op("Flatten", g.clip(x, -LOUDEST, LOUDEST), axis=2)
    x = g.reshape(x, 0, -1, config.hop_length)  # [streams * channels, F, hop]
    if config.highpass_hz:
        x = _highpass(g, config, x)
    features, path = _analyse(g, config, x)
    latent = _encoder(g, config.encoder, features)
    latent = latent if path is None else g.op("Add", path, latent)
    g.output("latent", latent, ("streams", "frames", config.latent_dim))
    if bands := config.envelope_bands:
        levels = g.times(g.slice(latent, 0, bands, 2), 2 / config.envelope_weight)
        levels = g.times(g.op("ReduceLogSumExp", levels, g.ints(2), keepdims=0), 0.5)
        g.output("levels", levels, ("streams", "frames"))


def _decode(g: Graph, config: CodecConfig) -> None:
    latent, stages = _latent(g, config)
    told = latent
    if config.counts_stages:
        count = g.times(g.clip(stages, 0.5, None), 1 / 8)
        told = g.concat(latent, g.times(g.op("Log", count), 1 / math.log(2)), axis=2)
    decoded = _decoder(g, config.decoder_network, told)
    g.output(
        "samples",
        g.clip(_synthesise(g, config, latent, decoded), -PEAK, PEAK),
        ("streams", config.channels, "samples"),
    )


def _latent(g: Graph, config: CodecConfig) -> tuple[str, str]:
    """Sums of codewords, or what stands for them in lost frames, and stages: [B, F, D], [B, F, 1]."""
    dim, size = config.latent_dim, config.quantizer.codebook_size
    codes = g.input("codes", ("streams", "stages", "frames"), TensorProto.INT64)
    fade = g.reshape(g.input("fade", ("frames",)), -1, 1)
    there = g.op(
        "Cast", g.op("GreaterOrEqual", codes, g.constant(0, np.int64)), to=TensorProto.FLOAT
    )
    numbers = g.op("Range", *(g.constant(n, np.int64) for n in (0, config.quantizer.stages, 1)))
    stage = g.op("Slice", numbers, g.ints(0), g.op("Shape", codes, start=1, end=2))
    first = g.op("Mul", g.reshape(stage, -1, 1), g.constant(size, np.int64))
    place = g.op("Add", g.op("Max", codes, g.constant(0, np.int64)), first)
    table = g.reshape(g.stored("quantizer.codewords"), -1, dim)
    words = g.op("Cast", g.op("Gather", table, place), to=TensorProto.FLOAT)
    words = g.op("Mul", words, g.op("Unsqueeze", there, g.ints(3)))
    latent = g.op("ReduceSum", words, g.ints(1), keepdims=0)
    stages = g.op("Transpose", g.op("ReduceSum", there, g.ints(1)), perm=[0, 2, 1])
    kept = g.state("latent", "streams", 1, dim), g.state("stages", "streams", 1, 1)
    lost = g.op("Less", fade, g.constant(1.0))
    latent = g.op("Where", lost, _faded(g, config, kept[0], fade), latent)
    stages = g.op("Where", lost, kept[1], stages)
    # Of lost frames the latent is kept as it was before they were lost, and so a fade begins at 1.
    last = g.slice(lost, -1, 0, 0)
    for key, before, now, width in zip(
        ("latent", "stages"), kept, (latent, stages), (dim, 1), strict=True
    ):
        g.keep(key, g.op("Where", last, before, g.slice(now, -1, 0, 1)), "streams", 1, width)
    return latent, stages


def _faded(g: Graph, config: CodecConfig, latent: str, fade: str) -> str:
    if not config.envelope_bands:
        return g.op("Mul", latent, fade)
    bands = config.envelope_bands
    softer = g.times(g.op("Log", fade), config.envelope_weight)
    heard = np.where(np.arange(config.latent_dim) < bands, 1.0, 0.0)
    return g.op("Add", latent, g.op("Mul", softer, g.constant(heard)))


# layers


def _conv(
    g: Graph,
    x: str,
    matrix: str,
    bias: str | None,
    *,
    key: str,
    taps: int,
    width: int,
    dilation: int = 1,
    batch: str = "streams",
) -> str:
    """Rows of `taps` steps, `dilation` apart, by a matrix: [B, L, width] -> [B, L, width']."""
    if context := (taps - 1) * dilation:
        x = g.concat(g.state(key, batch, context, width), x, axis=1)
        g.keep(key, g.slice(x, -context, 0, 1), batch, context, width)
        starts = range(0, context + 1, dilation)
        x = g.concat(*(g.slice(x, at, at - context, 1) for at in starts), axis=2)
    x = g.op("MatMul", x, matrix)
    return x if bias is None else g.op("Add", x, bias)


def _strided(g: Graph, x: str, key: str, stride: int = 1, dilation: int = 1) -> str:
    """`Conv1d`, whose kernel is a multiple of its stride: [B, L, C] -> [B, L / stride, C']."""
    out, channels, kernel = g.size(f"{key}.conv.weight")
    matrix = g.op("Transpose", g.stored(f"{key}.conv.weight"), perm=[2, 1, 0])
    matrix = g.wide(g.reshape(matrix, kernel * channels, out))
    if stride > 1:
        x = g.reshape(x, 0, -1, stride * channels)
    return _conv(
        g,
        x,
        matrix,
        g.weight(f"{key}.conv.bias"),
        key=key,
        taps=kernel // stride,
        dilation=dilation,
        width=stride * channels,
    )


def _transposed(g: Graph, x: str, key: str) -> str:
    """`ConvTranspose1d`, whose kernel is twice its stride: [B, L, C] -> [B, L * stride, C']."""
    channels, out, kernel = g.size(f"{key}.conv.weight")
    matrix = g.wide(_lapping(g, g.stored(f"{key}.conv.weight"), channels, out, kernel // 2))
    x = _conv(g, x, matrix, None, key=key, taps=2, width=channels)
    return g.op("Add", g.reshape(x, 0, -1, out), g.weight(f"{key}.conv.bias"))


def _lapping(g: Graph, weight: str, channels: int, out: int, stride: int) -> str:
    """[C, C', 2 * stride] -> [2 * C, stride * C']: what the step before still gives, then this one."""
    parts = g.reshape(weight, channels, out, 2, stride)
    parts = g.op("Gather", parts, g.ints(1, 0), axis=2)
    return g.reshape(g.op("Transpose", parts, perm=[2, 0, 3, 1]), 2 * channels, stride * out)


def _unit(g: Graph, x: str, key: str, dilation: int, config: NetworkConfig) -> str:
    inner = _strided(g, _act(g, x, config), f"{key}.block.1", dilation=dilation)
    inner = _strided(g, _act(g, inner, config), f"{key}.block.3")
    if config.shortcut is Shortcut.CONV:
        x = _strided(g, x, f"{key}.shortcut")
    x = g.op("Add", x, inner)
    return x if config.limit is None else g.clip(x, -config.limit, config.limit)


def _act(g: Graph, x: str, config: NetworkConfig) -> str:
    if config.activation is Activation.ELU:
        return g.op("Elu", x)
    return g.op("Mul", x, g.op("Sigmoid", x))


def _lstm(g: Graph, x: str, key: str, layers: int, width: int) -> str:
    def gates(name: str, layer: int, *shape: int) -> str:
        """From torch's order, input, forget, cell, output, to that of ONNX: input, output, forget, cell."""
        rows = g.reshape(g.stored(f"{key}.lstm.{name}_l{layer}"), 4, width, *shape)
        return g.wide(g.reshape(g.op("Gather", rows, g.ints(0, 3, 1, 2)), 1, 4 * width, *shape))

    y = g.op("Transpose", x, perm=[1, 0, 2])
    for layer in range(layers):
        states = [f"{key}.{kind}{layer}" for kind in ("hidden", "cell")]
        past = [g.state(name, 1, "streams", width) for name in states]
        bias = g.concat(*(gates(f"bias_{way}", layer) for way in ("ih", "hh")), axis=1)
        given = [gates(f"weight_{way}", layer, width) for way in ("ih", "hh")]
        y, *after = g.op("LSTM", y, *given, bias, "", *past, count=3, hidden_size=width)
        y = g.op("Squeeze", y, g.ints(1))
        for name, value in zip(states, after, strict=True):
            g.keep(name, value, 1, "streams", width)
    return g.op("Add", x, g.op("Transpose", y, perm=[1, 0, 2]))


def _encoder(g: Graph, config: NetworkConfig, x: str) -> str:
    """The layers of `seanet.Encoder`, under the numbers that they have there."""
    x, number = _strided(g, x, "encoder.0", config.stem_stride), 1
    for level in range(len(config.channels)):
        if level:
            x = _strided(g, _act(g, x, config), f"encoder.{number + 1}", config.ratios[level - 1])
            number += 2
        x, number = _units(g, x, "encoder", number, level, config)
    if config.lstm_layers:
        x = _lstm(g, x, f"encoder.{number}", config.lstm_layers, config.channels[-1])
        number += 1
    return _strided(g, _act(g, x, config), f"encoder.{number + 1}")


def _decoder(g: Graph, config: NetworkConfig, x: str) -> str:
    """The layers of `seanet.Decoder`, under the numbers that they have there."""
    x, number = _strided(g, x, "decoder.0"), 1
    if config.lstm_layers:
        x = _lstm(g, x, f"decoder.{number}", config.lstm_layers, config.channels[-1])
        number += 1
    for level in reversed(range(len(config.channels))):
        x, number = _units(g, x, "decoder", number, level, config)
        if level:
            x = _transposed(g, _act(g, x, config), f"decoder.{number + 1}")
            number += 2
    head = _transposed if config.stem_stride > 1 else _strided
    return head(g, _act(g, x, config), f"decoder.{number + 1}")


def _units(
    g: Graph, x: str, side: str, number: int, level: int, config: NetworkConfig
) -> tuple[str, int]:
    count, dilations = config.residual_units[level], config.dilations
    for unit in range(count):
        x = _unit(g, x, f"{side}.{number + unit}", dilations[unit % len(dilations)], config)
    return x, number + count


# what is fixed


def _highpass(g: Graph, config: CodecConfig, x: str) -> str:
    """`HighPass`: within a frame a matrix, and across frames one number that dies away."""
    hop = config.hop_length
    k = math.tan(math.pi * config.highpass_hz / 4 / config.sample_rate)
    pole = (1 - k) / (1 + k)
    first, rest = 1 / (1 + k), -2 * k / (1 + k) / (1 - k)
    frames = math.ceil(math.log(FORGOTTEN) / math.log(pole) / hop)
    place = np.arange(float(hop))
    lag = g.op("Sub", g.constant(place[None]), g.constant(place[:, None]))  # [samples in, out]
    decay = g.op("Exp", g.times(g.clip(lag, 0, None), math.log(pole)))
    within = g.times(g.op("Trilu", decay, g.constant(1, np.int64), upper=1), rest)
    now = g.times(g.op("Cast", g.op("Equal", lag, g.constant(0)), to=TensorProto.FLOAT), first)
    sums = g.op("MatMul", x, g.constant(rest * pole ** (hop - place[:, None])))  # [., F, 1]
    taps = g.constant(pole ** (hop * np.arange(frames - 1, -1.0, -1))[:, None])
    earlier = g.concat(g.state("highpass.last", "rows", 1, 1), sums, axis=1)
    g.keep("highpass.last", g.slice(earlier, -1, 0, 1), "rows", 1, 1)
    earlier = g.slice(earlier, 0, -1, 1)
    left = _conv(g, earlier, taps, None, key="highpass", taps=frames, width=1, batch="rows")
    decayed = g.op("MatMul", left, g.constant(pole ** place[None]))
    return g.op("Add", g.op("MatMul", x, g.op("Add", within, now)), decayed)


def _basis(g: Graph, hop: int) -> str:
    """`mdct_basis`, [hop coefficients, 2 * hop samples], by whole numbers up to the cosine."""
    sample = np.arange(2 * hop)[None]
    turns = g.op(
        "Mul",
        g.constant(2 * np.arange(hop)[:, None] + 1, np.int64),
        g.constant(2 * sample + 1 + hop, np.int64),
    )
    turns = g.op("Mod", turns, g.constant(8 * hop, np.int64))
    angle = g.times(g.op("Cast", turns, to=TensorProto.FLOAT), math.pi / (4 * hop))
    window = math.sqrt(2 / hop) * np.sin(math.pi / (2 * hop) * (sample + 0.5))
    return g.op("Mul", g.op("Cos", angle), g.constant(window))


def _scale(g: Graph, config: CodecConfig) -> str:
    """`MdctPath.scale`, [M]."""
    spread = g.weight("path.spread")
    weight = g.op("Pow", spread, g.constant(-config.path_weighting))
    chosen = g.op("Gather", g.op("Mul", spread, weight), _chosen(g, config))
    square = g.op("ReduceMean", g.op("Mul", chosen, chosen), g.ints(0))
    return g.op("Div", weight, g.op("Sqrt", square))


def _chosen(g: Graph, config: CodecConfig) -> str:
    """Which coefficients go straight to the latent: the lowest of each channel."""
    each = config.path_components // config.channels
    first = config.hop_length * np.arange(config.channels)[:, None]
    return g.constant((first + np.arange(each)).ravel(), np.int64)


def _analyse(g: Graph, config: CodecConfig, x: str) -> tuple[str, str | None]:
    """`path.analyse`, of [streams * channels, F, hop]: what the encoder sees, and A x."""
    linear = config.linear_path is not LinearPath.NONE
    frames = _mdct(g, config, x) if config.lapped else ""
    if config.envelope_bands:
        frames = g.op("Mul", frames, _scale(g, config))
        levels = _measure(g, config, frames)
        gain = g.op("Exp", g.op("Neg", _log_gain(g, config, levels)))
        flat = g.clip(g.op("Mul", frames, gain), -FLATTEST, FLATTEST)
        path = _power(g, g.op("Gather", flat, _chosen(g, config), axis=2), config.path_power)
        path = g.concat(g.times(levels, config.envelope_weight), path, axis=2)
        return g.concat(levels, flat, axis=2), path
    if config.encoder.input is NetworkInput.SPECTRUM:
        features = g.op("Div", frames, g.weight("path.spread"))
    else:
        flat = g.op("Flatten", x, axis=1)
        wav = g.reshape(flat, -1, config.channels, g.length(flat, 1))
        features = g.op("Transpose", wav, perm=[0, 2, 1])
    if not linear:
        return features, None
    path = g.op("Gather", g.op("Mul", frames, _scale(g, config)), _chosen(g, config), axis=2)
    return features, _power(g, path, config.path_power)


def _synthesise(g: Graph, config: CodecConfig, latent: str, decoded: str) -> str:
    """`path.synthesise`: [B, F, D], [B, F, M] or [B, F * hop, C] -> [B, C, F * hop]."""
    if config.envelope_bands:
        levels = g.slice(latent, 0, config.envelope_bands, 2)
        path = _power(g, g.slice(latent, config.envelope_bands, 0, 2), 1 / config.path_power)
        flat = g.op("Add", decoded, _spread_out(g, config, path))
        flat = g.clip(flat, -FLATTEST, FLATTEST)
        levels = g.clip(
            g.times(levels, 1 / config.envelope_weight),
            min(math.log(config.envelope_floor), LOG_RANGE[0]),
            LOG_RANGE[1],
        )
        frames = g.op("Mul", flat, g.op("Exp", _log_gain(g, config, levels)))
        return _inverse_mdct(g, config, g.op("Div", frames, _scale(g, config)))
    linear = config.linear_path is not LinearPath.NONE
    frames = ""
    if linear:
        frames = _spread_out(g, config, _power(g, latent, 1 / config.path_power))
        frames = g.op("Div", frames, _scale(g, config))
    if config.decoder_network.input is NetworkInput.SPECTRUM:
        decoded = g.op("Mul", decoded, g.weight("path.spread"))
        return _inverse_mdct(g, config, g.op("Add", frames, decoded) if linear else decoded)
    wav = g.op("Transpose", decoded, perm=[0, 2, 1])
    return g.op("Add", wav, _inverse_mdct(g, config, frames)) if linear else wav


def _mdct(g: Graph, config: CodecConfig, x: str) -> str:
    """[streams * channels, F, hop] -> [streams, F, C * M], rumble left out."""
    hop, channels = config.hop_length, config.channels
    matrix = g.op("Transpose", _basis(g, hop), perm=[1, 0])
    x = _conv(g, x, matrix, None, key="analysis", taps=2, width=hop, batch="rows")
    if channels > 1:
        x = g.reshape(x, -1, channels, g.length(x, 1), hop)
        x = g.reshape(g.op("Transpose", x, perm=[0, 2, 1, 3]), 0, 0, -1)
    return g.op("Mul", x, g.constant(_kept(config)))


def _inverse_mdct(g: Graph, config: CodecConfig, frames: str) -> str:
    """[B, F, C * M] -> [B, C, F * hop], neither of them beyond what samples of +-`PEAK` can be."""
    hop, channels = config.hop_length, config.channels
    basis = _basis(g, hop)
    largest = g.op("ReduceSum", g.op("Abs", basis), g.ints(1), keepdims=0)
    largest = g.concat(*[largest] * channels, axis=0)
    largest = g.op("Mul", largest, g.constant(PEAK * _kept(config)))
    frames = g.op("Min", g.op("Max", frames, g.op("Neg", largest)), largest)
    if channels > 1:
        length = g.length(frames, 1)
        frames = g.op("Transpose", g.reshape(frames, 0, 0, channels, hop), perm=[0, 2, 1, 3])
        frames = g.reshape(frames, -1, length, hop)
    matrix = _lapping(g, basis, hop, 1, hop)
    wav = _conv(g, frames, matrix, None, key="synthesis", taps=2, width=hop, batch="rows")
    wav = g.op("Flatten", wav, axis=1)
    return g.clip(g.reshape(wav, -1, channels, g.length(wav, 1)), -PEAK, PEAK)


def _kept(config: CodecConfig) -> np.ndarray:
    """[C * M], 0 for coefficients below the high-pass, else 1."""
    hop = config.hop_length
    centres = (np.arange(hop, dtype=np.float32) + 0.5) * config.sample_rate / (2 * hop)
    return np.tile(centres >= config.highpass_hz, config.channels).astype(np.float32)


def _spread_out(g: Graph, config: CodecConfig, path: str) -> str:
    """[B, F, components] -> [B, F, C * M], 0 where nothing goes straight to the latent."""
    width = config.hop_length * config.channels
    place = np.full(width, config.path_components)  # of the zero that is put at the end
    each = config.path_components // config.channels
    for channel in range(config.channels):
        first = channel * config.hop_length
        place[first : first + each] = channel * each + np.arange(each)
    padded = g.op("Pad", path, g.ints(0, 0, 0, 0, 0, 1))
    return g.op("Gather", padded, g.constant(place, np.int64), axis=2)


def _bands(config: CodecConfig) -> np.ndarray:
    """`SpectralEnvelope._band`, [M]: equally wide in mel."""
    nyquist, bands = config.sample_rate / 2, config.envelope_bands
    frequency = (np.arange(config.hop_length, dtype=np.float32) + 0.5) * nyquist / config.hop_length
    place = np.log(1 + frequency / 700) / math.log(1 + nyquist / 700) * bands
    return np.minimum(place.astype(np.int64), bands - 1)


def _measure(g: Graph, config: CodecConfig, frames: str) -> str:
    """`SpectralEnvelope.measure`: [B, F, M] -> [B, F, bands]."""
    band, bands = _bands(config), config.envelope_bands
    member = g.op(
        "Equal", g.constant(band[:, None], np.int64), g.constant(np.arange(bands), np.int64)
    )
    share = g.op(
        "Div",
        g.op("Cast", member, to=TensorProto.FLOAT),
        g.constant(np.bincount(band, minlength=bands)),
    )
    power = g.op("MatMul", g.op("Mul", frames, frames), share)
    power = g.op("Add", power, g.constant(config.envelope_floor**2))
    least = g.times(g.op("ReduceMax", power, g.ints(2)), 10 ** (-config.envelope_range_db / 10))
    return g.times(g.op("Log", g.op("Max", power, least)), 0.5)


def _log_gain(g: Graph, config: CodecConfig, levels: str) -> str:
    mean = g.op("ReduceMean", levels, g.ints(2))
    above = g.op("Sub", g.op("Gather", levels, g.constant(_bands(config), np.int64), axis=2), mean)
    return g.op("Add", mean, g.times(above, config.envelope_flattening))


def _power(g: Graph, x: str, exponent: float) -> str:
    if exponent == 1.0:
        return x
    size = g.op("Abs", x)
    size = g.clip(size, 1e-12, None) if exponent < 1 else size
    return g.op("Mul", g.op("Sign", x), g.op("Pow", size, g.constant(exponent)))
