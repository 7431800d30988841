"""The part of `make screenshots` that drives Chromium, on an archive of our own in place of Element's release."""

from pathlib import Path

import pytest
from PIL import Image

from aiagentchat.homeserver.element import ElementServer
from aiagentchat.homeserver.element_archive import ensure_element
from scripts import screenshots
from scripts.chromium import ChromiumError, find_chromium
from scripts.screenshots import AGENTS, DONE, SIZE, take
from tests.archives import FILES, make_archive, sum_of

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not there: apt-get install chromium")

TOAST = (255, 0, 0)
# Shows what Element would once the room is opened, and a toast each time that something is opened.
BUNDLE = """
const open = () => {
  const isRoom = location.hash === "#/room/!room";
  document.body.innerText = isRoom ? "%s" : "%s";
  const toast = document.body.appendChild(document.createElement("button"));
  toast.innerText = "Later";
  toast.style.backgroundColor = "rgb%s";
  toast.onclick = () => toast.remove();
};
addEventListener("DOMContentLoaded", open);
addEventListener("hashchange", open);
"""


async def test_the_link_is_opened_and_both_pictures_are_taken_without_toasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screenshots, "QUIET_S", 0.5)
    bundle = BUNDLE % (DONE, " ".join(AGENTS), TOAST)
    archive = make_archive({**FILES, "bundles/1f/bundle.js": bundle.encode()})
    (tmp_path / "archive").write_bytes(archive)
    directory = tmp_path / "element"
    files = await ensure_element(directory, archive=tmp_path / "archive", sha256=sum_of(archive), progress=print)
    server = ElementServer(
        directory,
        files,
        homeserver_url="http://localhost:8008",
        server_name="localhost",
        user_id="@alice:localhost",
        room="#aiagentchat:localhost",
        taken=8008,
    )
    await server.start()
    try:
        await take(str(CHROMIUM), server.link("token"), "!room", tmp_path)
    except ChromiumError as error:
        if "did not start" not in str(error):
            raise
        pytest.skip(f"Chromium is there, and does not run on this machine: {error}")
    finally:
        await server.stop()
    space, room = (Image.open(tmp_path / name).convert("RGB") for name in ("space.png", "room.png"))
    assert space.size == room.size == SIZE
    assert space.tobytes() != room.tobytes()
    for picture in (space, room):
        assert TOAST not in [colour for _, colour in picture.getcolors() or ()]
