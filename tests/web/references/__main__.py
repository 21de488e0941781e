"""`python -m tests.web.references`: write the boxes of every page at every width again, after the look was changed on purpose."""

import os
import subprocess
import sys

if __name__ == "__main__":
    asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "tests/web/test_pictures.py", "-k", "looks"]
    sys.exit(subprocess.run(asked, check=False, env={**os.environ, "CONCEPTLAB_REFERENCES": "renew"}).returncode)
