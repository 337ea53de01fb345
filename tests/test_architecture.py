"""The architecture page is what the code says."""

import runpy
from pathlib import Path

TOOL = Path(__file__).parent.parent / "tools" / "architecture.py"


def test_the_page_is_up_to_date():
    drawn = runpy.run_path(str(TOOL))
    assert drawn["PAGE"].read_text(encoding="utf-8") == drawn["page"](), "run: uv run tools/architecture.py"
