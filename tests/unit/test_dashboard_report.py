"""Reports are laid out, and what they quote cannot touch the terminal."""

from __future__ import annotations

import re

import pytest
from dashboard_data import BIDI, HOSTILE

from ai_infra.dashboard.clean import cells
from ai_infra.dashboard.report import report_text

REPORT = f"""# Check-up of demo

- **code**: pass
- [link](http://example.org) &#27;[31mred&#155;2J &#8238;evil

| part | verdict |
|---|---|
| qa | fail: {HOSTILE.replace(chr(10), " ")} |

```
{HOSTILE}
```
"""


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("colour", [False, True])
def test_a_report_is_drawn_and_obeys_nobody(width: int, colour: bool) -> None:
    text = report_text(REPORT, width, colour=colour)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)  # the colours that rich adds
    assert "Check-up of demo" in plain
    assert "qa" in plain
    assert "\\x1b" in plain  # quoted, not obeyed
    assert all(line.isprintable() for line in plain.split("\n"))
    assert not set(plain) & set(BIDI)
    assert ("\x1b" in text) is colour


def test_a_report_fits_the_width() -> None:
    text = report_text(REPORT.replace("&#", ""), 60, colour=False)
    assert max(map(cells, text.split("\n"))) <= 60
