import shutil

import pytest

from programs import MODEL, Queen, running_queen


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
