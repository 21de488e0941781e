"use strict";
// Draws the one chart of the page, again when the reader's colours change.
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const box = document.getElementById("drawing");
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  // Vega's own expression interpreter stands in for `new Function`, which the page's policy forbids.
  const options = {
    ast: true, actions: false, defaultStyle: false, renderer: "svg", mode: "vega-lite", logLevel: 1,
    tooltip: { disableDefaultStyle: true },
  };
  let shown = null;

  async function draw() {
    if (shown) shown.finalize();
    const spec = darkness.matches ? { ...specs.light, ...specs.dark } : specs.light;
    try {
      shown = await vegaEmbed(box, spec, options);
      box.dataset.drawn = "yes";
    } catch (error) {
      box.textContent = `This chart could not be drawn: ${error.message}`;
      box.dataset.drawn = "failed";
    }
  }

  darkness.addEventListener("change", draw);
  draw();
})();
