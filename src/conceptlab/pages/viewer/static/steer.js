// Three texts that grow token by token from one stream of events; leaving or stopping closes the stream, and the server stops.
const { widget, palette, number, onTheme, saveCsv } = globalThis.conceptlab;

const COLUMNS = ["plain", "steered", "random"];
const NUMBERS = { readout: "readout, push included", read: "readout by the plain model", log_prob: "log-probability", kl: "KL to plain" };
const shown = (value) => (Number.isInteger(value) ? String(value) : number(value));
const ROWS = [
  ["read", "Readout of the text, by the plain model", "What the text itself says of the concept: the plain model reads it."],
  ["readout", "Readout while writing, push included", "What the stream held where each token was written. Part of it is the push itself."],
  ["kl", "KL to plain, nats a token", "How far what the model expected lies from what the plain model expects of the same text."],
  ["plain_log_prob", "Log-probability under the plain model", "How natural the plain model finds the text."],
  ["repetition", "Repetition", "Share of pairs of neighbouring tokens that stood there before."],
  ["n", "Tokens written", "The end of the text counts as one."],
];

// Black or white, whichever stands out more (at least 4.5 to 1 on any colour).
function legible(...rgb) {
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff";
}

widget("steer", (root) => {
  const role = (name, within = root) => within.querySelector(`[data-role="${name}"]`);
  const form = root.querySelector("form");
  const offline = Boolean(document.documentElement.dataset.offline);
  const texts = Object.fromEntries(COLUMNS.map((name) => [name, []]));
  const column = (name) => root.querySelector(`[data-column="${name}"]`);
  const place = (name) => column(name).querySelector(".tokens");
  let stream = null;
  let plan = null;
  let finished = null;

  // -- the form ------------------------------------------------------------------------------------------------------
  const kind = () => form.elements.kind.value;
  function fit() {
    for (const element of form.querySelectorAll("[data-for]")) {
      const on = element.dataset.for === kind();
      element.hidden = !on;
      for (const field of element.querySelectorAll("input, select")) field.disabled = !on;
    }
    const slide = role("slide");
    const [least, most, step] = { direction: [-4, 4, 0.05], neuron: [-20, 20, 0.1], head: [-3, 3, 0.05] }[kind()];
    Object.assign(slide, { min: least, max: most, step });
    slide.value = form.elements.strength.value;
    role("strength-name").textContent = { direction: "Strength", neuron: "Held at", head: "Times" }[kind()];
  }
  function query() {
    const made = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value !== "") made.set(name, value);
    return made;
  }
  const remember = (extra = {}) => {
    const made = query();
    for (const [name, value] of Object.entries(extra)) made.set(name, value);
    if (!offline) history.replaceState(null, "", `${location.pathname}?${made}`);
    return made;
  };
  form.addEventListener("input", (event) => {
    if (event.target === role("slide")) form.elements.strength.value = event.target.value;
    if (event.target.name === "strength") role("slide").value = event.target.value;
    if (event.target.name === "kind") fit();
  });
  form.addEventListener("change", (event) => {
    if ("reload" in event.target.dataset && !offline) location.assign(`${location.pathname}?${query()}`);
    else if (event.target.name === "kind") form.elements.strength.value = { direction: 0.5, neuron: 5, head: 0 }[kind()];
    if (event.target.name === "kind") fit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  role("stop").addEventListener("click", () => stop("stopped"));

  // -- the stream ----------------------------------------------------------------------------------------------------
  function run() {
    stop("");
    const made = remember({ run: "1" });
    clear();
    writing(true);
    state("waiting for the model");
    stream = new EventSource(`${root.dataset.stream}?${made}`);
    const on = (name, call) => stream.addEventListener(name, (event) => call(JSON.parse(event.data)));
    on("plan", begin);
    on("token", add);
    on("read", read);
    on("said", (data) => data.said && state(data.said));
    on("done", (data) => {
      stop(`done in ${data.seconds.toFixed(1)} s`);
      finish();
    });
    on("failed", (data) => fail(data.error));
    on("cancelled", () => stop("stopped"));
    stream.onerror = () => stream && fail("the stream broke off; is the server still running?");
  }
  function stop(said) {
    if (stream) stream.close();
    stream = null;
    writing(false);
    state(said);
    root.dataset.state = said.startsWith("done") ? "done" : said;
  }
  function fail(said) {
    stop("");
    root.dataset.state = "failed";
    const line = Object.assign(document.createElement("p"), { className: "said-error", textContent: said });
    line.setAttribute("role", "alert");
    line.dataset.role = "failure";
    root.querySelector(".steer-results").prepend(line);
  }
  function writing(on) {
    role("stop").disabled = !on;
    for (const name of COLUMNS) column(name).classList.toggle("writing", on);
  }
  const state = (said) => (role("state").textContent = said);

  // -- what came -----------------------------------------------------------------------------------------------------
  function clear() {
    role("failure")?.remove();
    role("summary").hidden = true;
    plan = finished = null;
    for (const name of COLUMNS) {
      texts[name] = [];
      const prompt = Object.assign(document.createElement("bdi"), { className: "asked", textContent: form.elements.prompt.value });
      prompt.dataset.role = "prompt";
      place(name).replaceChildren(prompt);
      role("token", column(name)).textContent = "";
      column(name).querySelector(".token-table").hidden = true;
    }
  }
  function begin(data) {
    plan = data;
    role("unit").textContent = data.unit_says;
    const shown = data.readout_site !== null;
    for (const option of role("colour").options) if (option.value.startsWith("read")) option.disabled = !shown;
    if (!shown && role("colour").value.startsWith("read")) role("colour").value = "log_prob";
  }
  function add(cell) {
    texts[cell.column].push(cell);
    const token = document.createElement("bdi");
    token.className = "token";
    token.textContent = cell.text;
    token.dataset.n = cell.n;
    if (cell.text === "") Object.assign(token, { className: "token end", textContent: "end" });
    place(cell.column).append(token);
    paint();
  }
  function read(data) {
    texts[data.name] = data.tokens.map((token, n) => ({ ...token, n, column: data.name }));
    finished = { ...(finished ?? {}), [data.name]: data };
    role("says", column(data.name)).textContent = `${data.says.charAt(0).toUpperCase()}${data.says.slice(1)}.`;
    paint();
    tabulate(data);
  }

  // -- colours, one scale for all three --------------------------------------------------------------------------------
  function paint() {
    const by = role("colour").value;
    const values = COLUMNS.flatMap((name) => texts[name].map((cell) => cell[by])).filter((v) => typeof v === "number");
    const diverging = by.startsWith("read");
    const size = Math.max(1e-9, ...values.map(Math.abs));
    const [low, high] = diverging ? [-size, size] : by === "log_prob" ? [Math.min(-1, ...values), 0] : [0, size];
    const colours = palette(diverging ? "diverging" : "heat");
    role("scale").hidden = !by || !values.length;
    role("low").textContent = number(low);
    role("high").textContent = diverging ? `${number(high)} × ${plan?.readout_unit ?? ""}` : by === "repetition" ? "" : `${number(high)} nats`;
    ramp(colours);
    for (const name of COLUMNS) {
      for (const element of place(name).querySelectorAll(".token")) {
        const value = texts[name][Number(element.dataset.n)]?.[by];
        const known = typeof value === "number";
        const at = known ? 3 * Math.round(255 * Math.min(1, Math.max(0, (value - low) / (high - low || 1)))) : 0;
        const [r, g, b] = [colours[at], colours[at + 1], colours[at + 2]];
        element.style.backgroundColor = known ? `rgb(${r} ${g} ${b})` : "";
        element.style.color = known ? (legible(r, g, b)) : "";
      }
    }
  }
  function ramp(colours) {
    const canvas = role("ramp");
    const context = canvas.getContext("2d");
    for (let x = 0; x < canvas.width; x += 1) {
      const at = 3 * Math.round((255 * x) / (canvas.width - 1));
      context.fillStyle = `rgb(${colours[at]} ${colours[at + 1]} ${colours[at + 2]})`;
      context.fillRect(x, 0, 1, canvas.height);
    }
  }
  role("colour").addEventListener("change", paint);

  // -- one token's numbers: by pointer, or by the arrow keys --------------------------------------------------------------
  for (const name of COLUMNS) {
    const box = place(name);
    let at = -1;
    const show = (n) => {
      const cell = texts[name][n];
      box.querySelector(".at")?.classList.remove("at");
      if (!cell) return;
      at = n;
      box.querySelector(`[data-n="${n}"]`).classList.add("at");
      const numbers = Object.entries(NUMBERS).filter(([key]) => typeof cell[key] === "number").map(([key, words]) => `${words} ${number(cell[key])}`);
      role("token", column(name)).textContent = `${JSON.stringify(cell.text)}: ${numbers.join(", ")}`;
    };
    box.addEventListener("pointerover", (event) => event.target.dataset.n && show(Number(event.target.dataset.n)));
    box.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      show(Math.min(texts[name].length - 1, Math.max(0, at + step)));
    });
  }

  // -- tables ----------------------------------------------------------------------------------------------------------
  function table(head, rows, caption) {
    const made = document.createElement("table");
    made.className = "plain";
    const cap = made.createCaption();
    cap.className = "sr";
    cap.textContent = caption;
    const top = made.createTHead().insertRow();
    for (const word of head) top.append(Object.assign(document.createElement("th"), { textContent: word, scope: "col" }));
    const body = made.createTBody();
    for (const cells of rows) {
      const row = body.insertRow();
      cells.forEach((cell, i) => {
        const made = document.createElement(i ? "td" : "th");
        if (!i) made.scope = "row";
        const inner = typeof cell === "string" ? document.createElement("bdi") : null;
        if (inner) inner.textContent = cell;
        made.append(inner ?? shown(cell));
        row.append(made);
      });
    }
    return made;
  }
  function tabulate(data) {
    const details = column(data.name).querySelector(".token-table");
    const keys = Object.keys(NUMBERS).filter((key) => data.tokens.some((token) => typeof token[key] === "number"));
    const rows = data.tokens.map((token) => [JSON.stringify(token.text), ...keys.map((key) => token[key])]);
    details.querySelector(".scroll").replaceChildren(table(["token", ...keys.map((key) => NUMBERS[key])], rows, `${data.name}, token by token`));
    details.hidden = false;
  }
  function finish() {
    if (!finished || COLUMNS.some((name) => !finished[name])) return;
    const rows = ROWS.filter(([key]) => COLUMNS.some((name) => typeof finished[name][key] === "number"));
    const made = table(["", "steered", "random (control)", "plain"], rows.map(([key, words]) => [words, finished.steered[key], finished.random[key], finished.plain[key]]), "summary");
    for (const [i, row] of [...made.tBodies[0].rows].entries()) {
      row.title = rows[i][2];
      row.cells[1].className = "main";
      row.cells[2].className = "control";
      row.cells[3].className = "control";
    }
    const box = role("summary");
    box.querySelector(".scroll").replaceChildren(made);
    box.querySelector(".tools")?.remove();
    const tools = Object.assign(document.createElement("div"), { className: "tools" });
    const csv = Object.assign(document.createElement("button"), { type: "button", textContent: "CSV, token by token" });
    csv.addEventListener("click", () => {
      const keys = Object.keys(NUMBERS);
      saveCsv("steered", ["column", "n", "id", "text", ...keys], COLUMNS.flatMap((name) => finished[name].tokens.map((t, n) => [name, n, t.id, t.text, ...keys.map((k) => t[k])])));
    });
    tools.append(csv);
    box.append(tools);
    box.hidden = false;
  }

  // -- begin -----------------------------------------------------------------------------------------------------------
  fit();
  const held = JSON.parse(role("result").textContent || "null");
  if (held) {
    clear();
    begin(held);
    for (const data of held.columns) {
      data.tokens.forEach((token, n) => add({ ...token, n, column: data.name }));
      read(data);
    }
    finish();
    root.dataset.state = "done";
  } else if (!offline && new URLSearchParams(location.search).get("run") === "1" && !role("run").disabled) run();
  const away = onTheme(paint);
  return () => {
    stream?.close();
    away();
  };
});
