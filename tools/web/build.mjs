/**
 * Put the page together: node build.mjs [CHECKPOINT [OUT]].
 *
 * What comes out is a folder of static files: the page, onnxruntime-web, and the graphs, weights and entropy
 * model of a checkpoint, with codec.json, which says what they are.
 */

import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { readTensors } from "./safetensors.js";

const here = dirname(fileURLToPath(import.meta.url)), root = resolve(here, "../..");
const [checkpoint = join(root, "checkpoints/speech-16khz"), out = join(root, "build/web")] = process.argv.slice(2);
const runtime = join(here, "node_modules/onnxruntime-web/dist");
const listening = join(root, "src/bittern/evaluation/web");

const former = readdirSync(checkpoint).filter((name) => /^entropy-[0-9a-f]{16}\.safetensors$/.test(name)); // of files made before

const sources = [
  [here, ["index.html", "web.css", "app.js", "worker.js", "recorder.js", "wav.js", "codec.js", "search.js",
    "allocation.js", "container.js", "payload.js", "entropy.js", "rangecoder.js", "safetensors.js"]],
  [listening, ["page.css", "player.js", "spectrogram.js", "rows.js"]],
  [runtime, ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"]],
  [checkpoint, ["encoder.onnx", "decoder.onnx", "model.safetensors", "entropy.safetensors", ...former]],
];
for (const [folder, names] of sources) {
  for (const name of names) {
    if (!existsSync(join(folder, name))) {
      const advice = folder === runtime ? "run `npm ci` here" : "`bittern export` makes graphs, `bittern fit-entropy` entropy models";
      console.error(`build.mjs: ${join(folder, name)}: not there; ${advice}`);
      process.exit(1);
    }
  }
}

const fingerprint = (name) => createHash("sha256").update(readFileSync(join(checkpoint, name))).digest("hex").slice(0, 16);
const config = JSON.parse(readFileSync(join(checkpoint, "config.json"), "utf8"));
const { metadata } = readTensors(new Uint8Array(readFileSync(join(checkpoint, "model.safetensors"))));
const spectral = [config.encoder, config.decoder].some((network) => network?.input === "spectrum");
const about = {
  fingerprint: fingerprint("model.safetensors"),
  decodes: metadata.decodes ? metadata.decodes.split(",").map((name) => name.trim()) : [],
  entropy: fingerprint("entropy.safetensors"),
  formerEntropy: former.map((name) => name.slice(8, 24)),
  extraFrames: config.linear_path === "mdct" || spectral ? 1 : 0,
  config,
};

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
for (const [folder, names] of sources) for (const name of names) copyFileSync(join(folder, name), join(out, name));
copyFileSync(join(root, "examples/speech.flac"), join(out, "example.flac"));
writeFileSync(join(out, "codec.json"), JSON.stringify(about, null, 2));
