// The place to try it: texts in, the similarities of their vectors and the timing out.

import { ask, complain, isUnauthorized } from "./ask.js";
import { el, fact, number, stack } from "./draw.js";

// A larger table cannot be read. The API itself takes more in one request.
const MOST_TEXTS = 24;
const ANSWER_SECONDS = 60;
const PARTS = { tokenize: "Splitting into tokens", queue: "Waiting", inference: "Model" };
// A header cannot hold it, and fetch would fail as if the server were away.
const UNSENDABLE = /[^\x20-\xff]/;
const find = (id) => document.getElementById(id);

const similarity = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

/** Milliseconds by name from a Server-Timing header. */
function parseTiming(header) {
  const entries = (header ?? "").matchAll(/([\w-]+);dur=([\d.]+)/g);
  return Object.fromEntries([...entries].map(([, name, ms]) => [name, Number(ms)]));
}

function heatCell(value, isSelf) {
  const drawn = el("td", { class: isSelf ? "self" : null, title: value.toFixed(4) }, value.toFixed(2));
  drawn.style.setProperty("--heat-share", `${Math.round(100 * Math.min(1, Math.max(0, value)))}%`);
  return drawn;
}

function showHeat(texts, matrix) {
  const table = find("heat");
  const heads = texts.map((text, i) => el("th", { scope: "col", title: text }, String(i + 1)));
  table.tHead.replaceChildren(el("tr", {}, el("td"), ...heads));
  table.tBodies[0].replaceChildren(
    ...texts.map((text, i) =>
      el(
        "tr",
        {},
        el("th", { scope: "row", title: text }, el("span", { class: "index" }, String(i + 1)), " ", text),
        ...matrix[i].map((value, j) => heatCell(value, i === j)),
      ),
    ),
  );
}

function closest(matrix) {
  let best = null;
  matrix.forEach((row, i) =>
    row.slice(0, i).forEach((value, j) => {
      if (best === null || value > best.value) best = { value, texts: [j + 1, i + 1] };
    }),
  );
  return best;
}

function say({ answer, matrix, milliseconds }) {
  const parts = [`${answer.count} ${answer.count === 1 ? "text" : "texts"}, ${number(answer.tokens)} tokens, ${number(milliseconds, "ms")}.`];
  const best = closest(matrix);
  if (best) parts.push(`Closest: ${best.texts.join(" and ")}, ${best.value.toFixed(2)}.`);
  const cut = answer.truncated.map((index) => index + 1);
  if (cut.length) parts.push(`Too long for the model, so only the beginning counts: ${cut.join(", ")}.`);
  find("try-said").textContent = parts.join(" ");
}

function showTiming(header, milliseconds) {
  const measured = parseTiming(header);
  const server = Object.keys(PARTS).map((name) => ({ name: PARTS[name], value: measured[name] ?? 0, kind: name }));
  const rest = Math.max(0, milliseconds - server.reduce((sum, { value }) => sum + value, 0));
  const parts = [...server, { name: "Network and the rest", value: rest, kind: "rest" }];
  find("timing-bar").replaceChildren(stack(parts));
  find("timing").replaceChildren(
    fact("Seen from here", number(milliseconds, "ms")),
    ...parts.map(({ name, value, kind }) => fact(name, number(value, "ms"), `part ${kind}`)),
  );
}

function showShell(body) {
  // Never the key itself: this is there to be copied.
  const key = readKey() ? ` -H 'Authorization: Bearer KEY'` : "";
  const address = new URL("query/batch", document.baseURI);
  const quoted = JSON.stringify(body).replaceAll("'", String.raw`'\''`);
  find("shell").textContent =
    `curl -X POST -H 'Content-Type: application/json'${key} \\\n  -d '${quoted}' \\\n  '${address}'`;
}

function readTexts() {
  const lines = find("texts").value.split("\n");
  return lines.map((text) => text.trim()).filter((text) => text !== "");
}

/** The key is kept in its field and nowhere else. */
const readKey = () => find("key").value.trim();

/** Show the field for a key, and after the first time say what was wrong with it. */
function askForKey(error) {
  const part = find("key-part");
  const isFirst = part.hidden;
  part.hidden = false;
  // Emptied first, so that a second wrong key is announced as well.
  refuse(null);
  if (!isFirst) {
    find("key").setAttribute("aria-invalid", "true");
    refuse(readKey() ? error : "Enter one of this server's API keys.");
  }
  find("key").focus();
  find("key").select();
}

function refuse(sentence) {
  find("try-result").hidden = true;
  find("try-said").textContent = "";
  complain(find("try-trouble"), sentence);
}

async function compare(texts) {
  const body = { questions: texts };
  const key = readKey();
  const started = performance.now();
  const { answer, response } = await ask("query/batch", { seconds: ANSWER_SECONDS, body, key });
  const milliseconds = performance.now() - started;
  const matrix = answer.embeddings.map((a) => answer.embeddings.map((b) => similarity(a, b)));
  complain(find("try-trouble"), null);
  find("key").removeAttribute("aria-invalid");
  say({ answer, matrix, milliseconds });
  showHeat(texts, matrix);
  showTiming(response.headers.get("Server-Timing"), milliseconds);
  showShell(body);
  find("try-result").hidden = false;
}

async function submit(event) {
  event.preventDefault();
  const form = find("try-form");
  if (form.getAttribute("aria-busy") === "true") return;
  const texts = readTexts();
  if (texts.length === 0) {
    refuse("Write at least one text.");
    return;
  }
  if (texts.length > MOST_TEXTS) {
    refuse(`That is ${texts.length} texts. This table shows up to ${MOST_TEXTS}; POST /query/batch takes more.`);
    return;
  }
  if (UNSENDABLE.test(readKey())) {
    askForKey("This key has a character that no key can have. Check it and try again.");
    return;
  }
  form.setAttribute("aria-busy", "true");
  try {
    await compare(texts);
  } catch (error) {
    if (isUnauthorized(error)) askForKey(error);
    else refuse(error);
  } finally {
    form.removeAttribute("aria-busy");
  }
}

find("try-form").addEventListener("submit", submit);
find("texts").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  find("try-form").requestSubmit();
});
