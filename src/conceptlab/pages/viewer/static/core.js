// What every widget uses: the selection that all panels share, arrays from the server, widgets that begin and end, saving.
const root = document.documentElement;

// -- the selection: the query of the address, and nothing else ---------------------------------------------------
const SHARED = ["atlas", "concept", "layer", "head", "neuron", "prompt", "corrupted", "token", "target", "answer", "distractor", "circuit", "other"];
let offline = new URLSearchParams((root.dataset.address ?? "").split("?")[1] ?? ""); // an exported page holds its own
const query = () => new URLSearchParams(root.dataset.offline ? offline : location.search);
const selection = () => Object.fromEntries(query());

function select(change) {
  const next = query();
  for (const [name, value] of Object.entries(change)) {
    if (value === null || value === undefined || value === "") next.delete(name);
    else next.set(name, String(value));
  }
  const text = next.toString();
  if (root.dataset.offline) offline = next;
  else history.replaceState(null, "", `${location.pathname}${text ? `?${text}` : ""}${location.hash}`);
  keepLinks();
  document.dispatchEvent(new CustomEvent("selection", { detail: { change, selection: Object.fromEntries(next) } }));
}

function onSelect(call, element) {
  const heard = (event) => call(event.detail.change, event.detail.selection);
  document.addEventListener("selection", heard);
  return () => document.removeEventListener("selection", heard);
}

// A link marked data-keep takes the shared part of the selection along; what its own address says wins.
function keepLinks(within = document) {
  if (root.dataset.offline) return;
  const now = new URLSearchParams(location.search);
  for (const link of within.querySelectorAll("a[data-keep]")) {
    link.dataset.own ??= link.getAttribute("href");
    const url = new URL(link.dataset.own, location.href);
    for (const name of SHARED) if (now.has(name) && !url.searchParams.has(name)) url.searchParams.set(name, now.get(name));
    link.setAttribute("href", url.pathname + url.search + url.hash);
  }
}

// -- numbers from the server; an exported page holds them itself ---------------------------------------------------
const KINDS = {
  uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, int16: Int16Array, int32: Int32Array, uint32: Uint32Array,
  int64: BigInt64Array, float32: Float32Array, float64: Float64Array,
};
const kept = (url) => document.querySelector(`script[data-url="${CSS.escape(url)}"]`);

async function slice(url, options = {}) {
  const held = kept(url);
  if (held) {
    const bytes = Uint8Array.from(atob(held.textContent.trim()), (c) => c.charCodeAt(0));
    return { shape: held.dataset.shape.split(",").map(Number), dtype: held.dataset.dtype, data: new KINDS[held.dataset.dtype](bytes.buffer) };
  }
  const answer = await fetch(url, { signal: options.signal, headers: { Accept: "application/octet-stream" } });
  if (!answer.ok) throw new Error((await answer.text()).trim().slice(0, 400));
  const dtype = answer.headers.get("X-Dtype");
  return { shape: answer.headers.get("X-Shape").split(",").map(Number), dtype, data: new KINDS[dtype](await answer.arrayBuffer()) };
}

async function json(url, options = {}) {
  const answer = await fetch(url, { signal: options.signal, headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error((await answer.text()).trim().slice(0, 400));
  return answer.json();
}

// -- widgets: [data-widget="name"], begun once, also when htmx puts them in -----------------------------------------
const makers = new Map();
const running = new Map(); // element -> cleanup

function widget(name, make) {
  makers.set(name, make);
  begin(document);
}

function begin(within) {
  const found = [...within.querySelectorAll("[data-widget]")];
  if (within.matches?.("[data-widget]")) found.unshift(within);
  for (const element of found) {
    const make = makers.get(element.dataset.widget);
    if (!make || running.has(element)) continue;
    running.set(element, null);
    Promise.resolve()
      .then(() => make(element))
      .then((cleanup) => {
        running.set(element, cleanup ?? null);
        element.dataset.ready = "yes";
      })
      .catch((error) => fail(element, error));
  }
}

function fail(element, error) {
  element.dataset.ready = "failed";
  const line = document.createElement("p");
  line.className = "said-error";
  line.setAttribute("role", "alert");
  line.textContent = `This could not be shown: ${error.message}`;
  element.replaceChildren(line);
}

new MutationObserver((changes) => {
  for (const change of changes) {
    for (const node of change.addedNodes) {
      if (node.nodeType !== 1) continue;
      begin(node);
      keepLinks(node);
    }
  }
  for (const [element, cleanup] of running) {
    if (element.isConnected) continue;
    if (typeof cleanup === "function") cleanup();
    running.delete(element);
  }
}).observe(document.documentElement, { childList: true, subtree: true });

// -- colours ---------------------------------------------------------------------------------------------------------
const themes = () => JSON.parse(document.getElementById("themes").textContent);
const darkness = matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : darkness.matches);

// 256 colours [256 * 3] of the house's scales: "heat" (0 to most) or "diverging" (least, none, most).
function palette(name) {
  const range = themes()[dark() ? "dark" : "light"].range;
  const stops = range[name === "diverging" ? "diverging" : "heatmap"].map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  const found = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i += 1) {
    const at = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    for (let c = 0; c < 3; c += 1) found[3 * i + c] = stops[low][c] + (at - low) * (stops[low + 1][c] - stops[low][c]);
  }
  return found;
}

// The colour a style variable has now, such as "--ink".
const ink = (name) => getComputedStyle(root).getPropertyValue(name).trim();

function onTheme(call) {
  document.addEventListener("theme", call);
  return () => document.removeEventListener("theme", call);
}
darkness.addEventListener("change", () => document.dispatchEvent(new CustomEvent("theme")));
// On paper everything is light; canvases are drawn again before the paper is.
let chosenTheme = null;
addEventListener("beforeprint", () => {
  if (!printing) chosenTheme = root.dataset.theme;
  printing = true;
  root.dataset.theme = "light";
  document.dispatchEvent(new CustomEvent("theme"));
});
addEventListener("afterprint", () => {
  printing = false;
  if (chosenTheme) root.dataset.theme = chosenTheme;
  else delete root.dataset.theme;
  document.dispatchEvent(new CustomEvent("theme"));
});

function nextTheme() {
  const next = { undefined: "light", light: "dark", dark: undefined }[root.dataset.theme];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  try {
    if (next) localStorage.setItem("conceptlab-theme", next);
    else localStorage.removeItem("conceptlab-theme");
  } catch {
    // kept for this page only
  }
  sayTheme();
  document.dispatchEvent(new CustomEvent("theme"));
}
const sayTheme = () => document.querySelectorAll("[data-theme-word]").forEach((e) => (e.textContent = root.dataset.theme ?? "system"));

// -- saving and saying -----------------------------------------------------------------------------------------------
function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
const savePng = (name, canvas) => canvas.toBlob((blob) => save(`${name}.png`, blob));

// A cell that a spreadsheet would take for a formula gets a leading quote.
function csvCell(value) {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" && /^[=+\-@\t]/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
function saveCsv(name, columns, rows) {
  const text = [columns, ...rows].map((row) => row.map(csvCell).join(",")).join("\n") + "\n";
  save(`${name}.csv`, new Blob([text], { type: "text/csv" }));
}

function say(text) {
  const line = document.getElementById("said");
  if (line) line.textContent = text;
  if (line) setTimeout(() => line.textContent === text && (line.textContent = ""), 4000);
}

// A canvas of `width` x `height` CSS pixels, sharp on every screen; gives its context, already scaled.
function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

// Numbers as the report writes them.
function number(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 99.9995) return value.toFixed(0); // here and below where rounding ends in the next form
  return size >= 0.0995 || value === 0 ? value.toFixed(3) : value.toPrecision(2);
}

globalThis.conceptlab = {
  slice, json, select, selection, onSelect, widget, palette, ink, dark, onTheme, paper: () => printing, save, savePng, saveCsv, say, sized, number,
};

document.addEventListener("click", (event) => {
  const act = event.target.closest?.("[data-act]")?.dataset.act;
  if (act === "theme") nextTheme();
  if (act === "copy-link") {
    const link = location.href;
    navigator.clipboard?.writeText(link).then(() => say("The link is copied."), () => say(link));
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  document.querySelectorAll("details.menu[open]").forEach((menu) => menu.removeAttribute("open"));
});
// A part of the page that htmx exchanged under a new address changes the selection, too.
document.addEventListener("htmx:pushedIntoHistory", () => select({}));
sayTheme();
keepLinks();
document.dispatchEvent(new CustomEvent("conceptlab"));
