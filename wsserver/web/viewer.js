import { $, begin, cancel, closed, credentials, finish, makeBar, name, openSocket, query, session, setState } from "./session.js";

const NOVNC = "/wsserver/novnc/core/rfb.js";

const STRANGE = ["The viewer could not show this session", "The service may not be a VNC desktop, or it is not compatible with this viewer. Tell the operator of this server."];
const SECURITY = ["The desktop refused to let you in", "Its password may be wrong. Open a new one and try again."];
const NO_NOVNC = ["The viewer component noVNC is not installed on this server", "The operator of this server can install it with: make setup"];

const coarse = matchMedia("(pointer: coarse)").matches;

let rfb = null;

async function connect() {
  let RFB;
  try {
    // First of all, as opening the socket uses up the token.
    ({ default: RFB } = await import(NOVNC));
  } catch (error) {
    return finish(NO_NOVNC, String(error));
  }
  const socket = openSocket();
  if (!socket) return;
  try {
    const password = query.get("password") || undefined;
    // Without a break after the socket: noVNC refuses one that has closed and misses what came before it.
    rfb = new RFB($("screen"), socket, { credentials: { password }, shared: true });
  } catch (error) {
    socket.close();
    return finish(STRANGE, String(error));
  }
  session.close = () => rfb.disconnect();
  rfb.background = "transparent";
  setScale();
  rfb.addEventListener("connect", connected);
  rfb.addEventListener("disconnect", (event) => {
    // The socket's own close event says more; it comes first unless the network hangs.
    if (session.state !== "ended") setTimeout(() => (event.detail.clean ? closed(1006, "") : finish(STRANGE, "noVNC gave up the connection.")), 0);
  });
  rfb.addEventListener("credentialsrequired", (event) => letIn(event.detail.types));
  rfb.addEventListener("securityfailure", (event) => {
    const detail = `Security failure ${event.detail.status}${event.detail.reason ? `: ${event.detail.reason}` : ""}.`;
    session.failure = [...SECURITY, detail];
  });
  rfb.addEventListener("clipboard", (event) => { $("clip-text").value = event.detail.text; });
  rfb.addEventListener("clippingviewport", (event) => {
    $("pan").hidden = !event.detail;
    if (!event.detail) setPan(false);
  });
}

function connected() {
  setState("connected");
  $("login").hidden = true;
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

/* the password: the session's own, else the person is asked */

async function letIn(types) {
  const { password } = await credentials();
  if (session.state === "ended") return;
  if (password && types.every((type) => type === "password")) rfb.sendCredentials({ password });
  else askPassword(types);
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
$("login-cancel").addEventListener("click", cancel);
document.addEventListener("session-over", () => { $("login").hidden = true; });

/* the bar */

const panels = [["clip", "clip-button", "clip-text"], ["keys", "keys-button", "key-cad"]];
let tabbed = false;

const panelOpen = () => panels.some(([id]) => !$(id).hidden);
const showBar = makeBar(panelOpen, $("scale"), $("screen"));

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

addEventListener("keydown", (event) => {
  tabbed = event.key === "Tab" && !event.composedPath().includes($("screen"));
}, true);
$("screen").addEventListener("pointerdown", () => {
  tabbed = false;
  if (panelOpen()) setPanel("", false);
  $("bar").classList.remove("shown");
}, { capture: true, passive: true });

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
$("full").addEventListener("click", giveBack);

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

begin(connect);
