/* What the pages of a session share: its address, its steps, its end. */

// Close code: what happened, what to do next.
const NEW = "Open a new one to go on.";
const AGAIN = "Try again; if it happens again, tell the operator of this server.";
const PROTOCOL = ["The browser and the server did not understand each other", "This is a fault of the software, not yours. Open a new one; if it happens again, tell the operator of this server."];
const ENDED = {
  1000: ["The session ended", NEW],
  1001: ["The server is shutting down", "Try again in a few minutes."],
  1002: PROTOCOL, 1003: PROTOCOL, 1007: PROTOCOL, 1009: PROTOCOL,
  1005: ["The session ended", NEW],
  1006: ["The connection was lost", "The session was stopped with it. Check your network, then open a new one."],
  1008: ["The server refused the connection", NEW],
  1011: ["Something went wrong in the server", "Open a new one; if it happens again, tell the operator of this server."],
  4404: ["This session is not known to the server", `Its link has expired or was used before. ${NEW}`],
  4409: ["This session is already open somewhere else", "Go back to the page that shows it, or open a new one."],
  4413: ["Too much was sent before the session was ready", NEW],
  4500: ["The service could not be started", AGAIN],
  4502: ["The service did not answer or broke the connection", AGAIN],
  4503: ["There is no room for another session now", "Try again when someone has ended a session."],
  4504: ["The service took too long to start", "It may be busy. Try again in a few minutes."],
};
const FAILED = ["The service has failed", "The session was stopped with it. Open a new one; if it happens again, tell the operator of this server."];
const REFUSED = ["The server refused the connection or cannot be reached", "The link may have been used already or have expired. Check your network, or open a new one."];
const BAD_ADDRESS = ["The address of this page is not complete", "Its host, port or path is not valid. Open a new one from the front page."];
const USED = ["The link of this session has been used", "A session ends when its page is closed or loaded again. Open a new one to go on."];
const BY_YOU = ["You ended the session", NEW];
const CANCELLED = ["You cancelled before the session was ready", "Open a new one whenever you like."];

const WORDS = { ready: "Ready to connect", connecting: "Connecting", starting: "Starting", connected: "Connected", ended: "Ended" };
// How long the password of the session may take to arrive after it is asked for.
const CREDENTIALS_TIMEOUT = 3000;
// How often the stream of events may break in a row before it is given up.
const MAX_BREAKS = 5;
const OVER = ["closed", "expired", "released", "failed"];

export const $ = (id) => document.getElementById(id);
export const query = new URLSearchParams(location.search);
export const name = query.get("session_name") || "Session";
const token = query.get("token") || "";

// `failure` is [what happened, what to do, detail] where the page knows better than the close code;
// `close` ends the connection.
export const session = { state: "", failure: null, close: () => {} };

let opened = false;
let byUser = null;
let began = 0;
let clock = 0;

export function setState(next) {
  session.state = next;
  document.body.dataset.state = next;
  document.title = `${name} – ${WORDS[next]}`;
  for (const element of document.querySelectorAll(".words")) element.textContent = WORDS[next];
  $("announce").textContent = WORDS[next];
  $("waiting").hidden = next === "connected" || next === "ended";
  $("over").hidden = next !== "ended";
  $("bar").hidden = $("handle").hidden = next !== "connected";
  if (next === "connected" || next === "ended") {
    clearInterval(clock);
    if (events) events.close();
  }
}

export function finish([what, next], detail, said = "") {
  if (session.state === "ended") return;
  if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
  $("reason").textContent = what;
  $("next").textContent = next;
  $("said").hidden = !said;
  $("said").textContent = said ? `The server says: ${said}` : "";
  const steps = latest.steps.length ? ` Steps: ${latest.steps.join("; ")}.` : "";
  $("detail").textContent = detail + steps;
  setState("ended");
  document.dispatchEvent(new Event("session-over"));
  $("reason").focus();
}

export function closed(code, reason) {
  const detail = `Close code ${code}${reason ? `, reason: ${reason}` : ", no reason given"}. Connection ${opened ? "had been" : "was never"} open.`;
  const known = ["failed", "stopping"].includes(latest.state) ? latest.reason : "";
  // A close frame has room for 123 bytes; the events may know the rest.
  const said = known.startsWith(reason) ? known : reason;
  if (byUser) return finish(byUser, detail);
  if (session.failure) return finish(session.failure, `${session.failure[2]} ${detail}`, said);
  if (code === 1006 && !opened) return finish(REFUSED, detail, said);
  // The same code while it started and later; the words should differ.
  if (code === 4500 && session.state === "connected") return finish(FAILED, detail, said);
  finish(ENDED[code] || ["The session ended unexpectedly", NEW], detail, said);
}

export async function stop(why) {
  if (byUser || session.state === "ended") return;
  byUser = why;
  if (token) {
    // The answer is not needed, only a chance to arrive before the socket closes.
    const call = fetch(`/v1/release/${encodeURIComponent(token)}`, { method: "POST", keepalive: true, cache: "no-store" }).catch(() => {});
    await Promise.race([call, new Promise((done) => setTimeout(done, 1500))]);
  }
  if (session.state !== "ended") session.close();
  finish(why, "Closed from this page.");
}

// Returns the socket, or null where there cannot be one.
export function openSocket() {
  if (session.state === "ended" || byUser) return null;
  let socket;
  try {
    socket = new WebSocket(address(), ["binary"]);
  } catch (error) {
    finish(BAD_ADDRESS, String(error));
    return null;
  }
  socket.binaryType = "arraybuffer";
  session.close = () => socket.close();
  socket.addEventListener("open", () => {
    opened = true;
    hideSecrets();
    if (session.state === "connecting") setState("starting");
  });
  socket.addEventListener("close", (event) => closed(event.code, event.reason));
  return socket;
}

function address() {
  let host = query.get("host") || location.hostname;
  // An IPv6 address must stand in brackets in a URL.
  if (host.includes(":") && !host.startsWith("[")) host = `[${host}]`;
  const port = query.get("port") || location.port;
  const path = (query.get("path") ?? "websockify").replace(/^\/+/, "");
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const field = token ? `${path.includes("?") ? "&" : "?"}token=${encodeURIComponent(token)}` : "";
  return `${scheme}://${host}${port ? `:${port}` : ""}/${path}${field}`;
}

function hideSecrets() {
  const url = new URL(location.href);
  const fields = url.searchParams;
  // The path may have a query of its own, and the token there.
  const [path, inner] = (fields.get("path") ?? "").split(/\?(.*)/s);
  const within = new URLSearchParams(inner);
  const used = token !== "" || within.has("token");
  for (const each of [fields, within]) for (const secret of ["token", "password"]) each.delete(secret);
  if (inner !== undefined) fields.set("path", within.size ? `${path}?${within}` : path);
  // The mark tells a reload of this page from a page without a token.
  history.replaceState({ used }, "", url);
}

/* the steps, as they happen */

let events = null;
let latest = { state: "", steps: [], reason: "", credentials: {} };
let told = () => {};

function follow() {
  if (!token || !window.EventSource) return;
  events = new EventSource(`/wsserver/events/${encodeURIComponent(token)}`);
  let breaks = 0;
  events.onmessage = (event) => {
    breaks = 0;
    latest = JSON.parse(event.data);
    if (OVER.includes(latest.state)) events.close();
    showSteps();
    told();
  };
  // The browser itself tries again; without the events the session goes on.
  events.onerror = () => {
    if (++breaks >= MAX_BREAKS) events.close();
    told();
  };
}

function showSteps() {
  const list = $("steps");
  const shown = [...list.children].map((item) => item.textContent);
  if (shown.join("\n") === latest.steps.join("\n")) return;
  list.replaceChildren(...latest.steps.map((step) => {
    const item = document.createElement("li");
    item.textContent = step;
    return item;
  }));
  if (!latest.steps.length) return;
  list.lastChild.setAttribute("aria-current", "step");
  $("announce").textContent = latest.steps.at(-1);
}

// What the viewer needs to get in; {} where there is nothing, or it does not come.
export async function credentials() {
  const has = () => Object.keys(latest.credentials).length > 0;
  const alive = () => events !== null && events.readyState !== EventSource.CLOSED;
  if (!has() && alive()) {
    await new Promise((done) => {
      const timer = setTimeout(done, CREDENTIALS_TIMEOUT);
      told = () => { if (has() || !alive()) { clearTimeout(timer); done(); } };
    });
  }
  return latest.credentials;
}

/* the beginning */

function tick() {
  const seconds = Math.floor((Date.now() - began) / 1000);
  $("elapsed").textContent = `${seconds} s`;
  if (seconds >= 15) $("slow").textContent = "Some applications take a minute or more to start. This page waits for it.";
}

// `connect` opens the session; it is called at once, or when the person says so.
export function begin(connect) {
  for (const element of document.querySelectorAll(".name")) element.textContent = name;
  const start = () => {
    $("connect").hidden = true;
    setState("connecting");
    began = Date.now();
    tick();
    clock = setInterval(tick, 1000);
    follow();
    connect();
  };
  $("end").addEventListener("click", () => stop(BY_YOU));
  $("cancel").addEventListener("click", () => stop(CANCELLED));
  $("connect").addEventListener("click", start);
  if (!token && history.state?.used) {
    finish(USED, "The address of this page holds no token any more.");
  } else if (["true", "1"].includes((query.get("autoconnect") || "").toLowerCase())) {
    start();
  } else {
    setState("ready");
    $("connect").hidden = false;
    $("connect").focus();
  }
}

export const cancel = () => stop(CANCELLED);

/* the bar hides itself, and comes back at the touch of the top edge, by its handle, or by keys */

const HIDE_AFTER = 3000;

// `isOpen` tells whether something of the bar is in use; `first` is what the keys lead to.
export function makeBar(isOpen, first, screen) {
  const bar = $("bar");
  let hiding = 0;
  let chord = false;

  const hide = () => {
    if (isOpen() || bar.matches(":hover")) return show();
    bar.classList.remove("shown");
  };
  const show = () => {
    bar.classList.add("shown");
    clearTimeout(hiding);
    hiding = setTimeout(hide, HIDE_AFTER);
  };
  document.addEventListener("session-over", () => clearTimeout(hiding));
  addEventListener("pointermove", (event) => {
    if (session.state === "connected" && event.clientY <= 3) show();
  }, { capture: true, passive: true });
  bar.addEventListener("pointermove", show, { passive: true });
  $("handle").addEventListener("click", show);
  $("handle").addEventListener("focus", show);
  // noVNC keeps pointer events of the picture to itself, hence the capture phase.
  screen.addEventListener("pointerdown", () => {
    clearTimeout(hiding);
    bar.classList.remove("shown");
  }, { capture: true, passive: true });

  // The picture takes every key, Tab too: this chord is the way out of it. It acts when the keys
  // are up again, or the session would keep them held.
  addEventListener("keydown", (event) => {
    if (session.state !== "connected") return;
    if (!["Control", "Alt", "Shift", "Meta"].includes(event.key)) chord = false;
    else if (event.ctrlKey && event.altKey && event.shiftKey) chord = true;
  }, true);
  addEventListener("keyup", (event) => {
    if (!chord || event.ctrlKey || event.altKey || event.shiftKey) return;
    chord = false;
    setTimeout(() => { show(); first.focus(); }, 0);
  }, true);

  $("full").hidden = !document.fullscreenEnabled;
  $("full").addEventListener("click", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen().catch(() => {});
  });
  document.addEventListener("fullscreenchange", () => {
    $("full").setAttribute("aria-pressed", String(document.fullscreenElement !== null));
  });
  return show;
}
