"""Opens a page in the person's browser, where there is one."""

import os
import sys
import threading
import webbrowser
from pathlib import Path


def open_in_browser(page: Path) -> bool:
    """Have a browser open a file, without waiting for it; False: there is none that a person could see."""
    graphical = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in graphical):
        return False  # what is left would be a browser in this terminal
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    threading.Thread(target=browser.open, args=(page.as_uri(),), daemon=True).start()
    return True
