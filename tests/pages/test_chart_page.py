"""A page with one live chart: it loads nothing, hostile names stay text, and a circuit answers the pointer."""

import base64
import hashlib
import html
import re

import pytest

from conceptlab.errors import RunError
from conceptlab.pages import render_chart, save_chart_page
from conceptlab.plot import circuit_graph
from conceptlab.results import Circuit, GraphShape, Provenance

EDGES = [("embed", "L0.H0.v", 1.0), ("embed", "L0.H1.v", 0.5), ("L0.H0", "logits", 2.0), ("L0.H1", "logits", -1.0)]
HOSTILE = "</script><script>window.ran=1</script> \u202e & \" ' <!--"


def chart(name="four edges"):
    provenance = Provenance("by hand", n=8, seed=0)
    return circuit_graph(Circuit.from_edges(GraphShape(1, 2), EDGES, provenance, control=[0.01] * 4), name=name)


def test_the_policy_names_exactly_the_scripts_of_the_page():
    page = render_chart(chart(HOSTILE))
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])
    assert "unsafe" not in policy and policy.startswith("default-src 'none'")
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert len(scripts) == 2 and page.count("</script>") == 3
    for text in [*scripts, *re.findall(r"<style>(.*?)</style>", page, flags=re.DOTALL)]:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", markup) and "url(" not in markup


def test_a_page_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        save_chart_page(chart(), tmp_path / "file" / "c.html")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hovering_lights_up_edges_and_tells_their_numbers(browser, tmp_path, scheme):
    page = browser.new_page(viewport={"width": 700, "height": 700}, color_scheme=scheme)
    said, asked = [], []
    page.on("console", lambda m: said.append(m.text))
    page.on("pageerror", lambda e: said.append(str(e)))
    page.on("request", lambda r: asked.append(r.url))
    page.goto(save_chart_page(chart(HOSTILE), tmp_path / "c.html").as_uri())
    page.wait_for_selector("#drawing[data-drawn]")
    assert page.locator("#drawing").get_attribute("data-drawn") == "yes"

    def opacity():
        lines = page.locator("g.mark-line path")
        return sorted(float(lines.nth(i).get_attribute("stroke-opacity")) for i in range(lines.count()))

    assert opacity() == [0.85] * 4
    page.locator("text=L0.H1").first.hover()
    page.wait_for_function("document.querySelector('.vg-tooltip.visible')")
    assert opacity() == [0.07, 0.07, 0.85, 0.85]
    first = page.locator("g.mark-rule line").last.bounding_box()
    page.mouse.move(first["x"] + first["width"] / 2, first["y"] + first["height"] / 2)
    page.wait_for_function("document.querySelector('.vg-tooltip.visible').innerText.includes('→')")
    told = page.locator(".vg-tooltip.visible").inner_text()
    assert "score" in told and "under the null" in told and "0.01" in told
    assert opacity() == [0.07, 0.07, 0.07, 0.85]
    page.mouse.move(2, 2)
    page.wait_for_function("!document.querySelector('.vg-tooltip.visible')")
    assert opacity() == [0.85] * 4
    assert not said and len(asked) == 1 and not page.evaluate("window.ran")
    page.close()
