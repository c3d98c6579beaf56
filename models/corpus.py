"""Reads corpus.txt and turns it into questions, answers and conversations to train on.

The file format is explained at the head of corpus.txt. A topic has one answer and many phrasings of its
question: some are written out, the others come from the templates below. Held-out questions are never drawn.
"""

import random
import re
from dataclasses import dataclass
from pathlib import Path

NOUN_TEMPLATES = (
    "What is {}?", "What's {}?", "Whats {}", "Tell me about {}", "Explain {}", "Define {}", "Describe {}",
    "Can you describe {}?", "Can you explain {}?", "Could you explain {}?", "Explain {} to me", "{}", "{}?",
    "What do you know about {}?", "What does {} mean?", "What is meant by {}?", "What about {}?", "And {}?",
    "Tell me what {} is", "Do you know what {} is?", "I want to know about {}", "And what is {}?",
    "Give me a definition of {}", "What can you tell me about {}?", "How would you describe {}?",
    "Say something about {}", "I do not understand {}", "Teach me about {}", "Can you tell me what {} is?",
)  # fmt: skip
LATER_NOUN_TEMPLATES = (
    "Explain to me what {} is", "Please describe what {} is", "Could you say what {} is?",
    "I wonder what {} is", "In one sentence, what is {}?", "What is the point of {}?",
    "Why is {} needed?", "Help me understand {}", "What can I read about {}?",
    "I would like to hear about {}", "May I ask what {} is?",
)  # fmt: skip
VERB_TEMPLATES = (
    "How do I {}?", "How can I {}?", "How to {}", "How do you {}?", "How does one {}?", "Show me how to {}",
    "Tell me how to {}", "Explain how to {}", "I want to {}", "I need to {}", "What do I type to {}?",
    "What is the command to {}?", "Can I {}?", "What must I do to {}?", "{}", "Please {}", "How should I {}?",
    "Can you show me how to {}?", "Is there a way to {}?", "I would like to {}", "Let me {}",
)  # fmt: skip
OPENERS = (
    "Please tell me: ", "Hi, ", "Hello, ", "Hello! ", "Hi! ", "Hey, ", "OK, ", "So ", "So, ", "Now ",
    "Well, ", "Quick question: ", "I have a question: ", "One more question: ", "Please ", "Next: ", "And ",
    "But ", "Sorry, ",
)  # fmt: skip
CLOSERS = (
    " please", ", please", " Please.", " Thanks!", " Thank you.", " exactly", " in short", " again",
    " briefly",
)  # fmt: skip
SYSTEM_OPENERS = ("You are {}.", "You are {}, and you help people.", "Act as {}.", "Your role: {}.")
SYSTEM_ROLES = (
    "a helpful assistant", "an assistant for rbee", "a friendly guide", "rbee-tiny", "a careful assistant",
    "an expert", "a chat bot", "a helpful assistant for rbee", "a concise assistant", "a teacher",
)  # fmt: skip
SYSTEM_RULES = (
    "Answer briefly.", "Answer in English.", "Be polite.", "Be concise.", "Do not guess.", "Use plain words.",
    "Answer the question of the user.", "Help the user with rbee.", "Always tell the truth.",
    "Keep it short.",
)  # fmt: skip


@dataclass(frozen=True)
class Topic:
    """One answer with the phrasings it is trained on and those it is only tested on."""

    name: str
    written: tuple[str, ...]
    by_noun: tuple[str, ...]
    by_verb: tuple[str, ...]
    later: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str

    @property
    def questions(self) -> tuple[str, ...]:
        """The phrasings of the first round of training, the written ones first, each once."""
        return tuple(dict.fromkeys(self.written + self.by_noun + self.by_verb))


@dataclass(frozen=True)
class Turn:
    """What one role said; role is `system`, `user` or `assistant`."""

    role: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """All topics and all written dialogues, in file order."""

    topics: tuple[Topic, ...]
    dialogues: tuple[tuple[Turn, ...], ...]

    def training_pairs(self) -> list[tuple[str, str]]:
        """Every training phrasing, before random variation, with its answer."""
        return [(text, topic.answer) for topic in self.topics for text in topic.questions + topic.later]

    def held_out_pairs(self) -> list[tuple[str, str]]:
        """Every held-out phrasing with its answer."""
        return [(question, topic.answer) for topic in self.topics for question in topic.held_out]


def normalised(text: str) -> str:
    """The text in lower case with every run of other characters than letters and digits as one space."""
    return re.sub(r"\W+", " ", text.lower()).strip()


def read_corpus(path: Path) -> Corpus:
    """The corpus in the file; raises ValueError where a line or a topic is malformed."""
    topics: list[Topic] = []
    dialogues: list[tuple[Turn, ...]] = []
    for name, lines in _sections(path.read_text(encoding="utf-8")):
        if name == "dialogue":
            roles = {"s": "system", "u": "user", "a": "assistant"}
            dialogues.append(tuple(Turn(roles[key], value) for key, value in lines))
        else:
            topics.append(_topic(name, lines))
    held_out = {normalised(question) for topic in topics for question in topic.held_out}
    for topic in topics:
        leaked = [text for text in topic.questions + topic.later if normalised(text) in held_out]
        if leaked:
            raise ValueError(f"topic [{topic.name}] trains on held-out questions: {leaked}")
    return Corpus(tuple(topics), tuple(dialogues))


def _sections(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The sections in file order, each as its name and its (key, value) lines."""
    sections: list[tuple[str, list[tuple[str, str]]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            sections.append((line.strip("[]"), []))
            continue
        key, separator, value = line.partition(": ")
        if not separator or key not in tuple("nvqlhasu") or not sections:
            raise ValueError(f"corpus line {number} is not understood: {line!r}")
        sections[-1][1].append((key, value.replace("\\n", "\n")))
    return sections


def _topic(name: str, lines: list[tuple[str, str]]) -> Topic:
    """The topic with its templates filled in; raises ValueError unless it has exactly one answer."""
    values = {key: [value for found, value in lines if found == key] for key in "nvqlha"}
    if len(values["a"]) != 1:
        raise ValueError(f"topic [{name}] needs exactly one answer")
    by_noun = tuple(_filled(template, noun) for noun in values["n"] for template in NOUN_TEMPLATES)
    by_verb = tuple(_filled(template, verb) for verb in values["v"] for template in VERB_TEMPLATES)
    later = [_filled(template, noun) for noun in values["n"] for template in LATER_NOUN_TEMPLATES]
    return Topic(
        name,
        written=tuple(values["q"]),
        by_noun=by_noun,
        by_verb=by_verb,
        later=tuple(dict.fromkeys(values["l"] + later)),
        held_out=tuple(values["h"]),
        answer=values["a"][0],
    )


def _filled(template: str, words: str) -> str:
    """The template with the words in it and a capital letter in front, unless a program name is in front."""
    text = template.format(words)
    return text if text.startswith(("rbee", "llm-")) else text[0].upper() + text[1:]


class Sampler:
    """Draws random questions and conversations; the same random source gives the same draws."""

    def __init__(self, corpus: Corpus, source: random.Random, has_later: bool) -> None:
        """Draws from the corpus, `source` being the only chance; later phrasings only if asked for."""
        self.corpus = corpus
        self.has_later = has_later
        self.source = source
        self.held_out = {normalised(question) for question, _ in corpus.held_out_pairs()}
        # More phrasings and a longer answer take more practice, but no topic may starve.
        self.weights = [len(topic.questions) ** 0.25 * len(topic.answer) ** 0.5 for topic in corpus.topics]

    def pair(self) -> tuple[str, str]:
        """A question in random wording, never a held-out one, and its answer."""
        topic = self.source.choices(self.corpus.topics, self.weights)[0]
        while True:
            # The kinds draw evenly, as the templates would otherwise outnumber the written phrasings.
            later = topic.later if self.has_later else ()
            kinds = [kind for kind in (topic.written, topic.by_noun + topic.by_verb, later) if kind]
            question = self.source.choice(self.source.choice(kinds))
            varied = self._varied(question, question in topic.by_noun)
            if normalised(varied) not in self.held_out:
                return varied, topic.answer

    def conversation(self, turns: int) -> list[Turn]:
        """That many questions with answers, one time in four under a system prompt; or a written dialogue."""
        if self.source.random() < 0.1:
            return list(self.source.choice(self.corpus.dialogues))
        spoken = [Turn("system", self.system_prompt())] if self.source.random() < 0.25 else []
        for question, answer in (self.pair() for _ in range(turns)):
            spoken += [Turn("user", question), Turn("assistant", answer)]
        return spoken

    def system_prompt(self) -> str:
        """One to three short sentences that ask for nothing in particular."""
        opening = self.source.choice(SYSTEM_OPENERS).format(self.source.choice(SYSTEM_ROLES))
        rules = self.source.sample(SYSTEM_RULES, self.source.randrange(3))
        return " ".join([opening, *rules] if self.source.random() < 0.8 or not rules else rules)

    def _varied(self, question: str, is_noun: bool) -> str:
        """The question with random polite words, case, punctuation and, now and then, a typing mistake."""
        draw = self.source.random
        if is_noun and draw() < 0.15:
            question = question.rstrip("?") + " in rbee" + ("?" if question.endswith("?") else "")
        if draw() < 0.15:
            mark = "?" if question.endswith("?") else ""
            closer = self.source.choice(CLOSERS)
            question = question + closer if closer[-1] in ".!" else question.rstrip("?") + closer + mark
        if draw() < 0.2:
            question = self.source.choice(OPENERS) + question[0].lower() + question[1:]
        if draw() < 0.3:
            question = question.rstrip("?!.")
        elif draw() < 0.2:
            question = question.rstrip("?!.") + self.source.choice(("?", "!", ".", "??"))
        if draw() < 0.3:
            question = question.lower()
        return self._mistyped(question) if draw() < 0.15 else question

    def _mistyped(self, text: str) -> str:
        """The text with one character left out, doubled, or exchanged with the next."""
        at = self.source.randrange(len(text))
        left, letter, right = text[:at], text[at], text[at + 1 :]
        return left + self.source.choice(("", letter * 2, right[:1] + letter)) + right
