"""Labels, annotations and names by which the operator recognises its objects and users select them."""

from __future__ import annotations

from ..api.spec import GROUP

RUN = f"{GROUP}/run"
"""Name of the run. Jobs and Pods are watched by this label."""
STAGE = f"{GROUP}/stage"
"""Id of the stage as in `status.stages`: `dpo-2`."""
ITERATION = f"{GROUP}/iteration"
ATTEMPT = f"{GROUP}/attempt"
"""Number of the attempt, from 1."""
KEY = f"{GROUP}/key"
"""Annotation: the stage's key."""
SPEC = f"{GROUP}/spec"
"""Annotation of a Pod: the StageSpec, which the downward API serves to the stage as a file."""
TEMPLATE = f"{GROUP}/template"
"""Annotation of a Job: digest of its Pod template without the stage's spec."""
SUSPENDED = f"{GROUP}/suspended"
"""Annotation of a Job: whether the operator has suspended it last ("true") or resumed it ("false")."""
FINALIZER = f"{GROUP}/artifacts"
"""Finalizer of a run with `deletionPolicy: Delete`."""
QUEUE = "kueue.x-k8s.io/queue-name"
"""Kueue's label: the LocalQueue that admits a Job."""

MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "evolution-operator"
CONTAINER = "stage"
"""Name of the container of a stage's Pod."""
CLEANUP = "cleanup"
"""Value of STAGE of the Job that deletes a run's artifacts."""
