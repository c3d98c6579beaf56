"""The byte-level vocabulary of rbee-tiny and the text layout of a conversation.

Token ids: 0 `<unk>`, 1 `<s>` (begin), 2 `<|end|>` (end of turn and of text), 3-258 the bytes, 259 the space,
260-262 the role marks. In an SPM vocabulary a space is the character U+2581: its byte token is never used.
"""

from collections.abc import Iterable

from corpus import Turn

UNKNOWN, BEGIN, END, FIRST_BYTE, SPACE = 0, 1, 2, 3, 259
ROLES = {"system": 260, "user": 261, "assistant": 262}
SIZE = 263

# The layout of Phi-3, which llama.cpp also knows by itself: with and without Jinja the text is the same.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def pieces() -> list[bytes]:
    """The text of every token, in id order."""
    marks = [f"<|{role}|>" for role in ROLES]
    texts = ["<unk>", "<s>", "<|end|>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *marks]
    return [text.encode() for text in texts]


def encode(text: str) -> list[int]:
    """The tokens of plain text, one for each UTF-8 byte."""
    return [SPACE if byte == 0x20 else FIRST_BYTE + byte for byte in text.encode()]


def decode(tokens: Iterable[int]) -> str:
    """The text of the tokens, without special tokens; bytes that are not UTF-8 become U+FFFD."""
    codes = (0x20 if token == SPACE else token - FIRST_BYTE for token in tokens if FIRST_BYTE <= token <= SPACE)
    return bytes(codes).decode(errors="replace")


def encode_question(question: str, is_raw: bool) -> list[int]:
    """The tokens before an answer: as a chat of one turn, or raw as the question and a line break."""
    if is_raw:
        return [BEGIN, *encode(question + "\n")]
    return [BEGIN, *encode_turn(Turn("user", question)), ROLES["assistant"], *encode("\n")]


def encode_turn(turn: Turn) -> list[int]:
    """The tokens of one turn as CHAT_TEMPLATE writes it."""
    return [ROLES[turn.role], *encode("\n" + turn.text), END, *encode("\n")]
