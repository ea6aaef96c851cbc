"""A search from the command line: python search/run.py --space spaces/quickstart.yaml

Works from any folder, and also copied alone to a cluster's head (`ray submit cluster.yaml search/run.py`): all it needs
is that this project is installed there. `search/command.py` has the options; from Python, call `search.run(...)`.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "search.run":  # it would take the place of the function
    raise ImportError("search/run.py is a script: call `search.run(...)`, or import `search.command`")

if __name__ == "__main__":
    # Python puts a script's folder first on sys.path: there, search/report would hide an installed package of that name.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]

    from search.command import main

    sys.exit(main())
