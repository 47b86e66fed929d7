"""A model behind an endpoint, asked by a stage: a teacher or a judge. Its answers, and what they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..contract.endpoints import Endpoint
from ..contract.errors import PermanentError
from ..contract.rows import Message
from ..contract.settings import PairwiseJudge
from ..libraries import install

if TYPE_CHECKING:
    from ..contract.workspace import Workspace
    from ..endpoints.answers import Answer, Chat


def ask(workspace: Workspace, endpoint: Endpoint, field: str, chats: Iterable[Chat]) -> Iterator[list[Answer]]:
    """A list each time that some chats are answered. Who asks for the next one has made these durable.

    `field` is the endpoint's path in the spec. Raises what `EndpointClient` raises, and Terminated once the process was
    asked to stop, after the answers that were paid for.
    """
    try:
        from ..endpoints.client import EndpointClient
    except ModuleNotFoundError as error:
        raise PermanentError("DependencyMissing", f"a {field} needs {error.name}: {install('train')}") from error
    with EndpointClient(endpoint, field, workspace.spec.shard.count) as client:
        yield from client.answers(chats, lambda: workspace.stopping)
    workspace.check_stop()


def judge_chat(id: str, messages: list[Message], settings: PairwiseJudge) -> Chat:
    """What a judge is asked."""
    from ..endpoints.answers import Chat

    return Chat(id, messages, settings.max_tokens, {"temperature": settings.temperature})


def durable(answer: Answer, field: str) -> dict[str, Any]:
    """The row of an answer whose text is read later."""
    refused = {"refusal": answer.refusal} if answer.refusal else {}
    return {"id": answer.id, "text": answer.text, "finish": answer.finish, **refused, field: taken(answer)}


def taken(answer: Answer) -> dict[str, Any]:
    """For a durable row: the model that answered, and what the answer took."""
    return {"model": answer.model, **answer.usage.wire()}


def counts(rows: Iterable[Mapping[str, Any]], field: str) -> dict[str, int]:
    """For a manifest's counts: what all answers took, of rows that have `taken` in `field`. Empty without one."""
    asked = [row[field] for row in rows if field in row]
    if not asked:
        return {}
    total = {name: sum(each[name] for each in asked) for name in ("inputTokens", "outputTokens", "retries")}
    return {
        f"{field}.requests": len(asked) + total["retries"],
        **{f"{field}.{name}": count for name, count in total.items()},
    }


def details(rows: Iterable[Mapping[str, Any]], field: str, endpoint: Endpoint | None) -> dict[str, Any]:
    """For a manifest's details: how many rows each model answered, and what the answers cost at the endpoint's prices."""
    asked = [row[field] for row in rows if field in row]
    if not asked or endpoint is None:
        return {}
    cost = endpoint.cost(*(sum(each[name] for each in asked) for name in ("inputTokens", "outputTokens")))
    models = dict(Counter(each["model"] for each in asked).most_common())
    return {field: {"models": models} | ({} if cost is None else {"cost": round(cost, 6)})}
