"""The page without a browser: everything escaped, everything inside, and a policy that names its own scripts."""

import base64
import hashlib
import html
import json
import re

import pytest

from conceptlab.pages import Figure, Note, Report, Section, render_report
from conceptlab.pages.bundle import begin_bundle
from conceptlab.pages.spark import spark_area, spark_path
from conceptlab.pages.templates import data_block, written
from conceptlab.plot import Chart

HOSTILE = "</script><script>alert(1)</script> \u2028 & \" ' <!-- \ud800"


@pytest.fixture(scope="module")
def page():
    body = {"mark": "point", "encoding": {"x": {"field": "x", "type": "quantitative"}}}
    figure = Figure("f-1", "f-1", Chart(HOSTILE, HOSTILE, body, ({"x": 1.5, "name": HOSTILE},)))
    section = Section("concept-x", HOSTILE, True, (HOSTILE,), (Note("Reading", HOSTILE),), (figure,), (HOSTILE,))
    note = (Note(HOSTILE, HOSTILE),)
    return render_report(Report(HOSTILE, HOSTILE, HOSTILE, note, (), (), (section,), (), note, note))


def test_hostile_text_makes_no_element(page):
    scripts = re.findall(r"<script\b[^>]*>", page)
    assert (
        scripts
        == ['<script type="application/json">', '<script type="application/json" id="themes">'] + ["<script>"] * 2
    )
    assert page.count("</script>") == 4 and "alert(1)</script>" not in page
    assert html.escape("<script>alert(1)") in page


def test_the_policy_names_exactly_the_scripts_of_the_page(page):
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])
    assert "unsafe" not in policy and policy.startswith("default-src 'none'")
    for tag in ("script", "style"):
        for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL):
            assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_nothing_is_loaded_from_elsewhere(page):
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", markup) and "url(" not in markup and "@import" not in markup


def test_data_blocks_come_back_as_they_were():
    value = {"name": HOSTILE[:-1], "n": [1, 2.5, None, True]}
    text = str(data_block(value))
    assert json.loads(text) == value and not set("<>&\u2028\u2029") & set(text)
    with pytest.raises(ValueError):
        data_block({"n": float("nan")})


def test_the_bundle_can_stand_inside_a_script():
    script = begin_bundle().result()
    assert "</script" not in script and "<!--" not in script and "\r" not in script and "vegaEmbed" in script
    assert begin_bundle() is begin_bundle()


def test_sparklines_stay_in_their_box():
    numbers = re.findall(r"-?[\d.]+", spark_path([-1.0, 0.2, float("nan"), 9.0]))
    assert len(numbers) == 6 and all(0 <= float(n) <= 84 for n in numbers)
    assert spark_path([]) == "" and spark_area([float("nan")]) == ""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0996, "0.100"),
        (0.09949, "0.099"),
        (0.106, "0.106"),
        (0.0, "0.000"),
        (-0.00071, "-0.00071"),
        (99.9996, "100"),
        (None, "–"),
    ],
)
def test_numbers_keep_their_digits_where_rounding_reaches_the_next_form(value, said):
    assert written(value) == said
