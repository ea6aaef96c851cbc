"""What a terminal cannot show does not end a program."""

from __future__ import annotations

import os
import subprocess
import sys


def test_signs_that_ascii_lacks_are_escaped() -> None:
    code = "import sys; from condense.system.terminal import print_anything as p; p(); print('9 ± 1'); sys.stderr.write('λ')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "9 \\xb1 1\n" and done.stderr == "\\u03bb"
