"""What several test files are given."""

from __future__ import annotations

import pytest
from strategies import trained


@pytest.fixture
def small():
    """A small network that has learnt something, with fresh images; the same in all tests."""
    return trained()
