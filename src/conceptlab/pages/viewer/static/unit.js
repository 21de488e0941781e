// The texts of a unit: each token in the colour of its activation, one scale for all of them.
const { widget, palette, number, onTheme, saveCsv } = globalThis.conceptlab;

// Black or white, whichever stands out more (at least 4.5 to 1 on any colour).
function legible(...rgb) {
  const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff";
}

widget("unit-texts", (root) => {
  const found = JSON.parse(root.querySelector('[data-role="texts"]').textContent);
  const size = Math.max(1e-9, Math.abs(found.max), Math.abs(Math.min(0, found.min)));
  const signed = found.min < 0;
  const [low, high] = signed ? [-size, size] : [0, size];
  const scale = root.querySelector('[data-role="scale"]');
  const ramp = Object.assign(document.createElement("canvas"), { width: 120, height: 10 });
  const word = (text) => Object.assign(document.createElement("span"), { className: "small", textContent: text });
  scale.replaceChildren(word(number(low)), ramp, word(number(high)));

  function paint() {
    const colours = palette(signed ? "diverging" : "heat");
    const context = ramp.getContext("2d");
    for (let x = 0; x < 120; x += 1) {
      const at = 3 * Math.round((255 * x) / 119);
      context.fillStyle = `rgb(${colours[at]} ${colours[at + 1]} ${colours[at + 2]})`;
      context.fillRect(x, 0, 1, 10);
    }
    for (const line of root.querySelectorAll(".tokens")) {
      const { values } = found.examples[Number(line.dataset.n)];
      line.querySelectorAll(".token").forEach((token, i) => {
        const at = 3 * Math.round(255 * Math.min(1, Math.max(0, (values[i] - low) / (high - low))));
        const [r, g, b] = [colours[at], colours[at + 1], colours[at + 2]];
        token.style.backgroundColor = `rgb(${r} ${g} ${b})`;
        token.style.color = legible(r, g, b);
      });
    }
  }
  root.querySelector('[data-export="csv"]').addEventListener("click", () => {
    saveCsv("texts", ["text", "concept", "label", "position", "token", "value"], found.examples.flatMap((e, n) => e.tokens.map((t, i) => [n, e.concept, e.label, i, t, e.values[i]])));
  });
  paint();
  return onTheme(paint);
});
