"""Promise of the parity tests: every deliberate fault is caught by the test named in `FAULTS`."""

import pytest

from jaxlm.verify import parity
from parity_tests.conftest import assert_rows
from parity_tests.test_training import batches

pytest.importorskip("torch")

from parity_tests.faults import FAULTS, measure, unequal_parts  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught(name, pair):
    """The error exceeds the tolerance by a factor of ten. test_model, test_training and
    test_generation show that the same measures hold without the fault."""
    row = measure(name, pair)
    assert row.error > 10 * row.tolerance, row


@pytest.mark.slow
def test_unequal_parts_of_an_accumulation_change_nothing(pair):
    made = pair(train={"grad_accumulation": 2})
    with unequal_parts():
        assert_rows(parity.optimizer(made, batches(3, made.config)))


@pytest.mark.slow
def test_a_wrong_component_is_named(pair):
    with FAULTS["rope_layout"].patch():
        made = pair()
        found = parity.first_difference(made, batches(1, made.config)[0][0][:, :-1])
    assert found.startswith("blocks.0.attention.rotated_q ")
