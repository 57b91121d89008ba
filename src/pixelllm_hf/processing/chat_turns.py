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


# Before the template of a language model, which knows messages of text alone: images become visual tokens elsewhere.
_TEXTS_ALONE = (
    "{%- set turns = namespace(of_text=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message.content is string -%}{%- set text = message.content -%}"
    "{%- else -%}"
    "{%- set text = message.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join('') -%}"
    "{%- endif -%}"
    "{%- set turns.of_text = turns.of_text + [{'role': message.role, 'content': text}] -%}"
    "{%- endfor -%}"
    "{%- set messages = turns.of_text -%}"
)
ROLES = ("system", "user", "assistant")


def chat_template_of(tokenizer: Any) -> str:
    """The template of the language model that a tokenizer belongs to, for messages with images; without one, ours."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):  # several, by what they are for
        template = template.get("default")
    if not template or template == CHAT_TEMPLATE:
        return CHAT_TEMPLATE
    return template if template.startswith(_TEXTS_ALONE) else _TEXTS_ALONE + template


def check_conversations(conversations: Any, *, with_roles: bool = False) -> None:
    """A `PromptError` for what is no chat, or no list of chats, of one user turn with a text and at most one image.

    Messages and their parts may be mappings or, as clients of chat services have them, objects. with_roles: whether the
    template tells roles apart, so that earlier turns may stand before the user's; of all, one may have an image.
    """
    for number, chat in enumerate(getattr(chat, "messages", chat) for chat in _several(conversations)):
        name = f"conversation {number}"
        if not _is_list(chat) or any(isinstance(turn, str) for turn in chat):
            raise PromptError(
                f"{name} must be a list of messages {{'role': 'user', 'content': …}}, but it is {chat!r}."
            )
        roles = [_field(turn, "role") for turn in chat]
        if with_roles:
            _check_roles(roles, name)
            contents = [_content(turn, name) for turn in chat]
            for content in contents:
                _check_parts(content, name)
            _check_images([part for content in contents for part in content], name)
            continue
        if roles != ["user"]:
            raise PromptError(
                f"{name} must be one turn of the user, since the model answers one question and keeps no history, but "
                f"its roles are {roles}. Put everything that is asked into one message."
            )
        content = _content(chat[0], name)
        _check_parts(content, name)
        _check_images(content, name)


def _check_roles(roles: list[Any], name: str) -> None:
    if not roles or roles[-1] != "user" or not set(roles) <= set(ROLES):
        raise PromptError(
            f"{name} must be turns of {', '.join(ROLES)}, the last of them the user's, but its roles are {roles}."
        )


def _content(turn: Any, name: str) -> Any:
    content = _field(turn, "content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not _is_list(content) or any(isinstance(part, str) for part in content):
        raise PromptError(f"the content of {name} must be a string or a list of parts, but it is {content!r}.")
    return content


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
    if any(_field(part, "base64") is not None for part in parts):
        raise PromptError(f"the image of {name} came as base64. Decode it, and give the bytes as 'image'.")
    texts = [_field(part, "text") for part in parts if _field(part, "type") == "text"]
    if not all(isinstance(text, str) for text in texts) or not "".join(map(str, texts)).strip():
        raise PromptError(
            f"{name} has no text. Say what is wanted, as in {{'type': 'text', 'text': 'A photo of '}}: here the task "
            "has no words of its own."
        )


def _check_images(parts: Sequence[Any], name: str) -> None:
    if sum(_field(part, "type") != "text" for part in parts) > 1:
        raise PromptError(
            f"{name} must have one image, but it has several. Ask about each in a conversation of its own."
        )


__all__ = ["CHAT_TEMPLATE", "chat_template_of", "check_conversations"]
