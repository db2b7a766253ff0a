"""Text that is safe to print."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tl_attribution.text import JOINERS, printable


@given(st.text())
def test_printed_text_cannot_steer_a_terminal(text):
    shown = printable(text)
    assert all(c.isprintable() or c in JOINERS for c in shown)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert printable(shown) == shown


def test_what_is_escaped_and_what_is_not():
    assert printable("\x1b[31m\n\u202e\ud800") == "\\x1b[31m\\n\\u202e\\ud800"
    for text in ("naïve café", "日本語", "👩\u200d💻", "क्\u200dष"):
        assert printable(text) == text
