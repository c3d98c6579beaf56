"""The commented starts that come with rbee."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import takewhile

from queen.policy import check, platform


@dataclass(frozen=True, slots=True)
class Template:
    """A start for a policy of one's own. `cases` are those beside it, as text."""

    name: str
    summary: str
    language: str
    source: str
    cases: str


@cache
def templates() -> tuple[Template, ...]:
    """Returns all templates by name."""
    folder = platform.folder() / "templates"
    files = [file for file in folder.iterdir() if file.suffix in (".lua", ".yaml") and ".cases" not in file.name]
    found = []
    for file in sorted(files, key=lambda one: one.stem):
        source = file.read_text("utf-8")
        language = check.LUA if file.suffix == ".lua" else check.YAML
        cases = file.with_suffix(".cases.yaml").read_text("utf-8")
        found.append(Template(file.stem, _summary(source), language, source, cases))
    return tuple(found)


def _summary(source: str) -> str:
    """Returns the first sentence of the comment the text begins with."""
    lines = takewhile(lambda line: line.startswith(("--", "#")), source.splitlines())
    comment = " ".join(line.lstrip("-# ") for line in lines)
    return f"{comment.partition('. ')[0].rstrip('.')}."
