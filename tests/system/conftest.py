import shutil

import pytest

from programs import MODEL, Queen, running_queen
from tool_model import that_embeds, with_tools


@pytest.fixture(scope="session")
def queen(tmp_path_factory):
    """A queen with her hive and the bundled model, for tests that leave her as they find her."""
    with running_queen(tmp_path_factory.mktemp("shared")) as running:
        yield running


@pytest.fixture
def own_queen(tmp_path):
    """A queen nobody has started yet, for tests that end her; whatever is left of her is ended."""
    queen = Queen(tmp_path)
    (tmp_path / "models").mkdir()
    shutil.copy(MODEL, tmp_path / "models" / "copy.gguf")
    yield queen
    queen.end_everything()


@pytest.fixture(scope="session")
def web(tmp_path_factory):
    """A queen for those who ask over HTTP: she has models that take tools and that embed, and little patience."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "models").mkdir()
    with_tools(folder / "models" / "tools.gguf")
    that_embeds(folder / "models" / "vectors.gguf")
    flags = ("--http-body-limit-mb", "1", "--http-patience", "1s", "--http-origin", "https://chat.example")
    with running_queen(folder, *flags) as running:
        yield running
