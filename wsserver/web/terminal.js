import { $, begin, finish, makeBar, name, openSocket, session, setState } from "./session.js";

const NO_XTERM = ["The terminal component xterm.js is not installed on this server", "The operator of this server can install it with: make setup"];
const SIZES = { smallest: 8, usual: 15, largest: 32 };

// Telnet (RFC 854) with binary transmission (RFC 856), timing marks (RFC 860) and the window size (RFC 1073).
const IAC = 255, DONT = 254, DO = 253, WONT = 252, WILL = 251, SB = 250, SE = 240;
const BINARY = 0, ECHO = 1, SGA = 3, TIMING_MARK = 6, NAWS = 31;

let terminal = null;
let socket = null;
let wantsSize = false;

async function connect() {
  let Terminal, FitAddon;
  try {
    // First of all, as opening the socket uses up the token.
    [{ Terminal }, { FitAddon }] = await Promise.all([import("/wsserver/xterm/xterm.mjs"), import("/wsserver/xterm/addon-fit.mjs")]);
  } catch (error) {
    return finish(NO_XTERM, String(error));
  }
  socket = openSocket();
  if (!socket) return;
  terminal = new Terminal({ cursorBlink: false, fontSize: SIZES.usual, scrollback: 5000, screenReaderMode: true });
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  const read = telnet((bytes) => terminal.write(bytes));
  socket.addEventListener("message", (event) => {
    if (session.state !== "connected") show(fit);
    read(new Uint8Array(event.data));
  });
  terminal.onData((text) => type(new TextEncoder().encode(text)));
  terminal.onBinary((text) => type(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
  terminal.onResize(sendSize);
}

function show(fit) {
  setState("connected");
  terminal.open($("screen"));
  terminal.textarea.setAttribute("aria-label", `Terminal of ${name}. Ctrl+Alt+Shift leads to the session bar.`);
  new ResizeObserver(() => fit.fit()).observe($("screen"));
  fit.fit();
  terminal.focus();
  const zoom = (step) => () => {
    terminal.options.fontSize = Math.min(SIZES.largest, Math.max(SIZES.smallest, terminal.options.fontSize + step));
    fit.fit();
  };
  $("smaller").addEventListener("click", zoom(-1));
  $("larger").addEventListener("click", zoom(1));
}

makeBar(() => $("bar").matches(":focus-within"), $("smaller"), $("screen"));

function send(bytes) {
  if (socket.readyState === WebSocket.OPEN) socket.send(bytes);
}

// A carriage return stands for itself only with a zero after it.
function type(bytes) {
  const sent = [];
  for (const byte of bytes) {
    sent.push(byte);
    if (byte === IAC) sent.push(IAC);
    if (byte === 13) sent.push(0);
  }
  send(Uint8Array.from(sent));
}

function sendSize() {
  if (!wantsSize) return;
  const size = [terminal.cols >> 8, terminal.cols & 255, terminal.rows >> 8, terminal.rows & 255];
  send(Uint8Array.from([IAC, SB, NAWS, ...size.flatMap((byte) => (byte === IAC ? [IAC, IAC] : [byte])), IAC, SE]));
}

function answer(command, option) {
  if (command === WILL) {
    send(Uint8Array.from([IAC, [BINARY, ECHO, SGA].includes(option) ? DO : DONT, option]));
  } else if (command === DO && option === TIMING_MARK) {
    // When all before it is on the screen: until then the server holds further output back.
    terminal.write("", () => send(Uint8Array.from([IAC, WILL, TIMING_MARK])));
  } else if (command === DO) {
    send(Uint8Array.from([IAC, option === NAWS ? WILL : WONT, option]));
    if (option !== NAWS) return;
    wantsSize = true;
    sendSize();
  }
}

// Returns a function that takes bytes as they come; `show` gets those for the screen.
function telnet(show) {
  let state = "data";
  let command = 0;
  let shown = [];
  const flush = () => {
    if (shown.length) show(Uint8Array.from(shown));
    shown = [];
  };
  const states = {
    data: (byte) => {
      if (byte === IAC) return "command";
      shown.push(byte);
      return "data";
    },
    command: (byte) => {
      command = byte;
      if (byte === IAC) shown.push(IAC);
      if (byte >= WILL && byte < IAC) return "option";
      return byte === SB ? "negotiation" : "data";
    },
    option: (byte) => {
      flush();
      answer(command, byte);
      return "data";
    },
    // Nothing is negotiated that would need an answer.
    negotiation: (byte) => (byte === IAC ? "ending" : "negotiation"),
    ending: (byte) => (byte === SE ? "data" : "negotiation"),
  };
  return (bytes) => {
    for (const byte of bytes) state = states[state](byte);
    flush();
  };
}

begin(connect);
