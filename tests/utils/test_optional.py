"""A missing package is one error that names the extra; loggers of other packages are quiet for a while."""

from __future__ import annotations

import logging
import re

import pytest

from deepreduce.errors import UserError
from deepreduce.utils.optional import quiet_loggers, require_packages


def test_packages_that_are_installed_raise_nothing() -> None:
    require_packages("a test", "torch", "numpy", extra="none")


@pytest.mark.parametrize(
    ("packages", "missing"),
    [
        (["no_such_package"], "no_such_package, which is not"),
        (["numpy", "no_such_package"], "no_such_package, which is not"),
        (["no_such_one", "no_such_two"], "no_such_one, no_such_two, which are not"),
    ],
)
def test_the_error_names_what_is_missing_and_the_extra_that_brings_it(packages: list[str], missing: str) -> None:
    expected = f"to_pandas needs {missing} installed; install it with: pip install 'deepreduce[notebook]'"
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        require_packages("to_pandas", *packages, extra="notebook")


def test_loggers_are_quiet_inside_and_as_before_afterwards() -> None:
    logger = logging.getLogger("tests.quiet")
    logger.setLevel(logging.DEBUG)
    with pytest.raises(KeyError), quiet_loggers("tests.quiet", "tests.other", level=logging.ERROR):
        assert logger.level == logging.getLogger("tests.other").level == logging.ERROR
        raise KeyError
    assert logger.level == logging.DEBUG and logging.getLogger("tests.other").level == logging.NOTSET
