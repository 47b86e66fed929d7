"""A chat without a loaded model: commands, the conversation, what a terminal shows, and which models are meant."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from evolution_jobs.contract.errors import PermanentError, TransientError
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.rows import Context, Response, Turn
from evolution_jobs.contract.settings import GenerationSettings
from evolution_jobs.store.s3 import S3Store
from evolution_operator.api.status import RunStatus
from evolution_operator.api.validation import RunFileError
from evolution_operator.chat import tested
from evolution_operator.chat.commands import Command, Mistake, message, parse
from evolution_operator.chat.conversation import Conversation
from evolution_operator.chat.display import Json, SideBySide, Streamed, display_of
from evolution_operator.chat.replies import Reply, Stream
from evolution_operator.chat.talk import Stopped, Talk
from evolution_operator.chat.terminal import Terminal, answer_lines
from evolution_operator.cli.main import app
from evolution_operator.cli.named import open_results
from evolution_operator.cli.reach import advice_from_outside, in_cluster, reached_from_here
from evolution_operator.results.choice import Chosen, changed, chat_settings, choose_model
from evolution_operator.results.find import results_of_pointers
from evolution_operator.results.results import Results
from evolution_operator.results.weights import weights_of
from rich.console import Console
from typer.testing import CliRunner

from tests.support.run_document import minimal_spec
from tests.support.stages.stored_run import Published


class Echo:
    """Models that repeat the last turn."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.heard: list[list[str]] = []

    def answer(self, name: str, turns: Sequence[Turn], sampling: Any, seed: int, watch: Any = None) -> Response:
        self.seeds.append(seed)
        self.heard.append([turn.text for turn in turns])
        words = f"{name} hears {turns[-1].text}"
        if watch:
            watch(Response(id="chat", text=words[:4], finish="length", tokens=2))
        return Response(id="chat", text=words, finish="stop", tokens=5)


SAMPLING = GenerationSettings()
CONTEXT = Context(
    id="d-2",
    dialogue="d",
    turns=[
        Turn(role="seeker", text="Hello."),
        Turn(role="supporter", text="Hi."),
        Turn(role="seeker", text="I am sad."),
    ],
    human="Why?",
)


def talk(models: Echo, *names: str) -> tuple[Talk, io.StringIO]:
    out = io.StringIO()
    return Talk(models, names, SAMPLING, 3, Streamed(Console(file=out, width=80))), out


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("I lost my job.", None),
        ("//etc is where I live", None),
        ("/reset", Command("/reset")),
        (" /reset ", None),
        ("/context 12", Command("/context", "12")),
        ("/context", Command("/context")),
        ("/save my file.jsonl", Command("/save", "my file.jsonl")),
        ("/save", Mistake("write /save FILE")),
        ("/context two", Mistake("write /context N, where N is the number of a test context: /context 1")),
        (f"/context {'9' * 5000}", Mistake("write /context N, where N is the number of a test context: /context 1")),
        ("/undo 2", Mistake("/undo takes nothing after it")),
    ],
)
def test_a_line_is_a_message_or_a_command(line: str, found: object) -> None:
    assert parse(line) == found


def test_an_unknown_command_is_not_sent_to_the_model() -> None:
    found = parse("/resset")
    assert isinstance(found, Mistake)
    assert "no command /resset" in found.words
    assert message("//etc") == "/etc"


def test_each_model_sees_the_users_turns_and_its_own_answers_only() -> None:
    models = Echo()
    chat, _ = talk(models, "M1", "M0")
    chat.say("one")
    chat.say("two")
    assert models.heard == [["one"], ["one"], ["one", "M1 hears one", "two"], ["one", "M0 hears one", "two"]]
    # Both models answer with the same seed, so that only the model differs; another turn has another seed.
    assert models.seeds[0] == models.seeds[1] != models.seeds[2] == models.seeds[3]


def test_the_last_message_is_taken_back_or_answered_again_with_another_seed() -> None:
    models = Echo()
    chat, _ = talk(models, "M1")
    with pytest.raises(PermanentError, match="nothing was said"):
        chat.undo()
    chat.say("one")
    chat.again()
    assert models.heard == [["one"], ["one"]]
    assert models.seeds[0] != models.seeds[1]
    assert len(chat.conversation.exchanges) == 1
    chat.undo()
    assert not chat.conversation.exchanges
    again = Echo()
    talk(again, "M1")[0].say("one")
    assert again.seeds == models.seeds[:1]


def test_a_test_context_begins_the_conversation_and_is_answered_with_the_given_seed() -> None:
    models = Echo()
    chat, _ = talk(models, "M1")
    chat.begin(CONTEXT, SAMPLING, 99)
    chat.say("Because.")
    assert models.seeds[0] == 99
    assert models.heard[1] == ["Hello.", "Hi.", "I am sad.", "M1 hears I am sad.", "Because."]
    chat.undo()
    chat.undo()
    assert chat.conversation.turns("M1", "x")[0].text == "Hello."
    chat.reset()
    assert [turn.text for turn in chat.conversation.turns("M1", "x")] == ["x"]


def test_a_conversation_is_saved_as_messages_and_no_file_is_overwritten(tmp_path: Path) -> None:
    chat, _ = talk(Echo(), "M1", "M0")
    file = tmp_path / "chat.jsonl"
    with pytest.raises(PermanentError, match="nothing was said"):
        chat.save(file)
    chat.say("one")
    chat.save(file)
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["model"], second["model"]) == ("M1", "M0")
    assert [each["role"] for each in first["messages"]] == ["system", "user", "assistant"]
    assert second["messages"][-1]["content"] == "M0 hears one"
    with pytest.raises(PermanentError, match="the file exists"):
        chat.save(file)
    assert list(tmp_path.iterdir()) == [file]


class Stopping(Echo):
    """The user presses Ctrl-C while the named model answers, with what it has said by then."""

    def __init__(self, name: str, said: str) -> None:
        super().__init__()
        self.name, self.said = name, said

    def answer(self, name: str, turns: Sequence[Turn], sampling: Any, seed: int, watch: Any = None) -> Response:
        if name == self.name:
            raise Stopped(Response(id="chat", text=self.said, finish="length", tokens=3))
        return super().answer(name, turns, sampling, seed, watch)


@pytest.mark.parametrize(("said", "kept"), [("I hear", 1), ("", 0)])
def test_a_stopped_answer_stays_as_far_as_it_came(said: str, kept: int) -> None:
    chat, out = talk(Stopping("M1", said), "M1")
    (reply,) = chat.say("one")
    assert reply.finish == "interrupted"
    assert "(stopped" in out.getvalue()
    assert len(chat.conversation.exchanges) == kept


def test_a_prompt_that_does_not_fit_leaves_the_conversation_as_it_was() -> None:
    class TooLong(Echo):
        def answer(self, *_: Any, **__: Any) -> Response:
            raise PermanentError("PromptTooLong", "too long")

    chat, _ = talk(TooLong(), "M1")
    with pytest.raises(PermanentError):
        chat.say("one")
    assert chat.conversation == Conversation(("M1",))


def test_bytes_that_are_no_text_are_replaced_before_a_model_reads_them(tmp_path: Path) -> None:
    models = Echo()
    chat, _ = talk(models, "M1")
    chat.say("caf\udce9 \N{GRINNING FACE}")
    chat.again()
    assert models.heard == [["caf\ufffd \N{GRINNING FACE}"]] * 2
    chat.save(tmp_path / "chat.jsonl")
    assert "caf\ufffd" in (tmp_path / "chat.jsonl").read_text("utf-8")


@pytest.mark.parametrize("place", ["~no-such-user-here/chat.jsonl", "a\0b.jsonl"])
def test_a_place_that_is_no_path_does_not_end_the_chat(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chat, _ = talk(Echo(), "M1")
    out = io.StringIO()
    monkeypatch.setattr("builtins.input", Typed("one", f"/save {place}", "two"))
    Terminal(Console(file=out, width=200), chat, Contexts()).run()  # type: ignore[arg-type]
    assert f"ChatInput: /save {place.replace(chr(0), chr(0xFFFD))}: this is no path of a file" in out.getvalue()
    assert len(chat.conversation.exchanges) == 2
    assert not list(tmp_path.iterdir())


def test_lines_of_a_pipe_are_messages_and_no_commands() -> None:
    models = Echo()
    chat, _ = talk(models, "M1")
    (reply,) = answer_lines(chat, ["/save /etc/passwd\n", "\n", "two\n"])
    assert models.heard[0] == ["/save /etc/passwd"]
    assert reply.text == "M1 hears two"


def test_a_stream_writes_each_word_once_and_no_half_characters() -> None:
    stream = Stream()
    pieces = [stream.piece(text) for text in ("I", "I hear ", "I hear y�", "I hear you\x1b[2J")]
    pieces.append(stream.piece("I hear you\x1b[2J.", last=True))
    assert pieces == ["I", " hear", " y", "ou�[2J", "."]
    assert Stream().piece("", last=True) == ""


def test_an_answer_that_begins_anew_is_written_on_its_own_line() -> None:
    stream = Stream()
    stream.piece("The user is sad, so")
    assert stream.piece("I am sorry.", last=True) == "\nI am sorry."


REPLIES = [
    Reply("M2", "I hear \x1b]0;you\x07 [bold]well[/bold].", "length", 40, 2),
    Reply("M0", "", "stop", 1, 0),
]


def test_two_answers_stand_side_by_side_where_there_is_room() -> None:
    wide = Console(file=io.StringIO(), width=120, force_terminal=True)
    narrow = Console(file=io.StringIO(), width=80, force_terminal=True)
    assert isinstance(display_of(wide, 2), SideBySide)
    assert isinstance(display_of(wide, 1), Streamed)
    assert isinstance(display_of(narrow, 2), Streamed)
    out = io.StringIO()
    SideBySide(Console(file=out, width=120)).answered("one", REPLIES)
    lines = out.getvalue()
    assert "I hear �]0;you� [bold]well[/bold]." in lines
    assert "\x1b" not in lines
    assert "cut at 40 tokens; the oldest 2 turns no longer fit" in " ".join(lines.replace("│", " ").split())
    assert "an empty answer" in lines


def test_two_models_that_say_the_same_are_not_read_twice() -> None:
    same = [Reply(name, "I hear you.", "stop", 4, 0) for name in ("M2", "M0")]
    out = io.StringIO()
    Streamed(Console(file=out, width=120)).answered("one", same)
    assert "the same answer" in out.getvalue()
    Streamed(Console(file=(other := io.StringIO()), width=120)).answered("one", same[:1])
    assert not other.getvalue()


def test_json_output_is_one_document_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    Json().answered("one", REPLIES)
    document = json.loads(capsys.readouterr().out)
    assert document["said"] == "one"
    assert document["answers"][1] == {"model": "M0", "text": "", "finish": "stop", "tokens": 1, "truncatedTurns": 0}


class Typed:
    """A user who types these lines; None is Ctrl-C at the prompt."""

    def __init__(self, *lines: str | None) -> None:
        self._lines = iter(lines)

    def __call__(self, _prompt: str) -> str:
        line = next(self._lines, EOFError)
        if line is None:
            raise KeyboardInterrupt
        if line is EOFError:
            raise EOFError
        return str(line)


class Contexts:
    """Test contexts of which one is there."""

    contexts = (CONTEXT,)

    def context(self, number: int) -> Context:
        if number != 1:
            raise PermanentError("ChatInput", f"there is no context {number}")
        return CONTEXT

    def ask(self, chat: Talk, context: Context) -> list[Reply]:
        return chat.begin(context, SAMPLING, 1)

    def compared(self, context: Context, replies: Sequence[Reply]) -> list[str]:
        return ["M1: as in answers-1"]


def test_a_user_at_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Echo()
    chat, _ = talk(models, "M1")
    out = io.StringIO()
    lines = ["one", "", None, "/undo", "/undo", "/nonsense", "/context 5", "/context", "/context 1", "/help"]
    monkeypatch.setattr(
        "builtins.input", Typed(*lines, f"/save {tmp_path}/a.jsonl", "/again", "/reset", "/quit", "never")
    )
    Terminal(Console(file=out, width=200), chat, Contexts()).run()  # type: ignore[arg-type]
    said = out.getvalue()
    for words in (
        "no therapist",
        "Ctrl-C stops an answer",
        "Taken back.",
        "ChatInput: /undo: nothing was said yet",
        "there is no command /nonsense",
        "there is no context 5",
        "contexts 1 to 1",
        "seeker> I am sad.",
        "human> Why?",
        "M1: as in answers-1",
        "/save FILE",
        "Saved to",
        "A new conversation.",
    ):
        assert words in said
    assert models.heard[-1] == ["Hello.", "Hi.", "I am sad."]
    assert ["never"] not in models.heard


def results(directory: Path, *, champion: int | None = None) -> Results:
    """A run with M0 and M1, generate-1 with settings of its own, and nothing in the adapters."""
    published = Published(directory)
    file = directory.parent / "empty"
    file.write_text("")
    published.stage("sft", {"adapter": file})
    published.stage(
        "generate-1", {"responses": file}, settings=GenerationSettings(max_new_tokens=40).wire() | {"new": 1}
    )
    published.stage("dpo-1", {"adapter": file})
    found = results_of_pointers(published.store, None, "first")
    status = RunStatus(champion=champion) if champion is not None else None
    return Results(found.namespace, found.name, found.store, found.manifests, None, status)


def test_the_champion_is_taken_else_the_newest_model(tmp_path: Path) -> None:
    run = results(tmp_path / "store")
    assert choose_model(run, None) == Chosen("M1", "the newest")
    assert choose_model(run, "M0") == Chosen("M0")
    assert choose_model(run, "base") == Chosen("base")
    assert choose_model(results(tmp_path / "store", champion=0), None) == Chosen("M0", "the champion")
    assert choose_model(results(tmp_path / "store", champion=0), "champion") == Chosen("M0", "the champion")
    with pytest.raises(PermanentError, match="the storage alone does not say which it is"):
        choose_model(run, "champion")
    with pytest.raises(PermanentError, match="run first has M0, M1, not base"):
        choose_model(run, "base", base=False)
    with pytest.raises(PermanentError, match="--against M7: run first has M0, M1, base, not M7"):
        choose_model(run, "M7", "--against")
    nothing = Results("lab", "first", run.store, {})
    with pytest.raises(PermanentError, match=r"no model yet: stage sft has not finished$"):
        choose_model(nothing, None)


def test_answers_are_sampled_as_generate_samples_them(tmp_path: Path) -> None:
    settings = chat_settings(results(tmp_path / "store"))
    assert (settings.sampling.max_new_tokens, settings.seed, settings.source) == (40, 7, "generate-1")
    greedy = changed(settings.sampling, greedy=True, max_new_tokens=9)
    assert (greedy.temperature, greedy.max_new_tokens, greedy.top_p) == (0, 9, 0.8)


def test_without_the_libraries_one_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("evolution_operator.cli.libraries.LIBRARIES", ("torch", "no_such_library"))
    found = CliRunner().invoke(app, ["chat", str(tmp_path / "run.yaml")])
    assert isinstance(found.exception, PermanentError)
    assert found.exception.reason == "DependencyMissing"
    assert "no_such_library" in str(found.exception)


@pytest.mark.parametrize(
    ("endpoint", "service"),
    [
        ("http://minio.minio:9000", ("minio", "minio", 9000)),
        ("http://minio:9000", ("minio", None, 9000)),
        ("https://minio.storage.svc.cluster.local", ("minio", "storage", 443)),
        ("http://minio.storage.svc", ("minio", "storage", 80)),
        ("https://s3.eu-central-1.amazonaws.com", None),
        ("http://localhost:9000", None),
        ("http://127.0.0.1:9000", None),
        ("", None),
    ],
)
def test_a_service_of_the_cluster_is_told_from_a_public_host(endpoint: str, service: tuple[Any, ...] | None) -> None:
    found = in_cluster(endpoint)
    assert (found and (found.name, found.namespace, found.port)) == service


def test_a_storage_that_only_the_cluster_reaches_says_how_to_forward_it() -> None:
    storage = Storage(uri="s3://b/p", endpoint="http://minio.minio:9000", credentials_secret="s3")
    unreachable = advice_from_outside("StorageUnreachable", storage, "lab")
    assert unreachable
    assert "kubectl port-forward -n minio service/minio 9000:9000" in unreachable
    assert "--endpoint http://localhost:9000" in unreachable
    missing = advice_from_outside("CredentialsMissing", storage, "lab")
    assert missing
    assert "kubectl get secret s3 -n lab -o jsonpath='{.data.AWS_SECRET_ACCESS_KEY}'" in missing
    assert advice_from_outside("BucketMissing", storage, "lab") is None
    with (
        pytest.raises(TransientError, match=r"no answer\. If minio\.minio is a Service"),
        reached_from_here(storage, "lab"),
    ):
        raise TransientError("StorageUnreachable", "no answer")


def test_another_endpoint_takes_the_place_of_the_clusters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The API server's answer is played; the storage is not asked, because nothing has finished."""
    spec = minimal_spec()
    spec["storage"] |= {"endpoint": "http://minio.minio:9000", "credentialsSecret": "s3"}
    document = {"metadata": {"name": "first", "namespace": "lab", "uid": "u"}, "spec": spec, "status": {}}
    monkeypatch.setattr("evolution_operator.cli.cluster.fetch", lambda *_: document)
    store = open_results("first", "lab", endpoint="http://localhost:9000").store
    assert isinstance(store, S3Store)
    assert store.bucket.client.meta.endpoint_url == "http://localhost:9000"
    with pytest.raises(RunFileError) as refused:
        open_results("first", "lab", storage=str(tmp_path), endpoint="http://localhost:9000")
    assert refused.value.source == "--endpoint"


def test_answers_that_are_no_rows_are_not_compared_with(tmp_path: Path) -> None:
    published = Published(tmp_path / "storage")
    turns = [{"role": "seeker", "text": "Hi."}]
    (tmp_path / "test.jsonl").write_text(
        json.dumps({"id": "1-1", "dialogue": "1", "turns": turns, "human": "Hello."}) + "\n"
    )
    (tmp_path / "answers.jsonl").write_text("{}\n")
    published.stage("prepare", {"train": tmp_path / "test.jsonl", "test": tmp_path / "test.jsonl"})
    published.stage("evaluate-0", {"answers": tmp_path / "answers.jsonl"})
    with weights_of(results_of_pointers(published.store, "lab", "first")) as weights:
        asked = tested.Tested(weights, ["M0"], GenerationSettings(), 0)
        context = asked.context(1)
        assert context.id == "1-1"
        assert not list(asked.compared(context, [Reply("M0", "Hello.", "stop", 2, 0)]))
