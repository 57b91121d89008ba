"""A question as a chat: one turn of the user, with one image and a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .prompt_locations import PromptError

# The user's words and nothing else: the model has learnt no roles.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}"
    "{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
)


def check_conversations(conversations: Any) -> None:
    """A `PromptError` for what is no chat, or no list of chats, of one user turn with a text and at most one image.

    Messages and their parts may be mappings or, as clients of chat services have them, objects.
    """
    for number, chat in enumerate(getattr(chat, "messages", chat) for chat in _several(conversations)):
        name = f"conversation {number}"
        if not _is_list(chat) or any(isinstance(turn, str) for turn in chat):
            raise PromptError(
                f"{name} must be a list of messages {{'role': 'user', 'content': …}}, but it is {chat!r}."
            )
        roles = [_field(turn, "role") for turn in chat]
        if roles != ["user"]:
            raise PromptError(
                f"{name} must be one turn of the user, since the model answers one question and keeps no history, but "
                f"its roles are {roles}. Put everything that is asked into one message."
            )
        content = _field(chat[0], "content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not _is_list(content) or any(isinstance(part, str) for part in content):
            raise PromptError(f"the content of {name} must be a string or a list of parts, but it is {content!r}.")
        _check_parts(content, name)


def _several(conversations: Any) -> list[Any]:
    """One chat or many -> many, as transformers tells them apart."""
    many = _is_list(conversations) and conversations
    many = many and (_is_list(conversations[0]) or hasattr(conversations[0], "messages"))
    return list(conversations) if many else [conversations]


def _is_list(thing: Any) -> bool:
    return isinstance(thing, Sequence) and not isinstance(thing, (str, bytes))


def _field(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _check_parts(parts: Sequence[Any], name: str) -> None:
    kinds = [_field(part, "type") for part in parts]
    if others := [kind for kind in kinds if kind not in ("text", "image", "image_url")]:
        raise PromptError(f"{name} may have an image and text, but it has {', '.join(map(str, others))}. Leave it out.")
    if len(kinds) - kinds.count("text") > 1:
        raise PromptError(
            f"{name} must have one image, but it has several. Ask about each in a conversation of its own."
        )
    if any(_field(part, "base64") is not None for part in parts):
        raise PromptError(f"the image of {name} came as base64. Decode it, and give the bytes as 'image'.")
    texts = [_field(part, "text") for part in parts if _field(part, "type") == "text"]
    if not all(isinstance(text, str) for text in texts) or not "".join(map(str, texts)).strip():
        raise PromptError(
            f"{name} has no text. Say what is wanted, as in {{'type': 'text', 'text': 'A photo of '}}: here the task "
            "has no words of its own."
        )


__all__ = ["CHAT_TEMPLATE", "check_conversations"]
