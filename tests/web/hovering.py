"""What thirty moves of the mouse over a head's pattern cost, in a script for the page: milliseconds to the next frame, sorted."""

HOVER = """async () => {
  const canvas = document.querySelector(".matrix-canvas");
  canvas.scrollIntoView({ block: "center", behavior: "instant" });
  await new Promise((done) => requestAnimationFrame(done));
  const at = canvas.getBoundingClientRect();
  const found = [];
  for (let i = 0; i < 30; i += 1) {
    const begun = performance.now();
    const where = { bubbles: true, clientX: at.left + 60 + 5 * i, clientY: at.top + 200 + 7 * i };
    canvas.dispatchEvent(new MouseEvent("mousemove", where));
    const tip = [...document.querySelectorAll(".tip")].find((t) => !t.hidden);
    if (!tip?.textContent.includes("weight")) throw new Error("no tip");
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    found.push(performance.now() - begun);
  }
  return found.sort((a, b) => a - b);
}"""
