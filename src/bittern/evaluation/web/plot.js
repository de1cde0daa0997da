"use strict";

/** Make an SVG element. */
function svg(name, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

/** Rate-distortion curves of one metric: kbit/s on a logarithmic axis, intervals as bars. */
function drawCurves(holder, report, metric, colours) {
  const narrow = window.matchMedia("(max-width: 40rem)").matches;
  const size = narrow ? { width: 540, height: 480 } : { width: 900, height: 420 };
  const edge = narrow
    ? { left: 50, right: 14, top: 18, bottom: 56 }
    : { left: 56, right: 20, top: 18, bottom: 48 };
  const shown = report.systems.filter((s) => s.scores[metric.key] && s.kbps > 0);
  holder.replaceChildren();
  if (!shown.length) {
    holder.textContent = "No clip has this score.";
    return;
  }
  const rates = shown.map((s) => Math.log2(s.kbps));
  const values = shown.flatMap((s) => [s.scores[metric.key].low, s.scores[metric.key].high]);
  const [left, right] = padded(Math.min(...rates), Math.max(...rates), 0.04);
  const [bottom, top] = padded(Math.min(...values), Math.max(...values), 0.05);
  const inner = { width: size.width - edge.left - edge.right, height: size.height - edge.top - edge.bottom };
  const x = (kbps) => edge.left + ((Math.log2(kbps) - left) / (right - left)) * inner.width;
  const y = (value) => edge.top + ((top - value) / (top - bottom)) * inner.height;

  const picture = svg("svg", {
    viewBox: `0 0 ${size.width} ${size.height}`, role: "img",
    "aria-label": `${metric.label} over measured kbit/s; the figures are in the table below`,
  });
  for (let power = Math.ceil(left); power <= right; power++) {
    const at = x(2 ** power);
    picture.append(
      svg("line", { class: "grid", x1: at, x2: at, y1: edge.top, y2: size.height - edge.bottom }),
      svg("text", { x: at, y: size.height - edge.bottom + (narrow ? 21 : 18), "text-anchor": "middle" }, String(2 ** power)),
    );
  }
  for (const value of niceTicks(bottom, top)) {
    picture.append(
      svg("line", { class: "grid", x1: edge.left, x2: size.width - edge.right, y1: y(value), y2: y(value) }),
      svg("text", { x: edge.left - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)),
    );
  }
  picture.append(svg("text", {
    x: edge.left + inner.width / 2, y: size.height - (narrow ? 10 : 8), "text-anchor": "middle",
  }, "measured kbit/s"));

  const tip = svg("g", { class: "tip", visibility: "hidden" });
  for (const [family, colour] of Object.entries(colours)) {
    const points = shown.filter((s) => s.family === family).sort((a, b) => a.kbps - b.kbps);
    if (!points.length) continue;
    const model = points[0].is_model;
    picture.append(svg("polyline", {
      class: "curve",
      points: points.map((s) => `${x(s.kbps)},${y(s.scores[metric.key].mean)}`).join(" "),
      fill: "none", stroke: colour, "stroke-width": model ? 3.5 : 2, "stroke-dasharray": model ? "none" : "6 4",
    }));
    for (const system of points) picture.append(point(system, colour, model ? 6 : 5));
  }
  picture.append(tip);
  holder.append(picture);

  function point(system, colour, radius) {
    const score = system.scores[metric.key];
    const at = { x: x(system.kbps), y: y(score.mean) };
    const said = `${system.name}: ${score.mean.toFixed(metric.decimals)} `
      + `(${score.low.toFixed(metric.decimals)} to ${score.high.toFixed(metric.decimals)}) at ${system.kbps.toFixed(2)} kbit/s`;
    const group = svg("g", { class: "point curve", tabindex: "0", "aria-label": said });
    group.append(
      svg("line", { x1: at.x, x2: at.x, y1: y(score.low), y2: y(score.high), stroke: colour, "stroke-width": 1.5 }),
      svg("circle", { cx: at.x, cy: at.y, r: radius, fill: colour }),
      svg("circle", { cx: at.x, cy: at.y, r: 16, fill: "transparent" }),
    );
    const show = () => {
      const lines = said.split(": ");
      const width = Math.max(...lines.map((line) => line.length)) * (narrow ? 9 : 7) + 20;
      const step = narrow ? 22 : 18;
      const corner = {
        x: Math.min(Math.max(at.x - width / 2, 4), size.width - width - 4),
        y: at.y > size.height / 2 ? at.y - 2 * step - 34 : at.y + 18,
      };
      tip.replaceChildren(
        svg("rect", { x: corner.x, y: corner.y, width, height: 2 * step + 12, rx: 6 }),
        ...lines.map((line, i) => svg("text", { x: corner.x + 10, y: corner.y + step * (i + 1) }, line)),
      );
      tip.setAttribute("visibility", "visible");
    };
    const hide = () => tip.setAttribute("visibility", "hidden");
    group.addEventListener("pointerenter", show);
    group.addEventListener("focus", show);
    group.addEventListener("pointerleave", hide);
    group.addEventListener("blur", hide);
    return group;
  }
}

function padded(low, high, share) {
  const margin = (high - low) * share || 0.5;
  return [low - margin, high + margin];
}

/** Round values inside a range, about six of them. */
function niceTicks(low, high) {
  const rough = (high - low) / 6;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= rough);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) ticks.push(Number((n * step).toPrecision(10)));
  return ticks;
}
