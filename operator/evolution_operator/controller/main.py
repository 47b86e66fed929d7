"""The operator's entry point: `kopf run -m evolution_operator.controller.main`.

kopf's options say which namespaces are served (`--all-namespaces`, `--namespace NAME`, or KOPF_RUN_CLUSTERWIDE and
KOPF_RUN_NAMESPACES in the environment). Everything else is in `settings`.
"""

from .process import handlers  # noqa: F401 -- registers them with kopf
