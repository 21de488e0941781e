"use strict";
// Before anything is painted: the reader's own choice of light or dark, kept in this browser.
(() => {
  try {
    const kept = localStorage.getItem("conceptlab-theme");
    if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
  } catch {
    // a browser that keeps nothing follows the system
  }
})();
