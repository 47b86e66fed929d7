"""`apply` and `watch` of the Python API against a real API server."""

from __future__ import annotations

from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_operator import EvolutionRun, apply, watch
from evolution_operator.api.spec import GROUP, PLURAL, VERSION
from kubernetes import client

from hack.cluster.control_plane import ControlPlane
from tests.support.run_document import minimal_spec


def built(namespace: str, **spec: Any) -> EvolutionRun:
    return EvolutionRun(metadata={"name": "first", "namespace": namespace}, spec={**minimal_spec(), **spec})


def test_a_run_is_created_changed_and_watched(
    control_plane: ControlPlane, kube: client.ApiClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library reads KUBECONFIG once, when it is imported.
    location = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(location, str(control_plane.kubeconfig))
    objects = client.CustomObjectsApi(kube)
    place = (GROUP, VERSION, namespace, PLURAL, "first")
    created = apply(built(namespace, iterations=1, retry={"maxAttempts": 7}))
    assert (created.namespace, created.name, created.change) == (namespace, "first", "created")
    assert apply(built(namespace, iterations=1, retry={"maxAttempts": 7})).change == "unchanged"
    assert apply(built(namespace, iterations=2)).change == "configured"
    spec = objects.get_namespaced_custom_object(*place)["spec"]
    assert spec["iterations"] == 2
    assert spec["retry"]["maxAttempts"] == 4, "a field that is no longer set has its default again"
    with pytest.raises(PermanentError, match=r"spec\.seed.*cannot be changed"):
        apply(built(namespace, seed=7))
    with pytest.raises(PermanentError, match="install the operator, or create the namespace"):
        apply(built("nowhere"))
    objects.patch_namespaced_custom_object_status(*place, {"status": {"phase": "Complete", "champion": 1}})
    (last,) = watch(created)
    assert (last.phase, last.champion) == ("Complete", 1)
