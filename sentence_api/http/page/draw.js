// Elements, numbers and small charts. What comes from outside is only ever set as text or as an
// attribute, so that it cannot become markup.

const SVG = "http://www.w3.org/2000/svg";
const CHART_WIDTH = 200;
const CHART_HEIGHT = 44;
const GAUGE_WIDTH = 100;
const GAUGE_HEIGHT = 10;
// How far a gauge reaches beyond its critical threshold.
const GAUGE_REACH = 1.25;
// Samples further apart than so many usual distances have a gap between them.
const GAP = 3;

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const el = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

export const cell = (text, kind) => el("td", { class: kind }, text);

export const fact = (name, value, kind) =>
  el("div", { class: kind }, el("dt", {}, name), el("dd", {}, value));

/** A number with the digits that matter, or a dash for what is unknown. */
export function number(value, unit = "") {
  if (value === null || value === undefined) return "–";
  const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 1 ? 1 : 2;
  const text = value.toLocaleString("en", { maximumFractionDigits: digits });
  return text + (unit && `\u00a0${unit}`);
}

/** A duration that may be very short, as a response time. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  return seconds > 0 && seconds < 1 ? number(seconds * 1000, "ms") : number(seconds, "s");
}

/** A duration that may be very long, as an age: its two largest units. */
export function age(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, length]) => seconds >= length);
  if (first < 0) return "0 s";
  const [unit, length] = units[first];
  const whole = Math.floor(seconds / length);
  const rest = units[first + 1] && Math.floor((seconds % length) / units[first + 1][1]);
  return `${whole} ${unit}` + (rest ? ` ${rest} ${units[first + 1][0]}` : "");
}

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  while (bytes >= 1024 && step < units.length - 1) {
    bytes /= 1024;
    step += 1;
  }
  return `${Math.round(bytes * 10) / 10}\u00a0${units[step]}`;
}

/** The time of day here, with the date where that is another; the exact moment as a tooltip. */
export function moment(iso) {
  const date = new Date(iso);
  const clock = date.toLocaleTimeString("en-GB");
  const today = date.toDateString() === new Date().toDateString();
  const day = date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  return el("time", { datetime: iso, title: iso }, today ? clock : `${day} ${clock}`);
}

export const verdict = (word) => el("span", { class: "verdict", "data-verdict": word }, word);

const line = (x1, y1, x2, y2, kind) =>
  svg("line", { x1, y1, x2, y2, class: kind, "vector-effect": "non-scaling-stroke" });

/**
 * A bar against its thresholds. Percentages end at 100, all else a little beyond "critical".
 * Returns null where there is nothing to measure against.
 */
export function gauge(row) {
  if (row.value === null || !row.critical) return null;
  const reach = row.critical * GAUGE_REACH;
  const end = row.unit === "%" ? Math.min(reach, 100) : reach;
  const at = (value) => Math.min(1, Math.max(0, value / end)) * GAUGE_WIDTH;
  const zone = (from, to, kind) =>
    svg("rect", { x: from, width: Math.max(0, to - from), height: GAUGE_HEIGHT, class: kind });
  const warning = row.warning === null ? at(row.critical) : at(row.warning);
  return svg(
    "svg",
    {
      class: "gauge",
      viewBox: `0 0 ${GAUGE_WIDTH} ${GAUGE_HEIGHT}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    },
    zone(0, warning, "zone"),
    zone(warning, at(row.critical), "zone warning"),
    zone(at(row.critical), GAUGE_WIDTH, "zone critical"),
    svg("rect", { y: 3, width: at(row.value), height: 4, class: `fill ${row.verdict}` }),
  );
}

/** Runs of points between the gaps where nothing was measured: no value, or no sample at all. */
function runs(points) {
  const steps = points.slice(1).map(([x], i) => x - points[i][0]);
  const usual = steps.toSorted((a, b) => a - b)[Math.floor(steps.length / 2)];
  const found = [[]];
  points.forEach((point, i) => {
    if (point[1] === null || (i > 0 && steps[i - 1] > GAP * usual)) found.push([]);
    if (point[1] !== null) found.at(-1).push(point);
  });
  return found.filter((run) => run.length > 0);
}

/** A line of values over time, with a dot for a value alone; `thresholds` are drawn where they lie within the scale. */
export function sparkline(times, values, { end = null, thresholds = {}, label }) {
  const known = values.filter((value) => value !== null);
  const top = end ?? (Math.max(...known, 0) * 1.15 || 1);
  const [first, last] = [times[0], times.at(-1)];
  const x = (time) => ((time - first) / (last - first || 1)) * CHART_WIDTH;
  const y = (value) => CHART_HEIGHT - 1 - (Math.min(value, top) / top) * (CHART_HEIGHT - 3);
  const points = times.map((time, i) => [x(time), values[i] === null ? null : y(values[i])]);
  const path = (run) => run.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L");
  const floor = CHART_HEIGHT;
  return svg(
    "svg",
    {
      class: "spark",
      viewBox: `0 0 ${CHART_WIDTH} ${CHART_HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": label,
    },
    ...runs(points).flatMap((run) => [
      svg("path", { class: "area", d: `M${run[0][0].toFixed(1)} ${floor}L${path(run)}L${run.at(-1)[0].toFixed(1)} ${floor}Z` }),
      svg("path", { class: "line", d: `M${path(run)}h0`, "vector-effect": "non-scaling-stroke" }),
    ]),
    ...Object.entries(thresholds)
      .filter(([, value]) => value !== null && value <= top)
      .map(([kind, value]) => line(0, y(value), CHART_WIDTH, y(value), `limit ${kind}`)),
  );
}

/** Parts of a whole as one bar. */
export function stack(parts) {
  const whole = parts.reduce((sum, { value }) => sum + value, 0) || 1;
  let x = 0;
  const bars = parts.map(({ value, kind }) => {
    const width = (value / whole) * GAUGE_WIDTH;
    x += width;
    return svg("rect", { x: x - width, width, height: GAUGE_HEIGHT, class: kind });
  });
  const viewBox = `0 0 ${GAUGE_WIDTH} ${GAUGE_HEIGHT}`;
  return svg("svg", { class: "stack", viewBox, preserveAspectRatio: "none", "aria-hidden": "true" }, ...bars);
}
