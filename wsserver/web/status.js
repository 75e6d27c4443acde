const PERIOD = 2000;
const SURE_FOR = 4000;

const $ = (id) => document.getElementById(id);
const rows = $("rows");
// The server's own markup of each row, as this page changes its rows afterwards.
const source = new WeakMap();
// Who came with the security token goes on with it; it does not stay where others may see it.
const address = new URL(location.href);
const secret = address.searchParams.get("security_token");
address.searchParams.delete("security_token");
if (secret !== null) history.replaceState(null, "", address);
const headers = secret ? { Authorization: `Bearer ${secret}` } : {};
let timer = 0;
let running = false;
let sure = "";
let sureTimer = 0;
let lastGood = new Date();

function say(text) {
  if ($("note").textContent !== text) $("note").textContent = text;
}

function localize(root) {
  for (const time of root.querySelectorAll("time")) {
    const when = new Date(time.dateTime);
    if (!time.dateTime || Number.isNaN(when.getTime())) continue;
    const today = when.toDateString() === new Date().toDateString();
    time.textContent = when.toLocaleString([], { ...(today ? {} : { dateStyle: "medium" }), timeStyle: "short" });
    time.title = when.toLocaleString([], { dateStyle: "full", timeStyle: "long" });
  }
}

const buttonOf = (token) => [...rows.querySelectorAll("button.release")].find((button) => button.dataset.token === token);

function mark(button) {
  const on = button.dataset.token === sure;
  button.classList.toggle("sure", on);
  if (on) button.textContent = "Press again";
}

function unsure() {
  const button = buttonOf(sure);
  sure = "";
  clearTimeout(sureTimer);
  if (!button) return;
  button.classList.remove("sure");
  button.textContent = "Release";
}

function prepare(row) {
  localize(row);
  for (const button of row.querySelectorAll("button.release")) {
    // Many buttons say "Release"; the description tells them apart.
    const cells = row.cells;
    button.setAttribute("aria-description", `${cells[0].textContent.trim()}, instance ${cells[2].textContent.trim()}`);
    mark(button);
  }
}

function replace(fresh) {
  const focused = rows.contains(document.activeElement) ? document.activeElement.dataset.token : undefined;
  fresh.forEach((row, i) => {
    const html = row.outerHTML;
    const old = rows.children[i];
    if (old && source.get(old) === html) return;
    const copy = document.importNode(row, true);
    source.set(copy, html);
    prepare(copy);
    if (old) old.replaceWith(copy);
    else rows.append(copy);
  });
  while (rows.childElementCount > fresh.length) rows.lastElementChild.remove();
  if (focused !== undefined && document.activeElement?.dataset.token !== focused) buttonOf(focused)?.focus();
}

async function refresh() {
  clearTimeout(timer);
  if (running) return;
  running = true;
  try {
    const answer = await fetch(address, { cache: "no-store", headers });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const summary = page.getElementById("summary").textContent;
    if ($("summary").textContent !== summary) $("summary").textContent = summary;
    replace([...page.getElementById("rows").children]);
    if ($("note").dataset.kind === "lost") { $("note").dataset.kind = ""; say(""); }
    lastGood = new Date();
  } catch {
    $("note").dataset.kind = "lost";
    say(`The server does not answer. Shown as of ${lastGood.toLocaleTimeString()}; trying again.`);
  } finally {
    running = false;
    if (!document.hidden) timer = setTimeout(refresh, PERIOD);
  }
}

async function release(button) {
  const token = button.dataset.token;
  if (sure !== token) {
    unsure();
    sure = token;
    mark(button);
    $("note").dataset.kind = "";
    say("Press again to release it; a running session is stopped.");
    sureTimer = setTimeout(() => { unsure(); say(""); }, SURE_FOR);
    return;
  }
  unsure();
  try {
    const answer = await fetch(`/v1/release/${encodeURIComponent(token)}`, { method: "POST", cache: "no-store", headers });
    if (answer.ok) say("Released.");
    else if (answer.status === 404) say("It had ended already.");
    else {
      const body = await answer.json().catch(() => ({}));
      say(body.message || `It could not be released (${answer.status}).`);
    }
  } catch {
    say("It could not be released: the server does not answer.");
  }
  refresh();
}

rows.addEventListener("click", (event) => {
  const button = event.target.closest("button.release");
  if (button) release(button);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else refresh();
});

for (const row of rows.children) {
  source.set(row, row.outerHTML);
  prepare(row);
}
timer = setTimeout(refresh, PERIOD);
