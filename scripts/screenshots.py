"""The pictures in README.md, made from a real run: `make screenshots`.

Starts a system with Element Web in a home of its own, plays a small scene in it, signs in by the link that
`cchat up --element` prints, and takes the pictures with headless Chromium. Element's release is fetched, or it is given
as to `cchat up`: `make screenshots ARGS='--element-archive FILE'`. It takes about a minute.
"""

import argparse
import asyncio
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from aiagentchat.client import GatewayClient
from aiagentchat.errors import AiAgentChatError
from scripts.chromium import ChromiumError, Page, find_chromium, open_page
from scripts.demo import ANSWER_S, DemoFailedError, Person, System, answer_next, in_background, require, sign_in, title

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
SIZE = (1280, 880)
COLOURS = 256
MOST_BYTES = 150_000
ELEMENT_S = 60.0
OFFLINE_S = 60.0
"""Most time until who left is shown as offline, which is half a minute after."""

OPERATOR = "alice"
AGENTS = {
    "claude-administrator": "Keeps servers and releases",
    "claude-dev": "Writes the code",
    "codex-reviewer": "Reads what others wrote",
    "gemini-docs": "Writes the documentation",
}
OFFLINE = "gemini-docs"
REPORT = """Three of four are done:

| step | state |
|---|---|
| parser | merged, #41 |
| empty lines | merged, #42 |
| tests | green, 214 passed |
| release branch | **not pushed yet** |"""
APPROVAL = """May claude-dev do this? **Push the release branch**

```
git push origin release-1.4
```"""
DONE = "Pushed. CI builds the release now."
OPTIONS = [
    {"id": "allow", "name": "Push it", "kind": "allow_once"},
    {"id": "reject", "name": "Leave it", "kind": "reject_once"},
]

DISMISS = """(() => {
  const words = ["Dismiss", "Later", "Not now", "OK"];
  const button = [...document.querySelectorAll("button, [role=button]")]
    .find(each => words.includes(each.innerText.trim()));
  if (button) button.click();
  return Boolean(button);
})()"""
PICTURES_SHOWN = """[...document.images].every(image => {
  const place = image.getBoundingClientRect();
  return image.complete || place.bottom < 0 || place.top > innerHeight;
})"""
QUIET_S = 3.0
"""How long Element has had nothing more to ask."""


def play(system: System, person: Person, agents: dict[str, GatewayClient]) -> str:
    """Have them write what the pictures show; return the room that the second one shows."""
    administrator, dev = agents["claude-administrator"], agents["claude-dev"]
    room = room_of(dev, "claude-dev")
    for room_id in person.joined_rooms():
        mark_read(person, room_id)
    administrator.send("Please review PR #42", to="claude-dev")
    answer_next(dev, "Reviewed and merged.")
    person.write(room, "How far is 1.4?")
    answer_next(dev, REPORT, fmt="markdown")
    asked = person.write(room, "Then push it, please.")
    approving = in_background(lambda: approve(person, room))
    decision = dev.ask_approval(APPROVAL, OPTIONS, timeout_s=ANSWER_S, key="push", about=asked)
    approving.join()
    require(decision["option"] == "allow", f"the decision is {decision}")
    answer_next(dev, DONE)
    mark_read(person, room)
    agents["codex-reviewer"].send("PR #43 is reviewed.", to="claude-administrator")
    administrator.send("System maintenance in 5 minutes")
    system.cchat("leave", OFFLINE)
    wait_shown_offline(person, room_of(dev, OFFLINE))
    return room


def room_of(agent: GatewayClient, name: str) -> str:
    return next(str(entry["room_id"]) for entry in agent.who()["agents"] if entry["name"] == name)


def approve(person: Person, room_id: str) -> None:
    request = person.wait_message(room_id, lambda event: event["content"]["body"].startswith("May claude-dev"))
    person.react(room_id, request["event_id"], "✅")


def mark_read(person: Person, room_id: str) -> None:
    """Have the person have seen all that is in a room."""
    path = f"/rooms/{quote(room_id)}"
    last = person.call("GET", f"{path}/messages?dir=b&limit=1")["chunk"][0]["event_id"]
    person.call("POST", f"{path}/read_markers", {"m.fully_read": last, "m.read": last})


def wait_shown_offline(person: Person, room_id: str) -> None:
    deadline = time.monotonic() + OFFLINE_S
    path = f"/user/{quote(person.user_id)}/rooms/{quote(room_id)}/tags"
    while not person.call("GET", path)["tags"]:
        require(time.monotonic() < deadline, f"{OFFLINE} is not shown as offline within {OFFLINE_S:g} s")
        time.sleep(1.0)


async def take(program: str, link: str, room_id: str, directory: Path) -> None:
    """Sign in by the link, and write the pictures."""
    width, height = SIZE
    async with open_page(program, width=width, height=height) as page:
        await page.open(link)
        await settle(page, list(AGENTS))
        save(await page.picture(), directory / "space.png")
        await page.evaluate(f"location.hash = '#/room/' + {json.dumps(room_id)}")
        await settle(page, [DONE])
        save(await page.picture(), directory / "room.png")


async def settle(page: Page, texts: list[str]) -> None:
    """Wait until these texts are shown, click away what Element asks of a new device, and wait for its pictures."""
    is_shown = f"{json.dumps(texts)}.every(text => document.body.innerText.includes(text))"
    await page.wait_for(is_shown, timeout_s=ELEMENT_S)
    quiet_since = time.monotonic()
    while time.monotonic() < quiet_since + QUIET_S:
        if await page.evaluate(DISMISS):
            quiet_since = time.monotonic()
        await asyncio.sleep(0.2)
    await page.wait_for(PICTURES_SHOWN, timeout_s=ELEMENT_S)


def save(png: bytes, file: Path) -> None:
    """Write a picture with few colours, so that it is small."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, optimize=True)
    size = file.stat().st_size
    print(f"   {file.name}: {size // 1000} kB", flush=True)
    require(size < MOST_BYTES, f"{file} has {size} bytes, more than {MOST_BYTES}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--element-archive", metavar="FILE", help="as of 'cchat up'")
    parser.add_argument("--element-sha256", metavar="SUM", help="as of 'cchat up'")
    parser.add_argument("--output", metavar="DIR", type=Path, default=IMAGES, help="where the pictures go")
    options = parser.parse_args(arguments)
    program = find_chromium()
    require(program is not None, "Chromium is needed: apt-get install chromium")
    given = {"--element-archive": options.element_archive, "--element-sha256": options.element_sha256}
    element = [part for name, value in given.items() if value for part in (name, value)]
    with tempfile.TemporaryDirectory(prefix="aiagentchat-screenshots-") as name:
        system = System(Path(name), AIAGENTCHAT_OPERATOR=OPERATOR)
        title("A system with Element Web")
        with system.running("up", "--port", "0", "--no-echo", "--element", "--json", *element) as line:
            require(bool(line), "it did not start")
            title("The scene")
            agents = {agent: system.join(agent, description) for agent, description in AGENTS.items()}
            status = json.loads(system.cchat("status", "--json", shown=False))
            room_id = play(system, sign_in(status), agents)
            title("The pictures")
            link = json.loads(line)["element"]
            asyncio.run(take(str(program), link, room_id, options.output))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ChromiumError, DemoFailedError, AiAgentChatError) as error:
        sys.exit(f"screenshots: {error}")
