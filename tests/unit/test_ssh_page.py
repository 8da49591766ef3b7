from __future__ import annotations

import os

from agents.workers.ssh_page import SuspectNote, SuspectPage, noted


def test_a_worker_that_ended_leaves_the_name_of_the_host_it_was_busy_with() -> None:
    page = SuspectPage()
    try:
        assert page.suspect() is None
        note = SuspectNote(os.dup(page.fd))
        note.busy_with(noted("aix1"))
        assert page.suspect() == "aix1"
        note.idle()
        assert page.suspect() is None
        note.busy_with(noted("h" * 300))
        note.close()
        assert page.suspect() == "h" * 255
        page.clear()
        assert page.suspect() is None
    finally:
        page.close()
