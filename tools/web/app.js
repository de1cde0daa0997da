"use strict";

/* The page: sound comes in, versions of it go into rows. The codec is in worker.js, rows in rows.js. */

const ORIGINAL = "Original";
const RATES = [1, 1.5, 3, 6, 9, 12], FIRST = [1.5, 3, 6]; // kbit/s
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map(); // requests to the worker by number
const chosen = new Map(); // buttons of bitrates by kbit/s
let about = null; // codec.json
let sound = null; // what is coded: {name, samples [T] at the codec's rate}
let versions = []; // in the order of the rows: {key, name, rate, score, channels, data}
let recording = null;
let task = 0; // counts what was begun: only the last one may finish

/* ---- The worker ---- */

function ask(action, given) {
  return new Promise((resolve, reject) => {
    waiting.set(waiting.size, { resolve, reject });
    worker.postMessage({ id: waiting.size - 1, action, given });
  });
}

worker.onmessage = ({ data: { id, result, seconds, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.set(id, null);
  if (error) reject(new Error(error));
  else resolve({ result, seconds });
};
worker.onerror = (event) => say(`The codec cannot be loaded (${event.message ?? "is the page opened from a server?"}).`, true);

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

/* ---- Sound in ---- */

async function openFile(file) {
  const mine = ++task, before = sound;
  sound = null; // so that nothing codes it on while the next one is taken in
  stopRecording();
  try {
    const bytes = await file.arrayBuffer();
    if (mine !== task) return;
    await (/\.btn$/i.test(file.name) ? openCoded(file.name, new Uint8Array(bytes), mine) : openSound(file.name, bytes, mine));
  } catch (error) {
    if (mine !== task) return;
    sound ??= before;
    say(`${file.name}: ${error.message}.`, true);
  }
}

/** Audio of any kind that the browser reads, to one channel at the codec's rate. */
async function openSound(name, bytes, mine) {
  say(`Reading ${name} …`);
  await ready;
  const context = new OfflineAudioContext(1, 1, about.config.sample_rate);
  const buffer = await context.decodeAudioData(bytes).catch(() => {
    throw new Error("this browser cannot read it as audio");
  });
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, n) => buffer.getChannelData(n));
  const samples = channels[0].slice();
  for (const channel of channels.slice(1)) channel.forEach((value, n) => (samples[n] += value));
  if (channels.length > 1) samples.forEach((value, n) => (samples[n] = value / channels.length));
  say(`Listening to ${name} …`);
  const { seconds } = await ask("analyse", samples);
  if (mine !== task) return;
  sound = { name: name.replace(/\.[^.]*$/, ""), samples, seconds };
  const kbps = (16 * about.config.sample_rate) / 1000;
  versions = [{ key: ORIGINAL, name: ORIGINAL, rate: `${kbps} kbit/s`, score: "16-bit PCM", channels: [samples] }];
  await codeChosen(mine);
}

/** A file that was coded before, here or by the command line. */
async function openCoded(name, data, mine) {
  say(`Decoding ${name} …`);
  await ready;
  const version = await decoded(name, name, data);
  if (mine !== task) return;
  version.name = name;
  versions = [version];
  await show();
  say(`${name}: decoded in ${version.seconds.toFixed(1)} s.`);
}

async function speak() {
  if (recording) {
    const { name, blocks, rate } = recording;
    stopRecording();
    const samples = new Float32Array(blocks.reduce((sum, block) => sum + block.length, 0));
    let place = 0;
    for (const block of blocks) {
      samples.set(block, place);
      place += block.length;
    }
    await openFile(new File([encodeWav([samples], rate, 32)], name));
    return;
  }
  const mine = ++task;
  player.pause();
  try {
    if (!navigator.mediaDevices) throw new Error("browsers give it to https pages and to localhost alone");
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    const context = new AudioContext();
    await context.audioWorklet.addModule("recorder.js");
    const node = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    recording = { name: "recording.wav", blocks: [], rate: context.sampleRate, stream, context };
    const { blocks } = recording;
    node.port.onmessage = ({ data }) => {
      blocks.push(data);
      if (recording?.blocks === blocks) say(`Recording, ${((blocks.length * data.length) / context.sampleRate).toFixed(1)} s. Press Stop when done.`);
    };
    context.createMediaStreamSource(stream).connect(node);
    at("speak").textContent = "Stop";
    at("speak").setAttribute("aria-pressed", "true");
    if (mine !== task) stopRecording();
  } catch (error) {
    say(`No microphone: ${error.message}.`, true);
  }
}

function stopRecording() {
  if (!recording) return;
  for (const track of recording.stream.getTracks()) track.stop();
  recording.context.close();
  recording = null;
  at("speak").textContent = "Speak";
  at("speak").setAttribute("aria-pressed", "false");
}

/* ---- Coding ---- */

/** Code the sound at every chosen bitrate at which it is not there yet, and show all. */
async function codeChosen(mine) {
  const wanted = [...chosen].filter(([, button]) => button.getAttribute("aria-pressed") === "true").map(([kbps]) => kbps);
  const keys = wanted.sort((a, b) => a - b).map((kbps) => ({ kbps, key: `${kbps}${at("constant").checked ? " constant" : ""}` }));
  const known = new Map(versions.map((version) => [version.key, version]));
  let spent = sound.seconds;
  for (const { kbps, key } of keys) {
    if (known.has(key)) continue;
    say(`Coding ${sound.name} at ${kbps} kbit/s …`);
    const version = await code(kbps, key);
    if (mine !== task) return;
    known.set(key, version);
    spent += version.seconds;
  }
  versions = [known.get(ORIGINAL), ...keys.map(({ key }) => known.get(key))];
  await show();
  if (mine !== task) return;
  const seconds = sound.samples.length / about.config.sample_rate;
  say(`${sound.name}: ${seconds.toFixed(1)} s of sound, coded and decoded in ${spent.toFixed(1)} s.`);
  sound.seconds = 0;
}

async function code(kbps, key) {
  const { config } = about;
  const stages = Math.floor((kbps * 1000 * config.hop_length) / config.sample_rate / Math.log2(config.quantizer.codebook_size) + 1e-9);
  const { result, seconds } = at("constant").checked
    ? await ask("compressConstant", Math.min(Math.max(stages, 1), config.quantizer.stages))
    : await ask("compress", kbps);
  const version = await decoded(key, `${sound.name}-${kbps}.btn`, result);
  version.coding = seconds;
  version.seconds += seconds;
  return { ...version, name: `${kbps} kbit/s` };
}

/** A version of the bytes of a `.btn` file. */
async function decoded(key, file, data) {
  const { result: { samples, meanStages, header }, seconds } = await ask("decompress", data);
  const length = header.sourceSamples / header.sourceRate;
  return {
    key, file, data, seconds, header,
    channels: samples,
    rate: `${data.length.toLocaleString("en")} bytes`,
    score: `${((8 * data.length) / 1000 / length).toFixed(2)} kbit/s, ${meanStages.toFixed(1)} codes a frame`,
  };
}

/* ---- Rows ---- */

let urls = []; // that hold memory until they are given back

async function show() {
  const place = player.place, { playing } = player;
  at("listen").hidden = false;
  urls.forEach(URL.revokeObjectURL);
  urls = [];
  const rate = about.config.sample_rate;
  const heard = versions.map(({ channels }) => urlOf(encodeWav(channels, rate), "audio/wav"));
  showRows(versions);
  versions.forEach((version, n) => rows[n].after(saves(version, heard[n])));
  if (!(await player.load(heard))) return;
  versions.forEach(({ channels }, n) => drawSpectrogram(rows[n].querySelector("canvas"), channels[0]));
  if (place && place < player.duration) await player.seek(place);
  if (playing) await player.play();
  showPlayer();
}

/** Links to save a version as it is coded, and as it sounds. */
function saves({ file, data }, wav) {
  if (!data) return html("div", { className: "saves" });
  const name = file.replace(/\.btn$/i, "");
  const link = (href, kind) => html("a", { href, download: `${name}.${kind}`, title: `${name}.${kind}` }, `Save .${kind}`);
  return html("div", { className: "saves" }, link(urlOf(data, "application/octet-stream"), "btn"), link(wav, "wav"));
}

function urlOf(data, type) {
  urls.push(URL.createObjectURL(new Blob([data], { type })));
  return urls.at(-1);
}

/* ---- What is pressed ---- */

function addRate(kbps, pressed) {
  if (chosen.has(kbps)) {
    chosen.get(kbps).setAttribute("aria-pressed", "true");
    return;
  }
  const button = html("button", { type: "button" }, `${kbps} kbit/s`);
  button.setAttribute("aria-pressed", String(pressed));
  button.onclick = () => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") === "false"));
    change();
  };
  chosen.set(kbps, button);
  at("rate-choices").replaceChildren(...[...chosen].sort(([a], [b]) => a - b).map(([, own]) => own));
}

/** Code anew after another choice. */
async function change() {
  if (!sound) return;
  const mine = ++task;
  try {
    await codeChosen(mine);
  } catch (error) {
    if (mine === task) say(`${sound.name}: ${error.message}.`, true);
  }
}

function addOwnRate() {
  const input = at("rate-own");
  if (!input.value || !input.checkValidity()) {
    input.reportValidity();
    return;
  }
  addRate(Number(input.value), true);
  input.value = "";
  change();
}

function setUp() {
  for (const kbps of RATES) addRate(kbps, FIRST.includes(kbps));
  at("open").onclick = () => at("file").click();
  at("file").onchange = () => {
    const [file] = at("file").files;
    at("file").value = "";
    if (file) openFile(file);
  };
  at("speak").onclick = speak;
  at("example").onclick = async () => openFile(new File([await (await fetch("example.flac")).arrayBuffer()], "example.flac"));
  at("constant").onchange = change;
  at("rate-add").onclick = addOwnRate;
  at("rate-own").onkeydown = ({ key }) => {
    if (key === "Enter") addOwnRate();
  };
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) openFile(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("keydown", listenKey);
  setUpPlayer();
}

setUp();
const ready = ask("load").then(({ result }) => {
  about = result;
  const { name, sample_rate } = about.config;
  at("made").textContent = `Codec ${name} (${about.fingerprint}), ${sample_rate / 1000} kHz, one channel, run by onnxruntime-web.`;
  if (!task) say("Ready.");
});
ready.catch((error) => say(`The codec cannot be loaded: ${error.message}.`, true));
