"""The operator's live page of a run on a real API server, by the operator's own permissions."""

from __future__ import annotations

import json
from typing import Any

from hack.cluster.processes import wait_until
from tests.api.harness import OperatorProcess, Outcome, Runs, Script

SAID = "I have felt low since the winter"
"""What a stage quotes of a dialogue."""


def test_the_page_shows_a_run_and_nothing_that_its_stages_have_said(
    runs: Runs, script: Script, operator: OperatorProcess
) -> None:
    script.will(runs.namespace, "sft", Outcome(65, {"reason": "InternalError", "message": f"ValueError: {SAID}"}))
    runs.create("shown")
    runs.wait_phase("shown", "Failed")
    runs.events("shown", "Failed")

    def document() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(operator.get(f"/runs/{runs.namespace}/shown.json"))
        return found

    # Events are read anew after some seconds, and the run's last one is sent a moment after its status.
    wait_until(lambda: "Failed" in {each["reason"] for each in document()["events"] or []}, "all events")
    shown = document()
    assert (shown["phase"], shown["done"]) == ("Failed", 1)
    assert {stage["id"]: stage["state"] for stage in shown["stages"]}["sft"] == "Failed"
    messages = {event["reason"]: event["message"] for event in shown["events"]}
    assert messages["StageFailed"] == "sft: InternalError"
    listed = json.loads(operator.get("/runs.json"))["runs"]
    assert "shown" in {run["name"] for run in listed if run["namespace"] == runs.namespace}
    assert SAID not in json.dumps([shown, listed])
    assert "live.js" in operator.get("/")
