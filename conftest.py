"""What every test run shares: notebooks are checked strictly, and GPU tests are skipped where there is no GPU."""

import pytest

pytest_plugins = ["tests.notebooks.strict"]


@pytest.fixture(autouse=True, scope="session")
def progress_of_its_own(tmp_path_factory):
    """Doctests and tests check exercises; whoever runs them has progress of their own, which they must not touch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_PROGRESS_DIR", str(tmp_path_factory.mktemp("progress")))
        yield


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
