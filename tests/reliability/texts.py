"""The hostile texts of tests/web in full, in a process of their own: how many went through what, or the words of the failure."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

FILE = "tests/web/test_hostile_everywhere.py"


def everywhere(base: Path, *, whole: bool) -> str:
    """Run the file, nothing thinned where `whole`; a test that fails, or that is skipped for want of a browser, fails the bar."""
    report = base / "report.xml"
    asked = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:xdist",
        f"--basetemp={base / 'kept'}",
        f"--junitxml={report}",
    ]
    chosen = {"CONCEPTLAB_HOSTILE": "all" if whole else ""}
    ran = subprocess.run([*asked, FILE], check=False, capture_output=True, text=True, env={**os.environ, **chosen})
    assert ran.returncode == 0, ran.stdout[-3000:]
    found = ElementTree.parse(report).getroot()
    assert not found.findall(".//skipped"), "without a browser nothing is known"
    told = [
        f"{int(each.attrib['value']):,} {each.attrib['name']}"
        for each in found.iterfind(".//testcase/properties/property")
    ]
    return ", ".join(told) + "; each shown as text, none ran, asked for an address or broke a page"
