import pytest
from run_folders import example_result, example_trials, write_run


@pytest.fixture
def make_run(tmp_path):
    """Make a run folder of the example with some fields changed; `trials` replaces its trials."""

    def make(trials=None, **changes):
        lines = example_trials() if trials is None else trials
        return write_run(tmp_path / "run", example_result(**changes), lines)

    return make


@pytest.fixture
def result():
    """The example as a value."""
    return example_result()
