"""Opens an address in the user's browser, if there is one."""

from __future__ import annotations

import os
import subprocess
import sys


def open_browser(address: str) -> bool:
    """Ask the browser to open an address; False where there is no screen to show it on. Never waits.

    Without a screen, Python's webbrowser would start a browser for terminals in the middle of the output.
    """
    wanted = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform not in ("darwin", "win32") and not any(os.environ.get(name) for name in wanted):
        return False
    try:
        # A process of its own: a browser may wait, print, or take Ctrl-C for itself.
        subprocess.Popen(
            [sys.executable, "-P", "-m", "webbrowser", address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    return True
