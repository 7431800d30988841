"""Where a person types at a terminal: lines with a state below them, drawn so that nothing pasted moves the cursor."""

from collections.abc import Callable

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput

from aiagentchat.model import visible


class _Harmless(Processor):
    """Draws one mark for each character that a terminal would obey: the library draws direction marks as they are."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        """Return as many characters as there are: the cursor stays where it belongs."""
        fragments = transformation_input.fragments
        return Transformation([(each[0], "".join(map(_harmless, each[1])), *each[2:]) for each in fragments])


def _harmless(character: str) -> str:
    return character if visible(character) == character else "\ufffd"


def prompt_session(
    message: AnyFormattedText, status: AnyFormattedText, on_change: Callable[[str], None]
) -> PromptSession[str]:
    """Return what reads lines. `status`: drawn below. `on_change`: told the text whenever it changes."""
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        message=message,
        bottom_toolbar=status,
        key_bindings=keys,
        input_processors=[_Harmless()],
        erase_when_done=True,
    )
    session.default_buffer.on_text_changed += lambda buffer: on_change(buffer.text)
    return session
