// Decode an Ogg Opus file with NoLACE, libopus's network for better speech: node nolace.cjs IN OUT.wav
// `node nolace.cjs --version` says which decoder is found. Needs npm's ogg-opus-decoder (MIT).
"use strict";

const fs = require("node:fs");
const path = require("node:path");

const PACKAGE = "ogg-opus-decoder";
const RATE = 16000; // Hz: the network works on wideband

/** The package's folder: below here, in NODE_PATH, or where npm installs globally. */
function find() {
  const global = path.join(path.dirname(process.execPath), "..", "lib", "node_modules");
  const places = [process.cwd(), global, "/usr/local/lib/node_modules"];
  for (const place of [undefined, ...places]) {
    try {
      const options = place === undefined ? undefined : { paths: [place, path.dirname(place)] };
      return path.dirname(require.resolve(PACKAGE, options));
    } catch {
      // not there
    }
  }
  throw new Error(`${PACKAGE} not found by node; npm install -g ${PACKAGE}`);
}

function version(folder) {
  return JSON.parse(fs.readFileSync(path.join(folder, "package.json"), "utf8")).version;
}

async function decode(folder, source) {
  const { OggOpusDecoder } = await import(require("node:url").pathToFileURL(path.join(folder, "index.js")));
  const decoder = new OggOpusDecoder({ speechQualityEnhancement: "nolace", sampleRate: RATE });
  await decoder.ready;
  const { channelData, errors } = await decoder.decodeFile(new Uint8Array(fs.readFileSync(source)));
  if (errors.length) throw new Error(errors[0].message);
  return channelData[0];
}

/** A mono WAV file of floats. */
function wav(samples) {
  const data = Buffer.from(samples.buffer, samples.byteOffset, samples.byteLength);
  const head = Buffer.alloc(44);
  head.write("RIFF", 0);
  head.writeUInt32LE(36 + data.length, 4);
  head.write("WAVEfmt ", 8);
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(3, 20); // floats
  head.writeUInt16LE(1, 22);
  head.writeUInt32LE(RATE, 24);
  head.writeUInt32LE(4 * RATE, 28);
  head.writeUInt16LE(4, 32);
  head.writeUInt16LE(32, 34);
  head.write("data", 36);
  head.writeUInt32LE(data.length, 40);
  return Buffer.concat([head, data]);
}

async function main([source, target]) {
  const folder = find();
  if (source === "--version") console.log(`NoLACE of ${PACKAGE} ${version(folder)}`);
  else fs.writeFileSync(target, wav(await decode(folder, source)));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
