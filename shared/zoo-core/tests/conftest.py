"""The tests are no package (import-mode importlib); modules beside them are found by their folder."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
