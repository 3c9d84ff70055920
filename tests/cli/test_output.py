import io
import re
import sys

import pytest

from swa_tools.cli.output import print_table


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_table_loses_nothing_on_a_terminal_of_any_width(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", Terminal())
    columns = ["weights", "top-1 %", "95 %", "nll", "images", "schedule"]
    rows = [
        [f"a-checkpoint-with-a-long-name-{i}", "64.50", "61.48 – 67.41", "1.1121", "1,000", text]
        for i, text in enumerate(["sawtooth 0.05 → 0.0005, cycle 1 epoch", ""])
    ]
    print_table(columns, rows, caption="On 1,000 images", text_columns={"schedule"})
    printed = re.sub(r"\x1b\[[0-9;]*m", "", sys.stdout.getvalue())
    lines = printed.splitlines()
    assert max(map(len, lines)) <= max(width, 80)
    assert sum(all(cell in line for cell in rows[0][1:5]) for line in lines) == 2
    first = next(line for line in lines if "top-1 %" in line).index("top-1 %")
    names = "".join(line[:first].strip() for line in lines)
    assert all(row[0] in names for row in rows)
    assert all(word in printed for word in rows[0][5].split())
