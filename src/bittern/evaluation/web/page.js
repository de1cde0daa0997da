"use strict";

const ORIGINAL = "Original";
const report = JSON.parse(document.getElementById("data").textContent);
const systems = new Map(report.systems.map((system) => [system.name, system]));
const metrics = new Map(report.metrics.map((metric) => [metric.key, metric]));
let test = null; // the blind test that is running

/** The version of a heard clip with this name. */
function versionOf(heard, name) {
  return heard.versions.find((version) => (version.system ?? ORIGINAL) === name);
}

/** Mean measured kbit/s of a system, as text. */
function rateOf(name) {
  return systems.has(name) ? systems.get(name).kbps.toFixed(1) : "";
}

function better(metric) {
  return metric.higher_is_better ? "higher" : "lower";
}

/** A p value as text. */
function chance(p) {
  return p < 0.001 ? "< .001" : `= ${p.toFixed(3).replace(/^0/, "")}`;
}

function number(value, metric) {
  return value === undefined ? "–" : value.toFixed(metric.decimals);
}

/* ---- The head and the curves ---- */

function showHead() {
  const seconds = report.clips.reduce((sum, clip) => sum + clip.seconds, 0);
  const models = [...new Set(report.systems.filter((s) => s.is_model).map((s) => s.family))];
  const others = [...new Set(report.systems.filter((s) => !s.is_model).map((s) => s.family))];
  at("summary").textContent = `${models.join(" and ")}${others.length ? " beside " + others.join(", ") : ""}, `
    + `on ${report.clips.length} clips, ${(seconds / 60).toFixed(1)} minutes.`;
  at("made").textContent = `Made ${report.made} with bittern ${report.bittern} on ${report.machine}: ${report.command}`;
  for (const [family, colour] of Object.entries(report.colours)) {
    const dot = html("span");
    dot.style.background = colour;
    const model = report.systems.some((s) => s.family === family && s.is_model);
    at("legend").append(html("li", {}, dot, model ? family : `${family} (${report.codecs[family]})`));
  }
}

function showCurves(key) {
  const metric = metrics.get(key);
  drawCurves(at("plot"), report, metric, report.colours);
  at("metric-direction").textContent = `${metric.label}${metric.unit ? ` in ${metric.unit}` : ""}: `
    + `${better(metric)} is better.`;
  for (const button of at("metric-choices").children) {
    button.setAttribute("aria-pressed", String(button.dataset.key === key));
  }
}

function setUpCurves() {
  const scored = report.metrics.filter((m) => report.systems.some((s) => s.scores[m.key]));
  for (const metric of scored) {
    at("metric-choices").append(html("button", {
      type: "button", dataset: { key: metric.key }, onclick: () => showCurves(metric.key),
    }, metric.label));
  }
  if (!scored.length) return;
  showCurves(scored[0].key);
  window.matchMedia("(max-width: 40rem)").addEventListener("change", () => {
    showCurves(at("metric-choices").querySelector("[aria-pressed=true]").dataset.key);
  });
}

/* ---- Listening ---- */

async function showClip(index) {
  const heard = report.heard[index];
  const clip = report.clips.find((entry) => entry.name === heard.clip);
  at("clip-note").textContent = `${clip.seconds.toFixed(1)} s${clip.note ? `, ${clip.note}` : ""}. `
    + "The scores are of the whole clip.";
  showRows(heard.versions.map((version) => describe(clip, version)));
  const urls = heard.versions.map((version) => version.audio);
  try {
    if (!(await player.load(urls))) return;
  } catch (error) {
    at("clip-note").textContent = `This browser cannot play the audio (${error.message}).`;
    return;
  }
  player.buffers.forEach((buffer, n) => drawSpectrogram(rows[n].querySelector("canvas"), atRate(buffer, clip.sample_rate)));
}

/** Samples of a decoded buffer at the clip's own rate: the browser decodes to its own. */
function atRate(buffer, rate) {
  const data = buffer.getChannelData(0);
  const step = buffer.sampleRate / rate;
  if (step === 1) return data;
  return Float32Array.from({ length: Math.floor(data.length / step) }, (_, n) => data[Math.round(n * step)] ?? 0);
}

/** What a row says of a version. */
function describe(clip, version) {
  const name = version.system ?? ORIGINAL, result = clip.results[version.system];
  if (!result) return { name, rate: `${(clip.sample_rate * 16) / 1000} kbit/s`, score: "16-bit PCM" };
  const parts = ["pesq_wb", "estoi", "dnsmos"].filter((key) => key in result.scores)
    .map((key) => `${metrics.get(key).label.split(" ")[0]} ${number(result.scores[key], metrics.get(key))}`);
  return { name, rate: `${result.kbps.toFixed(2)} kbit/s`, score: parts.join(" · ") };
}

function setUpListening() {
  if (!report.heard.length) {
    at("listen").hidden = at("blind").hidden = true;
    return;
  }
  report.heard.forEach((heard, n) => at("clip-choice").append(html("option", { value: n }, heard.clip)));
  at("clip-choice").onchange = () => showClip(Number(at("clip-choice").value));
  setUpPlayer();
  showClip(0);
}

document.addEventListener("keydown", (event) => {
  if (!test) listenKey(event);
  else if (!event.ctrlKey && !event.altKey && !event.metaKey) test.handleKey(event);
});

/* ---- Blind tests ---- */

function setUpBlind() {
  if (!report.heard.length) return;
  const names = report.heard[0].versions.map((version) => version.system ?? ORIGINAL);
  for (const id of ["abx-first", "abx-second"]) at(id).append(...names.map((name) => html("option", {}, name)));
  at("abx-second").selectedIndex = Math.min(2, names.length - 1);
  const kind = at("blind-kind");
  kind.onchange = () => {
    document.querySelectorAll(".abx-only").forEach((label) => (label.hidden = kind.value !== "abx"));
    at("blind-trials").value = kind.value === "abx" ? 10 : Math.min(report.heard.length, 5);
  };
  at("blind-start").onclick = startBlind;
}

function startBlind() {
  player.pause();
  const trials = Math.min(Math.max(Number(at("blind-trials").value) || 1, 1), 50);
  const [first, second] = [at("abx-first").value, at("abx-second").value];
  if (at("blind-kind").value === "abx") {
    const clips = shuffled(report.heard.filter((heard) => versionOf(heard, first) && versionOf(heard, second)));
    if (first === second || !clips.length) {
      at("blind-result").textContent = "Choose two different versions.";
      return;
    }
    test = new AbxTest(at("blind-stage"), endBlind, { clips, first, second, trials });
  } else {
    test = new RatingTest(at("blind-stage"), endBlind, { clips: report.heard, trials });
  }
  at("blind-result").replaceChildren();
  at("blind-setup").hidden = at("listen").inert = true;
  at("blind-stage").hidden = false;
  at("blind-stage").textContent = "Loading …";
  at("blind-stage").focus();
  test.start();
}

function endBlind(title, note, head, table) {
  test = null;
  at("blind-stage").hidden = true;
  at("blind-setup").hidden = at("listen").inert = false;
  const body = html("table", {}, tableRow("th", head), ...table.map((cells) => tableRow("td", cells)));
  at("blind-result").replaceChildren(html("h3", {}, title), html("p", {}, note), html("div", { className: "scroll" }, body));
}

function tableRow(kind, cells) {
  return html("tr", {}, ...cells.map((cell) => html(kind, {}, cell)));
}

/* ---- Figures ---- */

function showScores() {
  const head = ["", "kbit/s", "with container", ...report.metrics.map((m) => m.label + (m.unit ? `, ${m.unit}` : ""))];
  const lines = [...report.systems].sort((a, b) => a.kbps - b.kbps).map((system) => {
    const line = tableRow("td", [system.name, system.kbps.toFixed(2), system.file_kbps.toFixed(2)]);
    for (const metric of report.metrics) {
      const score = system.scores[metric.key];
      const cell = html("td", {}, number(score?.mean, metric));
      if (score) {
        cell.append(html("small", {}, `${number(score.low, metric)} to ${number(score.high, metric)}`));
        cell.title = `worst: ${number(score.worst.value, metric)}, ${score.worst.clip}`;
      }
      line.append(cell);
    }
    line.className = system.is_model ? "model" : "";
    return line;
  });
  at("scores").replaceChildren(tableRow("th", head), ...lines);
}

/** Against each other codec: its setting next above in kbit/s, or its highest. */
function showComparisons(name) {
  const own = systems.get(name);
  const families = [...new Set(report.systems.filter((s) => !s.is_model).map((s) => s.family))];
  const lines = families.map((family) => {
    const settings = report.systems.filter((s) => s.family === family && s.clips).sort((a, b) => a.kbps - b.kbps);
    const other = settings.find((s) => s.kbps >= own.kbps) ?? settings.at(-1);
    const found = other && report.comparisons.find((c) => c.first === name && c.second === other.name);
    return found ? comparisonRow(other, found) : null;
  });
  const head = ["against", "kbit/s", ...report.metrics.map((m) => m.label)];
  at("comparisons").replaceChildren(tableRow("th", head), ...lines.filter(Boolean));
}

function comparisonRow(other, found) {
  const line = tableRow("td", [other.name, other.kbps.toFixed(2)]);
  for (const metric of report.metrics) {
    const result = found.metrics[metric.key];
    const cell = html("td", {}, result ? `${Math.round(100 * result.won)} %` : "–");
    if (result) {
      const { mean, low, high } = result.difference;
      const sign = metric.higher_is_better ? 1 : -1;
      cell.className = low * sign > 0 && high * sign > 0 ? "better" : low * sign < 0 && high * sign < 0 ? "worse" : "";
      const signed = (value) => (value > 0 ? "+" : "") + number(value, metric);
      cell.append(html("small", {}, `${signed(mean)} (${signed(low)} to ${signed(high)}), p ${chance(result.p)}`));
    }
    line.append(cell);
  }
  return line;
}

function showCodebooks() {
  for (const [family, found] of Object.entries(report.codebooks)) {
    const saved = 100 * (1 - found.entropy_bits / found.sent_bits);
    const head = ["Stage", ...found.stages.map((s) => String(s.stage))];
    const line = (label, cell) => tableRow("td", [label, ...found.stages.map(cell)]);
    at("codebooks").append(
      html("h3", {}, `Codebooks of ${family}`),
      html("p", { className: "hint" }, `${found.frames} frames, ${found.codebook_size} entries a stage, ${found.bits_per_code} bits a code. `
        + `Entropies add up to ${saved.toFixed(1)} % less than is sent: what coding each stage by its own frequencies could save.`),
      html("div", { className: "scroll" }, html("table", {}, tableRow("th", head),
        line("entries used", (s) => `${(100 * s.usage).toFixed(0)} %`),
        line("perplexity", (s) => s.perplexity.toFixed(0)),
        line("entropy, bits", (s) => s.entropy.toFixed(2)))),
    );
  }
}

function showTroubles() {
  const lines = [
    ...report.missing,
    ...report.rejected.map((entry) => `${entry.clip}: left out, ${entry.reason}`),
    ...report.systems.flatMap((system) => system.broken.map(
      (entry) => `${entry.clip}, ${system.name}: broken, ${entry.faults.join(", ")}`)),
    ...report.failures.map((entry) => `${entry.clip}, ${entry.system}: ${entry.what} failed, ${entry.reason}`),
  ];
  if (!lines.length) return;
  at("troubles").append(html("h3", {}, "Broken or not evaluated"), html("ul", {}, ...lines.map((line) => html("li", {}, line))));
}

function setUpFigures() {
  showScores();
  const own = report.systems.filter((s) => s.is_model && s.clips);
  at("compare-choice").append(...own.map((s) => html("option", { value: s.name }, `${s.name}, ${s.kbps.toFixed(1)} kbit/s`)));
  at("compare-choice").onchange = () => showComparisons(at("compare-choice").value);
  const start = own.find((s) => s.kbps >= 2.9) ?? own.at(-1);
  if (start) {
    at("compare-choice").value = start.name;
    showComparisons(start.name);
  }
  showCodebooks();
  showTroubles();
}

showHead();
setUpCurves();
setUpListening();
setUpBlind();
setUpFigures();
