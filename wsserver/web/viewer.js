const HIDE_AFTER = 3000;
const NOVNC = "/wsserver/novnc/core/rfb.js";
const WORDS = { ready: "Ready to connect", connecting: "Connecting", starting: "Starting", connected: "Connected", ended: "Ended" };

// Close code: what happened, what to do next.
const NEW = "Open a new one to go on.";
const PROTOCOL = ["The browser and the server did not understand each other", "This is a fault of the software, not yours. Open a new one; if it happens again, tell the operator of this server."];
const ENDED = {
  1000: ["The session ended", NEW],
  1001: ["The server is shutting down", "Try again in a few minutes."],
  1002: PROTOCOL, 1003: PROTOCOL, 1007: PROTOCOL, 1009: PROTOCOL,
  1005: ["The session ended", NEW],
  1006: ["The connection was lost", "The session was stopped with it. Check your network, then open a new one."],
  1008: ["The server refused the connection", NEW],
  1011: ["Something went wrong in the server", "Open a new one; if it happens again, tell the operator of this server."],
  4404: ["This session is not known to the server", "Its link has expired or was used before. " + NEW],
  4409: ["This session is already open somewhere else", "Go back to the page that shows it, or open a new one."],
  4413: ["Too much was sent before the session was ready", NEW],
  4500: ["The service could not be started", "Try again; if it happens again, tell the operator of this server."],
  4502: ["The service did not answer or broke the connection", "Try again; if it happens again, tell the operator of this server."],
  4503: ["There is no room for another session now", "Try again when someone has ended a session."],
  4504: ["The service took too long to start", "It may be busy. Try again in a few minutes."],
};
const REFUSED = ["The server refused the connection or cannot be reached", "The link may have been used already or have expired. Check your network, or open a new one."];
const STRANGE = ["The viewer could not show this session", "The service may not be a VNC desktop, or it is not compatible with this viewer. Tell the operator of this server."];
const SECURITY = ["The desktop refused to let you in", "Its password may be wrong. Open a new one and try again."];
const NO_NOVNC = ["The viewer component noVNC is not installed on this server", "The operator of this server can install it with: make novnc"];
const BAD_ADDRESS = ["The address of this page is not complete", "Its host, port or path is not valid. Open a new one from the front page."];
const USED = ["The link of this session has been used", "A session ends when its page is closed or loaded again. Open a new one to go on."];
const BY_YOU = ["You ended the session", NEW];
const CANCELLED = ["You cancelled before the session was ready", "Open a new one whenever you like."];

const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const token = query.get("token") || "";
const name = query.get("session_name") || "Session";
const coarse = matchMedia("(pointer: coarse)").matches;

let state = "";
let socket = null;
let rfb = null;
let opened = false;
let byUser = null;
let security = null;
let began = 0;
let clock = 0;
let hiding = 0;

function setState(next) {
  state = next;
  document.body.dataset.state = next;
  document.title = `${name} – ${WORDS[next]}`;
  for (const element of document.querySelectorAll(".words")) element.textContent = WORDS[next];
  $("announce").textContent = WORDS[next];
  $("waiting").hidden = next === "connected" || next === "ended";
  $("login").hidden = true;
  $("over").hidden = next !== "ended";
  $("bar").hidden = $("handle").hidden = next !== "connected";
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
  url.searchParams.delete("token");
  url.searchParams.delete("password");
  // The mark tells a reload of this page from a page without a token.
  history.replaceState({ used: token !== "" }, "", url);
}

function tick() {
  const seconds = Math.floor((Date.now() - began) / 1000);
  $("elapsed").textContent = `${seconds} s`;
  if (seconds >= 15) $("slow").textContent = "Some applications take a minute or more to start. This page waits for it.";
}

function finish([what, next], detail, said) {
  if (state === "ended") return;
  clearInterval(clock);
  clearTimeout(hiding);
  if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
  $("reason").textContent = what;
  $("next").textContent = next;
  $("said").hidden = !said;
  $("said").textContent = said ? `The server says: ${said}` : "";
  $("detail").textContent = detail;
  setState("ended");
  $("reason").focus();
}

function closed(code, reason) {
  const detail = `Close code ${code}${reason ? `, reason: ${reason}` : ", no reason given"}. Connection ${opened ? "had been" : "was never"} open.`;
  if (byUser) return finish(byUser, detail, "");
  if (security) return finish(SECURITY, `${security} ${detail}`, reason);
  if (code === 1006 && !opened) return finish(REFUSED, detail, reason);
  finish(ENDED[code] || [`The session ended unexpectedly`, NEW], detail, reason);
}

async function stop(why) {
  if (byUser || state === "ended") return;
  byUser = why;
  if (token) {
    // The answer is not needed, only a chance to arrive before the socket closes.
    const call = fetch(`/v1/release/${encodeURIComponent(token)}`, { method: "POST", keepalive: true, cache: "no-store" }).catch(() => {});
    await Promise.race([call, new Promise((done) => setTimeout(done, 1500))]);
  }
  if (rfb && state !== "ended") rfb.disconnect();
  finish(why, "Closed from this page.", "");
}

async function connect() {
  $("connect").hidden = true;
  setState("connecting");
  began = Date.now();
  tick();
  clock = setInterval(tick, 1000);

  let RFB;
  try {
    // First of all, as opening the socket uses up the token.
    ({ default: RFB } = await import(NOVNC));
  } catch (error) {
    return finish(NO_NOVNC, String(error), "");
  }
  if (state === "ended" || byUser) return;

  try {
    socket = new WebSocket(address(), ["binary"]);
    socket.binaryType = "arraybuffer";
  } catch (error) {
    return finish(BAD_ADDRESS, String(error), "");
  }
  socket.addEventListener("open", () => {
    opened = true;
    hideSecrets();
    if (state === "connecting") setState("starting");
  });
  socket.addEventListener("close", (event) => closed(event.code, event.reason));

  try {
    const password = query.get("password") || undefined;
    // Without a break after the socket: noVNC refuses one that has closed and misses what came before it.
    rfb = new RFB($("screen"), socket, { credentials: { password }, shared: true });
  } catch (error) {
    socket.close();
    return finish(STRANGE, String(error), "");
  }
  rfb.background = "transparent";
  setScale();
  rfb.addEventListener("connect", connected);
  rfb.addEventListener("disconnect", (event) => {
    // The socket's own close event says more; it comes first unless the network hangs.
    if (state !== "ended") setTimeout(() => (event.detail.clean ? closed(1006, "") : finish(STRANGE, "noVNC gave up the connection.", "")), 0);
  });
  rfb.addEventListener("credentialsrequired", (event) => askPassword(event.detail.types));
  rfb.addEventListener("securityfailure", (event) => {
    security = `Security failure ${event.detail.status}${event.detail.reason ? `: ${event.detail.reason}` : ""}.`;
  });
  rfb.addEventListener("clipboard", (event) => { $("clip-text").value = event.detail.text; });
  rfb.addEventListener("clippingviewport", (event) => {
    $("pan").hidden = !event.detail;
    if (!event.detail) setPan(false);
  });
}

function connected() {
  clearInterval(clock);
  setState("connected");
  const canvas = $("screen").querySelector("canvas");
  // noVNC leaves the canvas out of the tab order and without a name.
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `Screen of ${name}. Ctrl+Alt+Shift leads to the session bar.`);
  canvas.addEventListener("focus", () => $("screen").classList.toggle("ring", tabbed));
  canvas.addEventListener("blur", () => $("screen").classList.remove("ring"));
  rfb.focus();
  showBar();
}

function askPassword(types) {
  $("user-field").hidden = !types.includes("username");
  $("password-field").hidden = !types.includes("password");
  $("waiting").hidden = true;
  $("login").hidden = false;
  $("announce").textContent = "Password needed";
  $(types.includes("username") ? "username" : "password").focus();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  $("login").hidden = true;
  $("waiting").hidden = false;
  rfb.sendCredentials({ username: $("username").value, password: $("password").value, target: "" });
  $("password").value = "";
});

/* the bar */

const panels = [["clip", "clip-button", "clip-text"], ["keys", "keys-button", "key-cad"]];
let tabbed = false;
let chord = false;

const panelOpen = () => panels.some(([id]) => !$(id).hidden);

function showBar() {
  $("bar").classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(hideBar, HIDE_AFTER);
}

function hideBar() {
  if (panelOpen() || $("bar").matches(":hover")) { showBar(); return; }
  $("bar").classList.remove("shown");
}

// After a press by pointer the keys belong to the picture again; by keyboard the focus stays.
function giveBack(event) {
  if (event.detail > 0 && rfb) rfb.focus();
}

function setPanel(id, open) {
  for (const [panel, button, first] of panels) {
    const on = panel === id && open;
    $(panel).hidden = !on;
    $(button).setAttribute("aria-expanded", String(on));
    if (on && !(coarse && panel === "clip")) $(first).focus();
  }
  showBar();
}

for (const [panel, button] of panels) {
  $(button).addEventListener("click", (event) => {
    const open = $(panel).hidden;
    setPanel(panel, open);
    if (!open) giveBack(event);
  });
  $(panel).addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    setPanel(panel, false);
    $(button).focus();
  });
}

addEventListener("pointermove", (event) => {
  if (state === "connected" && event.clientY <= 3) showBar();
}, { capture: true, passive: true });
$("bar").addEventListener("pointermove", showBar, { passive: true });
$("handle").addEventListener("click", showBar);
$("handle").addEventListener("focus", showBar);
// noVNC keeps pointer events of the picture to itself, hence the capture phase.
$("screen").addEventListener("pointerdown", () => {
  tabbed = false;
  if (panelOpen()) setPanel("", false);
  clearTimeout(hiding);
  $("bar").classList.remove("shown");
}, { capture: true, passive: true });

// The picture takes every key, Tab too: this chord is the way out of it. It acts when the keys
// are up again, or the session would keep them held.
addEventListener("keydown", (event) => {
  tabbed = event.key === "Tab" && !event.composedPath().includes($("screen"));
  if (state !== "connected") return;
  if (!["Control", "Alt", "Shift", "Meta"].includes(event.key)) chord = false;
  else if (event.ctrlKey && event.altKey && event.shiftKey) chord = true;
}, true);
addEventListener("keyup", (event) => {
  if (!chord || event.ctrlKey || event.altKey || event.shiftKey) return;
  chord = false;
  setTimeout(() => { showBar(); $("scale").focus(); }, 0);
}, true);

function setScale() {
  const mode = $("scale").value;
  rfb.scaleViewport = mode === "fit";
  rfb.resizeSession = mode === "resize";
  // Fingers cannot use scroll bars, as noVNC takes every touch of the picture.
  rfb.clipViewport = mode === "actual" && coarse;
}
$("scale").addEventListener("change", setScale);

function setPan(on) {
  $("pan").setAttribute("aria-pressed", String(on));
  rfb.dragViewport = on;
}
$("pan").addEventListener("click", (event) => { setPan(!rfb.dragViewport); giveBack(event); });

$("full").hidden = !document.fullscreenEnabled;
$("full").addEventListener("click", (event) => {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen().catch(() => {});
  giveBack(event);
});
document.addEventListener("fullscreenchange", () => {
  $("full").setAttribute("aria-pressed", String(document.fullscreenElement !== null));
});

let pasting = 0;
$("clip-text").addEventListener("input", () => {
  clearTimeout(pasting);
  pasting = setTimeout(() => rfb.clipboardPasteFrom($("clip-text").value), 200);
});

const press = (keysym, code) => (event) => { rfb.sendKey(keysym, code); giveBack(event); };
$("key-cad").addEventListener("click", (event) => { rfb.sendCtrlAltDel(); giveBack(event); });
$("key-esc").addEventListener("click", press(0xff1b, "Escape"));
$("key-tab").addEventListener("click", press(0xff09, "Tab"));

// Keyboards on glass send words and corrections, not keys: what changed in the field is sent.
let typed = [];
$("type").addEventListener("input", () => {
  const now = [...$("type").value];
  let same = 0;
  while (same < typed.length && same < now.length && typed[same] === now[same]) same++;
  for (let i = same; i < typed.length; i++) rfb.sendKey(0xff08, "Backspace");
  for (const letter of now.slice(same)) {
    const point = letter.codePointAt(0);
    rfb.sendKey(point < 0x100 ? point : 0x01000000 | point, "");
  }
  typed = now;
});
$("type").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter") {
    rfb.sendKey(0xff0d, "Enter");
    $("type").value = "";
    typed = [];
  } else if (event.key === "Backspace" && $("type").value === "") {
    rfb.sendKey(0xff08, "Backspace");
  }
});

$("end").addEventListener("click", () => stop(BY_YOU));
$("cancel").addEventListener("click", () => stop(CANCELLED));
$("login-cancel").addEventListener("click", () => stop(CANCELLED));
$("connect").addEventListener("click", connect);

for (const element of document.querySelectorAll(".name")) element.textContent = name;
if (!token && history.state?.used) {
  finish(USED, "The address of this page holds no token any more.", "");
} else if (["true", "1"].includes((query.get("autoconnect") || "").toLowerCase())) {
  connect();
} else {
  setState("ready");
  $("connect").hidden = false;
  $("connect").focus();
}
