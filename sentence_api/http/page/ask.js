// Asks the server, and says in words what went wrong. Addresses are relative, so that the page also
// works below a path of a proxy.

import { el } from "./draw.js";

/** The server answered, and not with what was asked for. */
class Refused extends Error {
  constructor(response, error) {
    super(error?.message ?? "there is no explanation; something between here and the service may have answered");
    this.status = response.status;
    this.code = error?.code;
    this.retryAfter = response.headers.get("Retry-After");
    this.requestId = error?.request_id ?? response.headers.get("X-Request-ID");
  }
}

/** No answer came, or not all of it. */
class Unreachable extends Error {
  constructor(cause) {
    const reason = cause.name === "TimeoutError" ? "did not answer in time" : "cannot be reached";
    super(`The server ${reason}.`, { cause });
  }
}

async function exchange(path, options) {
  try {
    const response = await fetch(path, options);
    return { response, text: await response.text() };
  } catch (cause) {
    throw new Unreachable(cause);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** The parsed answer and the response, or an error that `complain` can explain. */
export async function ask(path, { seconds, body, key }) {
  const options = { cache: "no-store", signal: AbortSignal.timeout(seconds * 1000) };
  if (body !== undefined) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
    if (key) options.headers.Authorization = `Bearer ${key}`;
  }
  const { response, text } = await exchange(path, options);
  const answer = parse(text);
  if (!response.ok || answer === null) throw new Refused(response, answer?.error);
  return { answer, response };
}

const MEANINGS = {
  408: "The server waited too long for the request",
  413: "That is too much text for one request",
  422: "The server does not accept this",
  429: "The server has more work than it can take",
  503: "The server is not ready",
};

export function isMissing(error) {
  return error instanceof Refused && error.status === 404;
}

export function isUnauthorized(error) {
  return error instanceof Refused && error.status === 401;
}

function sentence(error) {
  // The server's own words are about headers, of which a person at the page sees none.
  if (isUnauthorized(error)) return "The server does not know this key. Check it and try again.";
  if (error instanceof Refused) {
    const meaning = MEANINGS[error.status] ?? "The server cannot answer";
    const again = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
    return `${meaning}: ${error.message}.${again}`;
  }
  if (error instanceof Unreachable) return error.message;
  console.error(error);
  return `This page cannot show the answer: ${error.message}.`;
}

/** Show in `place` what went wrong, or nothing when `error` is null. */
export function complain(place, error, more = "") {
  place.hidden = error === null;
  if (error === null) {
    place.replaceChildren();
    return;
  }
  const details = [
    error.status && `HTTP ${error.status}`,
    error.code,
    error.requestId && `request ${error.requestId}`,
  ].filter(Boolean);
  const said = typeof error === "string" ? error : sentence(error);
  // The same words again would be read aloud again.
  if (place.dataset.said === said + more && place.childElementCount) return;
  place.dataset.said = said + more;
  const small = details.length ? el("p", { class: "quiet" }, details.join(" · ")) : null;
  place.replaceChildren(el("p", {}, el("strong", {}, said), more && ` ${more}`), ...(small ? [small] : []));
}
