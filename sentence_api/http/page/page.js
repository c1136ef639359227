// The live part of the page: GET /status every few seconds, and GET /plan when a server is new.

import { ask, complain, isMissing } from "./ask.js";
import { age, cell, duration, el, fact, gauge, moment, number, size, sparkline, verdict } from "./draw.js";
import "./try.js";

const EVERY_MS = 3000;
const ANSWER_SECONDS = 10;
const find = (id) => document.getElementById(id);
const rowsOf = (id) => find(id).tBodies[0];

/** Calls `draw` when its data differ from last time: what stays can be selected and read. */
const drawn = new Map();
function redraw(name, data, draw) {
  const text = JSON.stringify(data);
  if (drawn.get(name) === text) return;
  draw(data);
  drawn.set(name, text);
}

const STATES = {
  ready: "Ready",
  starting: "Starting: the model is loading",
  draining: "Stopping: the last requests are being answered",
  unhealthy: "Unhealthy: the model did not load",
};

function summary({ state, verdict: worst, rows }) {
  const notable = rows.filter((row) => row.verdict === worst && worst !== "normal");
  const checks = notable.map((row) => row.title).join(", ");
  const found = worst === "normal" ? "every check is normal" : `${worst}: ${checks || "see below"}`;
  return `${STATES[state] ?? state}; ${found}`;
}

function showVerdict(status) {
  const place = find("verdict");
  const advice = status.rows.filter((row) => row.advice);
  place.dataset.verdict = status.verdict;
  place.replaceChildren(
    el("p", { class: "verdict", "data-verdict": status.verdict }, summary(status)),
    ...advice.map((row) => el("p", { class: "advice" }, row.advice)),
  );
  document.title = status.verdict === "normal" ? "sentence-api" : `${status.verdict} · sentence-api`;
}

function showService(service) {
  const engine = [service.engine, service.precision].filter(Boolean).join(" ");
  const facts = [
    service.model,
    service.dimensions && `${service.dimensions} dimensions`,
    service.max_tokens && `reads ${service.max_tokens} tokens`,
    engine,
    service.version && `version ${service.version}`,
  ];
  const parts = [facts.filter(Boolean).join(" · ")];
  if (service.started) parts.push(" · started ", moment(service.started));
  find("service").replaceChildren(...parts);
}

const percent = (value) => number(value, "%");
const TRENDS = [
  { series: "requests_per_second", title: "Requests/s", format: number },
  { series: "p95_seconds", title: "Response time, p95", format: duration, row: "latency" },
  { series: "cpu_percent", title: "CPU", format: percent, row: "cpu", end: 100 },
  { series: "memory_percent", title: "Memory", format: percent, row: "memory", end: 100 },
  { series: "queue_percent", title: "Queue", format: percent, row: "queue", end: 100 },
];

/** The requests of all workers, over the same time as the rows. */
function requestRate(workers) {
  const known = workers.map((worker) => worker.requests_per_second).filter((rate) => rate !== null);
  return known.length ? known.reduce((sum, rate) => sum + rate, 0) : null;
}

/** How far back the samples go, in whole minutes where there are some. */
function spanOf(times) {
  if (times.length === 0) return age(null);
  const seconds = times.at(-1) - times[0];
  return age(seconds < 60 ? seconds : Math.round(seconds / 60) * 60);
}

function trend({ series, title, format, row, end }, { recent, rows, workers }) {
  const judged = rows.find(({ name }) => name === row);
  const { times, [series]: values } = recent;
  const known = values.filter((value) => value !== null);
  const now = format(judged ? judged.value : requestRate(workers));
  const peak = format(known.length ? Math.max(...known) : null);
  const span = spanOf(times);
  const thresholds = judged ? { warning: judged.warning, critical: judged.critical } : {};
  const label = `${title}, last ${span}: now ${now}, peak ${peak}`;
  return el(
    "figure",
    { "data-verdict": judged?.verdict ?? "normal" },
    el("figcaption", {}, title),
    el("p", { class: "now" }, now),
    sparkline(times, values, { end, thresholds, label }),
    el("p", { class: "quiet span" }, el("span", {}, span), el("span", {}, `peak ${peak}`)),
  );
}

function showTrends(status) {
  find("trends").replaceChildren(...TRENDS.map((each) => trend(each, status)));
}

/** Both thresholds, and their unit once. */
function limits({ warning, critical, unit }) {
  if (warning === null && critical === null) return "";
  return `${warning ?? "–"} / ${critical ?? "–"}\u00a0${unit ?? ""}`.trim();
}

function showRows(rows) {
  rowsOf("checks").replaceChildren(
    ...rows.map((row) =>
      el(
        "tr",
        { "data-name": row.name, "data-verdict": row.verdict },
        el("th", { scope: "row" }, row.title),
        el(
          "td",
          { class: "reading" },
          el("span", { class: "text" }, row.text ?? "unknown"),
          gauge(row),
        ),
        cell(limits(row), "limits"),
        el("td", {}, verdict(row.verdict)),
      ),
    ),
  );
}

function showWorkers(workers) {
  rowsOf("workers").replaceChildren(
    ...workers.map((worker) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, String(worker.slot)),
        cell(String(worker.pid ?? "–"), "number"),
        cell(age(worker.age_seconds), "number"),
        cell(size(worker.private_bytes), "number"),
        cell(number(worker.requests_per_second), "number"),
        cell(duration(worker.p95_seconds), "number"),
        cell(number(worker.restarts), "number"),
      ),
    ),
  );
}

function showEvents(events) {
  const none = el("li", { class: "quiet" }, "none yet");
  const items = events.map(({ time, kind, text }) =>
    el("li", {}, moment(time), el("span", { class: "kind", "data-kind": kind }, kind), el("span", {}, text)),
  );
  find("events").replaceChildren(...(items.length ? items : [none]));
}

const count = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;

function showPlan({ plan, steps }) {
  const share = Math.round((100 * plan.predicted_peak_bytes) / plan.memory_limit_bytes);
  const bound = { cpus: "as many as the CPUs allow", memory: "as many as the memory holds", setting: "as set" };
  find("plan-summary").textContent =
    `${count(plan.workers, "worker")} with ${count(plan.threads, "thread")}` +
    `${plan.workers > 1 ? " each" : ""}, ${bound[plan.bound_by] ?? plan.bound_by}. ` +
    `At worst the service needs ${size(plan.predicted_peak_bytes)}, ${share} % of the limit.`;
  find("plan-figures").replaceChildren(
    fact("Memory limit", size(plan.memory_limit_bytes)),
    fact("CPU limit", number(plan.cpu_limit)),
    fact("A forward pass", `${count(plan.max_batch_items, "text")}, ${count(plan.max_batch_tokens, "token")}`),
    fact("A request", count(plan.max_request_items, "text")),
    fact("Queue of a worker", count(plan.max_queue_tokens, "token")),
    fact("Connections of a worker", String(plan.max_concurrent_requests)),
    fact("Requests of a worker hold", size(plan.request_bytes)),
    fact("A worker retires at", size(plan.recycle_watermark_bytes)),
  );
  rowsOf("sum").replaceChildren(
    ...steps.map(({ name, reason, value }) =>
      el("tr", {}, el("th", { scope: "row" }, name.replaceAll("_", " ")), cell(reason), cell(value, "number")),
    ),
  );
}

async function askPlan() {
  try {
    const { answer } = await ask("plan", { seconds: ANSWER_SECONDS });
    redraw("plan", answer, showPlan);
  } catch {
    find("plan-summary").textContent = "The plan could not be read; it is asked for again with the next status.";
    drawn.delete("plan");
  }
}

function show(status) {
  redraw("verdict", [summary(status), status.rows.map((row) => row.advice)], () => showVerdict(status));
  redraw("service", status.service, showService);
  redraw("trends", [status.recent, status.rows, status.workers], () => showTrends(status));
  redraw("checks", status.rows, showRows);
  redraw("workers", status.workers, showWorkers);
  redraw("events", status.events, showEvents);
  find("updated").replaceChildren(
    "As of ", moment(status.time), `; rates and shares are over ${Math.round(status.window_seconds)} s; asked again every ${EVERY_MS / 1000} s.`,
  );
  find("figures").hidden = false;
  find("status").classList.remove("stale");
  complain(find("trouble"), null);
}

function lost(error) {
  const known = !find("figures").hidden;
  const more = isMissing(error)
    ? "This server does not report its status. The plan and trying it work all the same."
    : `${known ? "The figures below are the last known. " : ""}Trying again every ${EVERY_MS / 1000} s.`;
  complain(find("trouble"), error, more);
  find("status").classList.add("stale");
  const said = isMissing(error) ? "Status unknown" : "No answer";
  find("verdict").dataset.verdict = "unknown";
  find("verdict").replaceChildren(el("p", { class: "verdict", "data-verdict": "unknown" }, said));
  document.title = "no answer · sentence-api";
  drawn.delete("verdict");
}

let planOf = null;
async function poll() {
  let server = "unknown";
  try {
    const { answer } = await ask("status", { seconds: ANSWER_SECONDS });
    show(answer);
    server = answer.service.started;
  } catch (error) {
    lost(error);
  }
  if (planOf !== server || !drawn.has("plan")) await askPlan();
  planOf = server;
}

const rest = (ms) => new Promise((resume) => {
  setTimeout(resume, ms);
});

/** A page that nobody sees asks nothing. */
const seen = () => new Promise((resume) => {
  if (!document.hidden) resume();
  else document.addEventListener("visibilitychange", resume, { once: true });
});

async function watch() {
  for (;;) {
    await seen();
    await poll();
    await rest(EVERY_MS);
  }
}

watch();
