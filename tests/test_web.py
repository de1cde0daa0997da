"""The page that codes in the browser: bytes and samples of the onnx engine, and nothing leaves it."""

import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import soxr
from browser import Served, open_browser, phone, press, serve, wait

import bittern
from bittern.codec.arrays import ArrayCodec
from bittern.format.container import Reader, Writer
from bittern.format.entropy import ENTROPY_FILE, EntropyModel
from bittern.format.rangecoder import TOTAL, RangeEncoder

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
WEB = ROOT / "tools" / "web"
CHECKPOINT = ROOT / "checkpoints" / "speech-16khz"
NODE = shutil.which("node")
MICROPHONE = ("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream")
DONE = "at('status').textContent.includes('decoded in')"

needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed (Debian: nodejs)")


# without a browser: what reads and writes files


def run_node(entropy: Path, *files: Path) -> list[dict[str, Any]]:
    """Of each file its codes [chunks][S][k][F] and the bytes of coding them again, or the error."""
    program = ROOT / "tests" / "web_program.mjs"
    done = subprocess.run([str(NODE), program, entropy, *files], capture_output=True, check=True)
    return json.loads(done.stdout)


def written_again(data: bytes, model: EntropyModel) -> tuple[np.ndarray, bytes]:
    """Codes [S, k, F] of a file, and what Python writes of them."""
    reader = Reader(io.BytesIO(data), "file", find_coder=lambda _: model)
    file = io.BytesIO()
    writer = Writer(file, reader.header, find_coder=lambda _: model)
    chunks = list(reader.codes())
    for codes in chunks:
        writer.write(codes)
    header = reader.header
    assert header.samples is not None
    assert header.source_samples is not None
    writer.finish(header.samples, header.source_samples)
    return np.concatenate(chunks, axis=2), file.getvalue()


@needs_node
@pytest.mark.parametrize(("name", "expected"), [("speech", "codes"), ("ragged", "ragged")])
def test_javascript_reads_and_writes_the_golden_files(name, expected):
    path = GOLDEN / f"{name}.btn"
    model = EntropyModel((GOLDEN / ENTROPY_FILE).read_bytes(), "golden")
    (found,) = run_node(GOLDEN / ENTROPY_FILE, path)
    codes = np.concatenate([np.array(chunk) for chunk in found["codes"]], axis=2)
    assert (codes == np.load(GOLDEN / f"{expected}.npy")).all()
    same, again = written_again(path.read_bytes(), model)
    assert (codes == same).all()
    assert bytes.fromhex(found["again"]) == again


RANGE_PROGRAM = """
import { readFileSync } from "node:fs";
import { RangeDecoder, RangeEncoder } from "CODER";
console.log(JSON.stringify(JSON.parse(readFileSync(0)).map(([symbols, rows]) => {
  const encoder = new RangeEncoder();
  symbols.forEach((symbol, n) => encoder.push(rows[n], symbol));
  const data = encoder.finish(), decoder = new RangeDecoder(data);
  return [Buffer.from(data).toString("hex"), rows.map((row) => decoder.pull(row))];
})));
"""


@needs_node
def test_javascript_codes_ranges_as_the_library_does():
    rng, cases = np.random.default_rng(1), []
    for size in (2, 5, 300):
        rows = rng.integers(1, TOTAL // size, (200, size))
        rows[:, 0] += TOTAL - rows.sum(axis=1)
        cases.append((rng.integers(0, size, 200), rows))
    likely = np.tile(
        [TOTAL - 300, 299, 1], (3000, 1)
    )  # bytes that end in zeros, of which some stay
    cases += [(np.zeros(3000, int), likely), (np.arange(3000) % 3, likely)]
    program = RANGE_PROGRAM.replace("CODER", (WEB / "rangecoder.js").as_uri())
    done = subprocess.run(
        [str(NODE), "--input-type=module", "-e", program],
        input=json.dumps([(symbols.tolist(), rows.tolist()) for symbols, rows in cases]).encode(),
        capture_output=True,
        check=True,
    )
    for (symbols, rows), (data, decoded) in zip(cases, json.loads(done.stdout), strict=True):
        encoder = RangeEncoder()
        encoder.push(symbols, rows)
        assert bytes.fromhex(data) == encoder.finish()
        assert decoded == symbols.tolist()


@needs_node
def test_javascript_refuses_what_is_damaged(tmp_path):
    rng, files = np.random.default_rng(0), []
    for name in ("speech", "ragged"):
        data = (GOLDEN / f"{name}.btn").read_bytes()
        for place in [*range(4, 64), *rng.choice(np.arange(64, len(data)), 40, replace=False)]:
            files.append(tmp_path / f"{name}-{place}.btn")
            flipped = data[:place] + bytes([data[place] ^ 1 << rng.integers(8)]) + data[place + 1 :]
            files[-1].write_bytes(flipped)
        for end in rng.choice(np.arange(1, len(data)), 20, replace=False):
            files.append(tmp_path / f"{name}-cut-{end}.btn")
            files[-1].write_bytes(data[:end])
        files.append(tmp_path / f"{name}-longer.btn")
        files[-1].write_bytes(data + b"\0")
    found = run_node(GOLDEN / ENTROPY_FILE, *files)
    taken = [path.name for path, result in zip(files, found, strict=True) if "error" not in result]
    assert taken == []


# in a browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, built."""
    if NODE is None or not (WEB / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("onnxruntime-web is not installed (`npm ci` in tools/web, or `make web`)")
    folder = tmp_path_factory.mktemp("web") / "page"
    subprocess.run([NODE, WEB / "build.mjs", CHECKPOINT, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with serve(folder) as served:
        yield served


@pytest.fixture(scope="module")
def page(served: Served) -> Iterator[Any]:
    """A browser with the page, ready; afterwards, nothing may have gone wrong."""
    with open_browser(*MICROPHONE) as browser:
        browser.set_script_timeout(120)
        browser.get(f"{served.url}/index.html")
        wait(browser, "at('status').textContent === 'Ready.'", 120)
        yield browser
        assert browser.get_log("browser") == []


@pytest.fixture(scope="module")
def codec() -> ArrayCodec:
    codec = bittern.load(CHECKPOINT, engine="onnx")
    assert isinstance(codec, ArrayCodec)
    return codec


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Ten seconds at 16 kHz, [T]."""
    return sf.read(ROOT / "examples" / "speech.flac", dtype="float32")[0]


@pytest.fixture(scope="module")
def opened(page, speech, tmp_path_factory) -> Any:
    """The page with ten seconds of speech in it, coded at 1.5, 3 and 6 kbit/s."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    sf.write(path, speech, 16_000, subtype="FLOAT")  # Chromium's reader of 16 bits rounds by itself
    give(page, path)
    assert (js(page, "Array.from(sound.samples)") == speech).all()
    return page


def give(page: Any, path: Path) -> None:
    page.execute_script("say('')")
    page.find_element("id", "file").send_keys(str(path))
    wait(page, DONE, 300)


def js(page: Any, expression: str) -> np.ndarray:
    return np.array(page.execute_script(f"return {expression}"), np.float32)


def data_of(page: Any, version: int) -> bytes:
    return bytes(page.execute_script(f"return Array.from(versions[{version}].data)"))


def codes_of(data: bytes, codec: ArrayCodec) -> np.ndarray:
    """[S, K, F], -1 for none."""
    reader = Reader(io.BytesIO(data), "page", find_coder=codec.entropy_of)
    codes = np.concatenate(list(reader.codes()), axis=2)
    missing = codec.stages - codes.shape[1]
    return np.pad(codes, ((0, 0), (0, missing), (0, 0)), constant_values=-1)


def same_but_for_ties(data: bytes, expected: bytes, codec: ArrayCodec) -> None:
    """The same file, or one in which a few frames have other codes."""
    if data == expected:
        return
    found, wanted = codes_of(data, codec), codes_of(expected, codec)
    assert found.shape == wanted.shape
    assert (found != wanted).any(axis=(0, 1)).mean() < 0.01


def coded_by(model: EntropyModel, data: bytes, codec: ArrayCodec) -> bytes:
    """The codes of a file in one of another entropy model."""
    reader = Reader(io.BytesIO(data), "file", find_coder=codec.entropy_of)
    file = io.BytesIO()
    header = replace(reader.header, entropy=model.fingerprint)
    writer = Writer(file, header, find_coder=lambda _: model)
    for codes in reader.codes():
        writer.write(codes)
    return file.getvalue()


def samples_of(data: bytes, codec: ArrayCodec) -> np.ndarray:
    """What the onnx engine decodes, at the codec's rate, [S, T]."""
    header = Reader(io.BytesIO(data), "page").header
    return codec.decode(codes_of(data, codec))[:, 0, : header.samples]


@pytest.mark.slow
@pytest.mark.parametrize(("version", "kbps"), [(1, 1.5), (2, 3.0), (3, 6.0)])
def test_a_bitrate_gives_the_bytes_and_samples_of_the_onnx_engine(
    opened, codec, speech, version, kbps
):
    data = data_of(opened, version)
    same_but_for_ties(data, codec.compress(speech, 16_000, bitrate_kbps=kbps), codec)
    found = js(opened, f"Array.from(versions[{version}].channels[0])")
    assert np.abs(found - codec.decompress(data).wav[0]).max() < 1e-3
    assert abs(8 * len(data) / len(speech) * 16 / kbps - 1) < 0.02


@pytest.mark.slow
def test_constant_stages_give_the_bytes_and_samples_of_the_onnx_engine(opened, codec, speech):
    opened.execute_script("say(''); at('constant').click()")
    wait(opened, DONE, 300)
    try:
        assert opened.execute_script("return versions.map((v) => v.name)")[3] == "6 kbit/s"
        data = data_of(opened, 3)
        same_but_for_ties(data, codec.compress(speech, 16_000, stages=12), codec)
        found = js(opened, "Array.from(versions[3].channels[0])")
        assert np.abs(found - codec.decompress(data).wav[0]).max() < 1e-3
    finally:
        opened.execute_script("say(''); at('constant').click()")
        wait(opened, DONE, 300)


@pytest.mark.slow
def test_ten_seconds_are_coded_within_a_few_of_the_processor(opened):
    """The bar is 3 s on a machine that does nothing else; what others take is no fault of the page."""
    psutil = pytest.importorskip("psutil")
    driver = psutil.Process(opened.service.process.pid)

    def spent() -> float:
        times = [process.cpu_times() for process in driver.children(recursive=True)]
        return sum(time.user + time.system for time in times)

    opened.execute_script("player.pause()")
    before, began = spent(), time.perf_counter()
    opened.execute_async_script(
        "ask('analyse', sound.samples).then(() => ask('compressConstant', 12)).then(arguments[0])"
    )
    elapsed, used = time.perf_counter() - began, spent() - before
    print(f"\n10.6 s coded with 12 stages in {elapsed:.2f} s, {used:.2f} s of the processor")
    assert used < 9  # three times that, as neighbours slow each other down


@pytest.mark.slow
def test_a_bitrate_of_ones_own_is_coded_and_shown(opened):
    opened.execute_script("say('')")
    opened.find_element("id", "rate-own").send_keys("2.2\n")
    wait(opened, DONE, 300)
    names = opened.execute_script("return rows.map((row) => row.dataset.name)")
    assert names == ["Original", "1.5 kbit/s", "2.2 kbit/s", "3 kbit/s", "6 kbit/s"]
    size = len(data_of(opened, 2))
    assert f"{size:,} bytes" in opened.execute_script("return rows[2].textContent")
    saved = opened.execute_script("return [...document.links].map((link) => link.download)")
    assert saved[2:4] == ["speech-2.2.btn", "speech-2.2.wav"]
    fetched = opened.execute_async_script(
        "fetch(document.links[2].href).then((r) => r.arrayBuffer())"
        ".then((b) => arguments[0](Array.from(new Uint8Array(b))))"
    )
    assert bytes(fetched) == data_of(opened, 2)
    opened.execute_script("say(''); chosen.get(2.2).click()")
    wait(opened, DONE, 300)


@pytest.mark.slow
def test_rows_play_by_keyboard_and_spectrograms_are_drawn(opened):
    from selenium.webdriver import Keys

    opened.execute_script("document.activeElement.blur()")
    press(opened, " ")
    wait(opened, "player.playing")
    press(opened, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    wait(opened, "player.active === 2 && player.levels[2] === 1")
    press(opened, "o")
    assert opened.execute_script("return player.active") == 0
    press(opened, " ")
    wait(opened, "!player.playing")
    wait(opened, "rows.every((row) => row.querySelector('canvas').width === 420)")
    colours = opened.execute_script(
        "return rows.map((row) => { const c = row.querySelector('canvas');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return new Set(d.filter((_, i) => i % 4 === 0)).size; })"
    )
    assert all(count > 50 for count in colours)


@pytest.mark.slow
def test_a_phone_needs_no_sideways_scrolling(opened):
    with phone(opened):
        assert opened.execute_script("return document.documentElement.scrollWidth") == 390


@pytest.mark.slow
@pytest.mark.parametrize("way", ["variable", "constant", "stereo", "live", "former"])
def test_files_of_the_command_line_are_opened_and_heard(page, codec, speech, tmp_path, way):
    source, rate, options = tmp_path / "speech.wav", 16_000, ["--bitrate", "3"]
    wav = speech[:64_000]
    if way == "constant":
        options = ["--stages", "7"]
    if way == "stereo":
        wide, rate = soxr.resample(wav, 16_000, 44_100), 44_100
        wav = np.stack([wide, 0.5 * wide[::-1]], axis=1)
    sf.write(source, wav, rate)
    target = tmp_path / f"{way}.btn"
    command = [sys.executable, "-m", "bittern", "compress", *options, "--engine", "onnx", "--model"]
    ends = ["-", "-"] if way == "live" else [source, target]
    with source.open("rb") as stdin:
        done = subprocess.run(
            [*command, CHECKPOINT, *ends], stdin=stdin, capture_output=True, check=True
        )
    if way == "live":
        target.write_bytes(done.stdout)
    if way == "former":  # coded by an entropy model of before
        (former,) = CHECKPOINT.glob("entropy-*.safetensors")
        model = EntropyModel(former.read_bytes(), former.name)
        target.write_bytes(coded_by(model, target.read_bytes(), codec))
    give(page, target)
    found = js(page, "versions[0].channels.map((channel) => Array.from(channel))")
    expected = samples_of(target.read_bytes(), codec)
    assert found.shape == expected.shape == ((2 if way == "stereo" else 1), 64_000)
    assert np.abs(found - expected).max() < 1e-3
    wait(page, f"rows.length === 1 && rows[0].dataset.name === '{way}.btn'")


@pytest.mark.slow
def test_what_cannot_be_read_is_said_and_the_page_goes_on(page, codec, speech, tmp_path):
    path = tmp_path / "whole.btn"
    data = codec.compress(speech[:16_000], 16_000, stages=4)
    cases = {
        "damaged": data[:100] + bytes([data[100] ^ 1]) + data[101:],
        "other": data[:6] + bytes(8) + data[14:],
        "short": data[:-1],
    }
    for name, broken in cases.items():
        (tmp_path / f"{name}.btn").write_bytes(broken)
        page.find_element("id", "file").send_keys(str(tmp_path / f"{name}.btn"))
        wait(page, f"at('status').textContent.startsWith('{name}.btn: ')")
        assert page.execute_script("return at('status').className") == "bad"
    (tmp_path / "text.wav").write_text("no audio")
    page.find_element("id", "file").send_keys(str(tmp_path / "text.wav"))
    wait(page, "at('status').textContent.includes('cannot read it as audio')")
    path.write_bytes(data)
    give(page, path)


@pytest.mark.slow
def test_the_microphone_is_coded(page):
    page.execute_script("say('')")
    page.find_element("id", "speak").click()
    wait(page, "at('status').textContent.startsWith('Recording, 2')")
    page.find_element("id", "speak").click()
    wait(page, DONE, 300)
    loudest, seconds = page.execute_script(
        "return [Math.max(...sound.samples), sound.samples.length / 16000]"
    )
    assert loudest > 0.1  # Chromium's device beeps
    assert 1.9 < seconds < 4
    assert page.execute_script("return versions.slice(1).every((v) => v.data.length > 64)")


@pytest.mark.slow
def test_nothing_is_requested_beyond_the_folder(folder, tmp_path):
    """By the log of the browser's network, of workers too, and by that of the server."""
    log = tmp_path / "net.json"
    with serve(folder) as served:
        with open_browser(f"log-net-log={log}", *MICROPHONE) as browser:
            browser.get(f"{served.url}/index.html")
            browser.find_element("id", "example").click()
            wait(browser, DONE, 300)
            page_data = data_of(browser, 1)
        assert len(page_data) > 1000
        time.sleep(0.5)
        recorded = json.loads(log.read_text())
        requested = {
            event["params"]["url"]
            for event in recorded["events"]
            if str(event.get("params", {}).get("initiator", "")).startswith(served.url)
            and "url" in event["params"]
        }
        assert f"{served.url}/model.safetensors" in requested  # the worker's too: the log works
        assert [url for url in requested if not url.startswith(f"{served.url}/")] == []
        names = {path.name for path in folder.iterdir()}
        asked = {path.strip("/") for path, _ in served.log}
        assert asked <= names
        assert {code for _, code in served.log} == {200}
