"""Files and folders made to hurt, with right checksums: one clear line, little memory, little time.

The kinds are those of SECURITY.md. Generators of thousands of them run with `-m slow`.
"""

import io
import json
import os
import resource
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from synthetic import make_sound

import bittern
import bittern.cli
from bittern.codec import Codec
from bittern.config import CodecConfig
from bittern.errors import CodecError, FormatError, ModelError, one_line
from bittern.format import container, edit, ragged
from bittern.format.container import HEADER_BYTES, Chunk, Header, Reader, Writer
from bittern.format.payload import write_varint
from bittern.format.rangecoder import PRECISION, RangeDecoder, RangeEncoder
from bittern.format.salvage import Salvage

SECONDS = 20.0  # that nothing takes, on a machine that is shared
MEMORY = 1.5e9


@pytest.fixture(scope="module")
def codec() -> Codec:
    return bittern.load("speech-16khz", device="cpu")


def header(codec: Codec, **changes) -> Header:
    config = codec.config
    fields = {
        "fingerprint": codec.fingerprint,
        "sample_rate": config.sample_rate,
        "source_rate": config.sample_rate,
        "channels": 1,
        "source_channels": 1,
        "hop_length": config.hop_length,
        "bits_per_code": config.quantizer.bits_per_code,
        "stages": 4,
        "extra_frames": 1,
        "chunk_frames": 16,
        "entropy": codec.entropy.fingerprint if codec.entropy else None,
    }
    return Header(**fields | changes)


def forged(head: Header, *payloads: bytes, frames: int | None = None, layers: int = 4) -> bytes:
    """A file whose checksums are right, of full chunks with these payloads."""
    file = io.BytesIO()
    writer = Writer(file, head)
    for payload in payloads:
        writer.copy(Chunk(0, frames or head.chunk_frames, layers, payload))
    samples = (len(payloads) * head.chunk_frames - 1) * head.hop_length
    writer.finish(samples, samples)
    return file.getvalue()


def verified(data: bytes) -> str:
    """What `verify` says of a file; nothing if it is intact."""
    try:
        for _ in Reader(io.BytesIO(data), "x.btn"):
            pass
    except FormatError as error:
        return str(error)
    return ""


# amplification


@pytest.mark.parametrize("streams", [1, 8, pytest.param(255, marks=pytest.mark.slow)])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("filler", [b"\0", b"\0" * 7, b"\x80"])
def test_a_few_bytes_do_not_become_minutes(codec, streams, version, filler):
    most = 2**17 // streams // 8 * 8
    frames = min(most, 4096)
    head = header(codec, streams=streams, version=version, chunk_frames=frames)
    if version == 1:
        payload = b"".join(write_varint(len(filler)) + filler for _ in range(4))
        layers = 4
    else:
        counts = np.full((streams, frames), 4)
        codes = np.zeros((streams, 4, frames), np.int64)
        payload = ragged.pack(codes, 10, 4, None)[0]
        piece = ragged.split(payload, 2).counts
        told = write_varint(2 * len(piece.data) + (not piece.coded)) + piece.data
        payload = bytes([2]) + told + 2 * (write_varint(2 * len(filler)) + filler)
        assert counts.shape == (streams, frames)
        layers = 2
    data = forged(head, payload, layers=layers)
    assert len(data) < 300
    began = time.process_time()
    with pytest.raises(FormatError, match=r"ended|not the bytes of a range coder"):
        codec.decompress(data)
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize(
    ("streams", "frames"), [(255, 65_535), (64, 4_096), (3, 65_535), (255, 600)]
)
def test_chunks_too_large_to_work_on_are_refused_by_their_header(codec, streams, frames):
    with pytest.raises(ValueError, match="too many for one chunk"):
        header(codec, streams=streams, chunk_frames=frames, stages=1)


@pytest.mark.parametrize("seed", range(3))
def test_symbols_cost_no_more_than_their_bytes_and_honest_ones_pass(seed):
    rng = np.random.default_rng(seed)
    total, encoder = 1 << PRECISION, RangeEncoder()
    likely = np.tile([total - 3, 1, 1, 1], (2_000, 1))
    even = np.full((2_000, 4), total // 4)
    for frequencies, symbols in ((likely, 0), (even, 0), (even, rng.integers(0, 4, 2_000))):
        encoder = RangeEncoder()
        encoder.push(np.broadcast_to(symbols, 2_000), frequencies)
        data = encoder.finish()
        decoder = RangeDecoder(data)
        assert (decoder.pull(frequencies) == symbols).all()
        without_end = np.tile(even, (50, 1))
        with pytest.raises(ValueError, match="after its bytes have ended"):
            decoder.pull(without_end)


# verify is as strict as decompress


def lengths_that_lie(codec: Codec, version: int, change: Callable[[bytes], bytes]) -> bytes:
    honest = codec.compress(
        make_sound(16 * 320)[0], 16_000, **({"stages": 4} if version == 1 else {"quality": 6})
    )
    reader = Reader(io.BytesIO(honest), "x")
    (chunk,) = list(reader)
    file = io.BytesIO()
    writer = Writer(file, reader.header)
    writer.copy(Chunk(0, chunk.frames, chunk.layers, change(chunk.payload)))
    writer.finish(reader.header.samples or 0, reader.header.source_samples or 0)
    return file.getvalue()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload + b"\0",
        lambda payload: payload[:-1],
        lambda payload: b"\x7f" + payload[1:],
        lambda payload: b"\xff\xff\xff\x7f" + payload[4:],
        lambda payload: payload[:1] + payload,
    ],
)
def test_what_decompress_refuses_of_a_payload_verify_refuses_too(codec, version, change):
    data = lengths_that_lie(codec, version, change)
    with pytest.raises(FormatError):
        codec.decompress(data)
    assert "chunk 1" in verified(data)
    for work in (
        lambda reader: edit.cut(reader, io.BytesIO(), 0, None),
        lambda reader: edit.cat([reader], io.BytesIO()),
    ):
        with pytest.raises(FormatError):
            work(Reader(io.BytesIO(data), "x.btn", find_coder=lambda _: codec.entropy))


def test_forty_thousand_chunks_are_recovered_in_linear_time(codec):
    def scanned(chunks: int) -> float:
        head = header(codec, entropy=None, chunk_frames=1, stages=1)
        file = io.BytesIO()
        writer = Writer(file, head)
        for _ in range(chunks):
            writer.copy(Chunk(0, 1, 1, b"\0\0"))
        writer.finish((chunks - 1) * 320, (chunks - 1) * 320)
        began = time.process_time()
        Salvage(io.BytesIO(file.getvalue()), "x")
        return time.process_time() - began

    scanned(1_000)
    assert scanned(20_000) < 12 * scanned(4_000)


# folders that are no checkpoints


@pytest.fixture
def folder(tmp_path, tiny_checkpoint) -> Path:
    """A copy of a checkpoint to spoil."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_checkpoint / name).read_bytes())
    return tmp_path


def refused(folder: Path) -> str:
    """The one line that loading says, at once."""
    began = time.process_time()
    with pytest.raises(ModelError) as caught:
        bittern.load(folder, device="cpu")
    assert time.process_time() - began < SECONDS / 4
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 600 + len(str(folder))
    return said


SIZES = {
    "latent_dim": 10**9,
    "hop_length": 65_535,
    "quantizer": {"stages": 255, "codebook_size": 65_536},
    "encoder": {"channels": [384], "residual_units": [10**7]},
    "encoder ": {"channels": [10**9], "residual_units": [1]},
    "encoder  ": {"channels": [64], "residual_units": [2], "dilations": [2**40]},
    "encoder   ": {"channels": [65_536], "residual_units": [256]},
    "encoder    ": {"channels": [1] * 10**5, "residual_units": [0] * 10**5, "ratios": [1] * 99_999},
    "highpass_hz": 1e-9,
    "decoder": {"channels": [32], "residual_units": [2], "latent_kernel": 10**12},
}


@pytest.mark.parametrize("key", SIZES)
def test_sizes_are_compared_before_anything_is_allocated(folder, key):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key.strip(): SIZES[key]}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


TEXTS = {
    "nested": '{"name":' + "[" * 100_000 + "]" * 100_000 + "}",
    "nested less": '{"name":' + "[" * 900 + "]" * 900 + "}",
    "an integer of 5,000 digits": '{"latent_dim": ' + "9" * 5_000 + "}",
    "an integer of 400 digits": '{"latent_dim": ' + "9" * 400 + "}",
    "a float of 400 digits": '{"path_power": ' + "9" * 400 + ".0}",
    "infinity": '{"envelope_weight": Infinity, "envelope_bands": 3}',
    "not a number": '{"path_power": NaN}',
    "a long string": '{"latent_dim": "' + "x" * 900_000 + '"}',
    "a long key": '{"' + "x" * 900_000 + '": 1}',
    "a long name": '{"name": "' + " " * 900_000 + '"}',
    "ten megabytes": " " * 10**7 + "{}",
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "nothing": "",
    "latin-1": b'{"name": "caf\xe9"}',
    "escapes": '{"\\u001b[31m": 1}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_json_that_is_no_codec_is_one_line_of_sane_length(folder, text):
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert one_line(refused(folder)).isprintable()


def with_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.bool, torch.complex64, torch.uint8, torch.float8_e4m3fn]
)
def test_weights_of_other_types_are_refused(folder, dtype):
    with_weights(folder, lambda t: t.update({k: v.to(dtype) for k, v in t.items()}))
    assert "expected float32 or float16" in refused(folder) or dtype is torch.complex64


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e7])
@pytest.mark.parametrize("key", ["quantizer.codewords", "decoder.0.conv.weight", "path.spread"])
def test_weights_of_no_sane_value_are_refused(folder, value, key):
    def spoil(tensors):
        tensors[key].view(-1)[3] = value

    with_weights(folder, spoil)
    assert f"{key!r} has values that are not finite" in refused(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "entropy.safetensors"])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "sparse", "empty", "cut"])
def test_what_is_no_regular_file_of_sane_size_is_refused_at_once(folder, name, kind):
    path = folder / name
    path.unlink(missing_ok=True)
    match kind:
        case "device":
            path.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "sparse":
            with path.open("wb") as file:
                file.truncate(40 << 30)
        case "empty":
            path.touch()
        case _:
            path.write_bytes(b"\x40\0\0\0\0\0\0\0{")
    refused(folder)


def test_a_folder_called_like_a_shipped_codec_is_not_taken_for_it(folder, monkeypatch):
    (folder / "speech-16khz").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(folder / "speech-16khz" / name)
    monkeypatch.chdir(folder)
    own = bittern.load("speech-16khz", device="cpu").fingerprint
    paths = ["./speech-16khz", folder / "speech-16khz", Path("speech-16khz"), "speech-16khz/"]
    others = [bittern.load(path, device="cpu").fingerprint for path in paths]
    assert own not in others
    assert len(set(others)) == 1


# names in messages


@pytest.mark.parametrize(
    "name", ["\x1b[31mred", "two\nlines", "back\rspace", "bell\a", "caf\udce9"]
)
def test_names_are_escaped_in_messages(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    Path(name + ".btn").write_bytes(b"no")
    assert bittern.cli.main(["verify", name + ".btn", "none" + name]) == 4
    assert bittern.cli.main(["info", name + ".btn"]) == 4
    said = capsys.readouterr().err
    assert said.count("\n") == 3
    assert said.replace("\n", "").isprintable()


# thousands of them


def sealed_header(data: bytearray) -> None:
    data[HEADER_BYTES - 4 : HEADER_BYTES] = zlib.crc32(data[: HEADER_BYTES - 4]).to_bytes(
        4, "little"
    )


NASTY = [0, 1, 2, 3, 7, 8, 127, 128, 254, 255, 256, 4_095, 4_096, 65_535, 2**31, 2**32 - 1, 2**53]


def hostile_containers(honest: list[bytes], count: int, seed: int):
    """Honest files with fields and payloads of somebody's making, and right checksums."""
    rng = np.random.default_rng(seed)
    fields = [(4, 1), (5, 1), (14, 4), (18, 4), (22, 1), (23, 1), (24, 1), (25, 2), (27, 1)]
    fields += [(28, 1), (29, 1), (30, 2), (32, 8), (40, 8)]
    for _ in range(count):
        data = bytearray(honest[rng.integers(len(honest))])
        size = HEADER_BYTES + 12 * (data[5] == 1)
        places, at = [], size
        while at + 16 <= len(data):
            length = int.from_bytes(data[at + 9 : at + 12], "little")
            places.append((at, length))
            at += 16 + length
        for _ in range(rng.integers(0, 3)):
            offset, width = fields[rng.integers(len(fields))]
            value = int(rng.choice(NASTY)) % 256**width
            data[offset : offset + width] = value.to_bytes(width, "little")
        for _ in range(rng.integers(0, 4)):
            start, length = places[rng.integers(len(places))]
            match rng.integers(6):
                case 0 | 1:  # a byte of the payload, most often one of its lengths
                    place = start + 16 + int(rng.integers(0, max(min(length, 12), 1)))
                    data[place : place + 1] = bytes([rng.choice(NASTY) % 256])
                case 2:
                    place = start + 16 + int(rng.integers(0, length or 1))
                    data[place : place + 4] = rng.bytes(len(data[place : place + 4]))
                case 3:
                    data[start + 16 : start + 16 + length] = bytes(length)
                case 4:
                    data[start + 6 : start + 8] = struct.pack("<H", rng.choice(NASTY) % 65_536)
                case _:
                    data[start + 8 : start + 9] = bytes([rng.choice(NASTY) % 256])
        sealed_header(data)
        for start, length in places:
            body = bytes(data[start + 16 : start + 16 + length])
            checksum = zlib.crc32(body, zlib.crc32(data[start : start + 12]))
            data[start + 12 : start + 16] = checksum.to_bytes(4, "little")
        yield bytes(data)


def tried(work: Callable[[], object]) -> tuple[object, float]:
    """What came of it, a `CodecError` included, and the seconds that it took."""
    began = time.process_time()
    try:
        found = work()
    except CodecError as error:
        found = error
    return found, time.process_time() - began


def check_containers(codec: Codec, count: int, seed: int) -> None:
    sound = make_sound(24_000, channels=2)
    honest = [codec.compress(sound[:1], 16_000, **o) for o in ({"stages": 6}, {"quality": 6})]
    honest.append(codec.compress(sound, 44_100, stages=3, coder="raw", chunk_seconds=0.2))
    file = io.BytesIO()
    stream = bittern.codec.audio.array_stream(sound[:1], 8_000)
    codec.compress_stream(stream, file, live=True, bitrate_kbps=4, chunk_seconds=0.2)
    honest.append(file.getvalue())
    passed = 0
    for data in hostile_containers(honest, count, seed):
        strict, seconds = tried(lambda data=data: verified(data))
        decoded, more = tried(lambda data=data: codec.decompress(data))
        recovered, most = tried(lambda data=data: codec.decompress(data, recover=True))
        assert max(seconds, more, most) < SECONDS
        if not isinstance(decoded, CodecError):
            assert strict == ""
            assert torch.isfinite(decoded.wav).all()
        elif strict == "" and isinstance(
            decoded, FormatError
        ):  # what the entropy model alone tells
            said = str(decoded)
            assert any(w in said for w in ("range coder", "have ended", "the header says")), said
        passed += strict == ""
        for line in (decoded, recovered):
            assert not isinstance(line, CodecError) or "\n" not in str(line)
    assert 0 < passed < count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MEMORY


def test_60_hostile_containers(codec):
    check_containers(codec, 60, 0)


@pytest.mark.slow
def test_2000_hostile_containers(codec):
    check_containers(codec, 2_000, 1)


def hostile_config(rng: np.random.Generator, text: str) -> str:
    values = [0, -1, 1, 2, 10**9, 2**40, 1e308, 0.5, None, True, "", "mdct", [], [1] * 50, {}, -0.1]
    config = json.loads(text)
    for _ in range(rng.integers(1, 4)):
        place = config
        inner = [k for k in place if isinstance(place[k], dict)]
        if inner and rng.random() < 0.6:
            place = place[inner[rng.integers(len(inner))]]
        if not place:
            continue
        keys = sorted(place)
        key = keys[rng.integers(len(keys))] if rng.random() < 0.95 else "other"
        place[key] = values[rng.integers(len(values))]
    text = json.dumps(config)
    return text[: rng.integers(len(text))] if rng.random() < 0.1 else text


def hostile_weights(rng: np.random.Generator, tensors: dict[str, torch.Tensor]) -> None:
    keys = sorted(tensors)
    key = keys[rng.integers(len(keys))]
    value = tensors[key]
    match rng.integers(7):
        case 0:
            types = [torch.int64, torch.bool, torch.float8_e5m2, torch.float16, torch.bfloat16]
            tensors[key] = value.to(types[rng.integers(len(types))])
        case 1:
            value.view(-1)[rng.integers(value.numel())] = float(rng.choice([np.nan, np.inf, 1e30]))
        case 2:
            tensors[key] = value[..., :-1].contiguous()
        case 3:
            del tensors[key]
        case 4:
            tensors[f"other{rng.integers(9)}"] = value.clone()
        case 5:
            tensors[key] = torch.zeros(())
        case _:
            value.mul_(float(rng.choice([0.0, -1.0, 1e3, 1e5])))


def check_folders(place: Path, source: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    text, tensors = (source / "config.json").read_text(), load_file(source / "model.safetensors")
    sound, loaded = torch.from_numpy(make_sound(1_000))[None], 0
    for _ in range(count):
        spoil = rng.integers(3)  # config, weights, or both
        config = hostile_config(rng, text) if spoil != 1 else text
        own = {key: value.clone() for key, value in tensors.items()}
        if spoil:
            hostile_weights(rng, own)
        (place / "config.json").write_text(config)
        save_file(own, place / "model.safetensors")
        if rng.random() < 0.1:
            data = bytearray((place / "model.safetensors").read_bytes())
            data[rng.integers(0, 64)] = rng.integers(256)
            (place / "model.safetensors").write_bytes(data[: int(rng.integers(1, len(data) + 1))])
        found, seconds = tried(lambda: bittern.load(place, device="cpu"))
        assert seconds < SECONDS
        if isinstance(found, CodecError):
            assert isinstance(found, ModelError)
            assert "\n" not in str(found)
            continue
        assert isinstance(found, Codec)
        loaded += 1
        if found.channels == 1 and found.sample_rate == 16_000:
            assert torch.isfinite(found.decode(found.encode(sound))).all()
    assert 0 < loaded < count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MEMORY


def test_60_hostile_folders(tmp_path, tiny_checkpoint):
    check_folders(tmp_path, tiny_checkpoint, 60, 0)


@pytest.mark.slow
def test_2000_hostile_folders(tmp_path, tiny_checkpoint):
    check_folders(tmp_path, tiny_checkpoint, 2_000, 1)


def test_the_shipped_codec_is_none_of_these(codec):
    assert codec.config.least_weights < sum(v.numel() for v in codec.model.state_dict().values())
    assert CodecConfig.from_json(codec.config.to_json()) == codec.config
    assert container.MOST_CHANNELS == 255
