"""An attempt that is gone without a trace (its Job was deleted, its process was lost) starts again."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from evolution_jobs.contract.stage import RunRef
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.api.status import RunStatus
from evolution_operator.planner.actions import Start
from evolution_operator.planner.observed import Attempt, AttemptState, Observed, Run
from evolution_operator.planner.plan import plan

from tests.support.run_document import minimal_spec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = EvolutionRunSpec.model_validate(minimal_spec())
RUN = Run(RunRef(namespace="default", name="run", uid="uid"), SPEC, attempt_prefix="uid")


def _status_after(state: AttemptState) -> RunStatus:
    """The status after prepare's first attempt was seen in that state."""
    (start,) = plan(RUN, Observed(), NOW).actions
    assert isinstance(start, Start)
    attempt = Attempt("prepare", start.number, start.spec.key, state)
    return plan(RUN, Observed((attempt,)), NOW).status


@pytest.mark.parametrize("state", ["queued", "running", "suspended"])
def test_a_vanished_attempt_starts_again_under_its_number(state: AttemptState) -> None:
    again = plan(RUN, Observed(previous=_status_after(state)), NOW)

    (start,) = again.actions
    assert isinstance(start, Start)
    assert (start.spec.stage, start.number) == ("prepare", 1)
    prepare = again.status.stage_by_id()["prepare"]
    assert (prepare.state, prepare.failures) == ("Waiting", 0)


def test_it_does_not_start_again_while_the_run_is_suspended() -> None:
    suspended = Run(RUN.ref, SPEC.model_copy(update={"suspend": True}), attempt_prefix="uid")
    again = plan(suspended, Observed(previous=_status_after("running")), NOW)
    assert again.actions == ()
    assert again.status.phase == "Suspended"
