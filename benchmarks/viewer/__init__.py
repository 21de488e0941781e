"""How fast the viewer is, in real Chromium: `python -m benchmarks.viewer` writes its rows into docs/benchmarks.md."""
