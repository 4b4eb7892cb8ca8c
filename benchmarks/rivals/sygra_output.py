"""What SyGra's task writes of a dialogue: its id and the texts of its turns."""

from typing import Any

from sygra.processors.output_record_generator import BaseOutputGenerator  # type: ignore[import-not-found]


class Conversations(BaseOutputGenerator):  # type: ignore[misc]
    """Turns that JSON can hold."""

    @staticmethod
    def texts(messages: list[Any], state: dict[str, Any]) -> list[str]:
        """The text of each turn."""
        return [message.content for message in messages]
