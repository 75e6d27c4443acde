const PERIOD = 5000;
const MAX_SQUARES = 24;
const KEY = "wsserver.access";

const $ = (id) => document.getElementById(id);
const cards = new Map();
let timer = 0;
let running = false;
let asking = false;

// Storage can be forbidden; then the token lives as long as the page.
let access = null;
try { access = sessionStorage.getItem(KEY); } catch { /* as above */ }

function remember(token) {
  access = token;
  try {
    if (token) sessionStorage.setItem(KEY, token);
    else sessionStorage.removeItem(KEY);
  } catch { /* as above */ }
}

function call(url, options = {}) {
  const headers = { Accept: "application/json" };
  if (access) headers.Authorization = `Bearer ${access}`;
  return fetch(url, { cache: "no-store", ...options, headers });
}

// Writing the same text again would make screen readers repeat it.
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function hold() {
  asking = true;
  clearTimeout(timer);
  $("services").hidden = true;
}

function ask(answer) {
  // Where it would do, the browser has asked for a password by now.
  if (!/\bBearer\b/i.test(answer.headers.get("WWW-Authenticate") || "")) {
    hold();
    return say($("message"), "You are not logged in. Load this page again to log in; if that does not help, ask the operator of this server.");
  }
  const wrong = access !== null;
  remember(null);
  hold();
  say($("message"), "");
  say($("access-error"), wrong ? "That access token was not accepted. Check it and try again." : "");
  $("access-token").toggleAttribute("aria-invalid", wrong);
  $("access").hidden = false;
  $("access-token").focus();
  $("access-token").select();
}

function wait(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.ceil(seconds))} s`;
  return `${Math.ceil(seconds / 60)} min`;
}

function note(service) {
  if (!service.available) return service.reason || "Not available at the moment.";
  if (service.free > 0) return "";
  if (service.retry_in === null || service.retry_in === undefined) return "All are in use. One is free again when someone ends a session.";
  return `All are taken. One may be free in about ${wait(service.retry_in)}.`;
}

function enable(card) {
  const off = card.busy || !card.usable;
  const button = card.button;
  button.setAttribute("aria-disabled", String(off));
  // A button that is disabled while focused would lose the focus.
  button.disabled = off && document.activeElement !== button;
  say(button, card.busy ? "Opening…" : "Open");
}

function create(name) {
  const root = $("card").content.firstElementChild.cloneNode(true);
  const find = (selector) => root.querySelector(selector);
  const card = {
    name, root, button: find(".open"), select: find("select"), label: find("label"),
    text: find(".free-text"), slots: find(".slots"), note: find(".note"), options: find(".options"), described: "", error: find(".error"),
    usable: false, busy: false, sizes: "",
  };
  const id = `service-${cards.size}`;
  root.dataset.name = name;
  find("h2").id = id;
  find("h2").textContent = name;
  card.button.id = `${id}-open`;
  card.button.setAttribute("aria-labelledby", `${id}-open ${id}`);
  card.note.id = `${id}-note`;
  card.button.setAttribute("aria-describedby", card.note.id);
  card.button.addEventListener("click", () => open(card));
  card.button.addEventListener("blur", () => enable(card));
  return card;
}

function update(card, service) {
  card.page = service.page || "viewer.html";
  card.usable = service.available && service.free > 0;
  say(card.text, `${service.free} of ${service.count} free`);
  const squares = service.count <= MAX_SQUARES ? service.count : 0;
  while (card.slots.childElementCount > squares) card.slots.lastChild.remove();
  while (card.slots.childElementCount < squares) card.slots.append(document.createElement("i"));
  [...card.slots.children].forEach((slot, i) => slot.classList.toggle("free", i < service.free));
  say(card.note, note(service));
  card.root.classList.toggle("down", !service.available);

  const sizes = service.sizes || [];
  if (card.sizes !== sizes.join()) {
    const chosen = card.select.value;
    card.sizes = sizes.join();
    card.select.replaceChildren(...sizes.map((size) => new Option(size.replace("x", " × "), size)));
    if (sizes.includes(chosen)) card.select.value = chosen;
    card.label.hidden = sizes.length === 0;
  }
  describe(card, service.reserve_options || []);
  enable(card);
}

/* the options of a reservation, as a form */

function field(option) {
  if (option.choices) {
    const select = document.createElement("select");
    // Where nothing is the default, nothing is chosen for the person either.
    if (option.required) select.append(new Option("Choose…", ""));
    select.append(...option.choices.map((choice) => new Option(choice, choice)));
    return select;
  }
  const input = document.createElement("input");
  input.autocomplete = "off";
  if (option.type === "boolean") input.type = "checkbox";
  if (option.type === "integer" || option.type === "number") {
    input.type = "number";
    if (option.type === "number") input.step = "any";
    if (option.minimum !== null) input.min = option.minimum;
    if (option.maximum !== null) input.max = option.maximum;
  }
  return input;
}

function labelled(option) {
  const input = field(option);
  const label = document.createElement("label");
  input.name = option.name;
  input.required = option.required && option.type !== "boolean";
  if (input.type === "checkbox") {
    input.checked = option.default === "true";
    label.className = "tick";
    label.append(input, option.title || option.name);
  } else {
    if (option.default !== null) input.value = option.default;
    label.append(`${option.title || option.name}${input.required ? " (required)" : ""}`, input);
  }
  return label;
}

// What was filled in stays while the description does.
function describe(card, options) {
  const described = JSON.stringify(options);
  if (card.described === described) return;
  card.described = described;
  card.options.replaceChildren(...options.map(labelled));
}

function chosen(card) {
  const values = new URLSearchParams();
  if (!card.label.hidden) values.set("session_size", card.select.value);
  for (const input of card.options.querySelectorAll("input, select")) {
    if (input.type === "checkbox") values.set(input.name, String(input.checked));
    // An empty text is a value; an empty number would be none, and gives way to the default.
    else if (input.value !== "" || input.type === "text") values.set(input.name, input.value);
  }
  const text = values.toString();
  return text && `?${text}`;
}

function show(services) {
  asking = false;
  $("access").hidden = true;
  const list = $("services");
  list.hidden = false;
  const names = new Set(services.map((service) => service.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) { card.root.remove(); cards.delete(name); }
  }
  services.forEach((service, i) => {
    let card = cards.get(service.name);
    if (!card) { card = create(service.name); cards.set(service.name, card); }
    update(card, service);
    // Moving a node drops its focus: only where the order has changed.
    if (list.children[i] !== card.root) list.insertBefore(card.root, list.children[i] || null);
  });
  say($("message"), services.length ? "Choose a service; it starts when you open it." : "No services here yet. Please ask the operator of this server.");
}

async function refresh() {
  clearTimeout(timer);
  if (running) return;
  running = true;
  try {
    const answer = await call("/v1/services");
    if (answer.status === 401) return ask(answer);
    if (answer.status === 429) return say($("message"), `Too many wrong attempts came from your address. Trying again until it may go on, in about ${wait(Number(answer.headers.get("Retry-After")) || 60)}.`);
    if (!answer.ok) throw new Error(String(answer.status));
    show(await answer.json());
  } catch {
    say($("message"), "The server does not answer. Trying again every few seconds.");
  } finally {
    running = false;
    if (!asking && !document.hidden) timer = setTimeout(refresh, PERIOD);
  }
}

async function open(card) {
  if (card.busy || !card.usable) return;
  for (const input of card.options.querySelectorAll("input, select")) if (!input.reportValidity()) return;
  card.busy = true;
  say(card.error, "");
  enable(card);
  try {
    const answer = await call(`/v1/reserve/${encodeURIComponent(card.name)}${chosen(card)}`, { method: "POST" });
    if (answer.status === 401) { card.busy = false; enable(card); return ask(answer); }
    const body = await answer.json().catch(() => ({}));
    if (answer.status !== 200 || !body.token) {
      throw new Error(body.message || `The server could not open it (${answer.status}). Please try again.`);
    }
    const query = new URLSearchParams({ path: "websockify", token: body.token, session_name: card.name, autoconnect: "true" });
    if (body.websocket_port !== null && body.websocket_port !== undefined) {
      query.set("host", location.hostname);
      query.set("port", body.websocket_port);
    }
    location.assign(`/${card.page}?${query}`);
  } catch (error) {
    card.busy = false;
    enable(card);
    // fetch rejects with a TypeError whose text is meant for developers.
    say(card.error, error instanceof TypeError ? "The server does not answer. Please try again." : error.message);
    refresh();
  }
}

$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("access-token").value.trim();
  if (!token) return;
  remember(token);
  refresh();
});

// A link cannot send a header, and the token is not left in the page's markup.
$("status-link").addEventListener("click", (event) => {
  if (!access) return;
  event.preventDefault();
  location.assign(`/v1/status_view?security_token=${encodeURIComponent(access)}`);
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (!asking) refresh();
});

// "Back" from the viewer may bring this page as it was left: opening.
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const card of cards.values()) { card.busy = false; enable(card); }
  if (!asking) refresh();
});

refresh();
