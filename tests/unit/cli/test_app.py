"""How the command line ends: one line on stderr, and a status that scripts can tell apart."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aio_pika.exceptions import ChannelPreconditionFailed

from deploy.cli import app

Run = Callable[..., int]


@pytest.fixture
def malote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command as the shell would, with a data folder of its own and no gateway; its exit status."""
    monkeypatch.setenv("MALOTE_DATA", str(tmp_path))
    monkeypatch.setenv("MALOTE_GATEWAY_URL", "http://127.0.0.1:1")
    monkeypatch.delenv("MALOTE_TOKEN", raising=False)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["malote", *arguments])
        with pytest.raises(SystemExit) as end:
            app.main()
        return int(end.value.code or 0)

    return run


def test_help_comes_at_once_because_nothing_is_loaded_that_only_some_commands_need() -> None:
    slow = {"contracts", "httpx", "jwt", "pydantic", "rich", "services", "shared", "sqlalchemy"}
    look = f"import sys, deploy.cli.app; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_documents_the_exit_statuses(malote: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert malote("--help") == 0
    said = capsys.readouterr().out
    assert all(f"{status}  " in said for status in (0, 1, 2, 3, 4, 78))


@pytest.mark.parametrize(
    "command",
    [
        "orders list",
        "orders place --sku A:1",
        "jobs list",
        "products list",
        "populate 3",
        "reports list",
        "reports create --kind orders --output /tmp/orders.csv",
        "reports rebuild",
        "notifications",
        "notifications --follow",
        "stock adjust A -1 --reason x",
    ],
)
def test_where_no_gateway_is_it_says_who_named_the_place(
    command: str, malote: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert malote(*command.split()) == 3
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "MALOTE_GATEWAY_URL" in said.err


def test_where_nobody_named_a_gateway_it_says_how_to_start_one(
    malote: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MALOTE_GATEWAY_URL")
    monkeypatch.setenv("GATEWAY_PORT", "1")
    assert malote("orders", "list") == 3
    assert "`malote up --detach` starts one" in capsys.readouterr().err


def test_a_service_that_is_not_there_yet_is_named(
    malote: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("contracts.flow.SERVICES", ("not-a-name",))
    monkeypatch.setattr("shared.docs.asyncapi.FOLDER", tmp_path / "asyncapi")
    assert malote("asyncapi", "--write") == 1
    assert "there is no services/not-a-name/handlers.py: write it first" in capsys.readouterr().err
    assert not (tmp_path / "asyncapi").exists()


def test_a_queue_with_other_arguments_is_said_to_be_one(
    malote: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(*_: object) -> None:
        raise ChannelPreconditionFailed("inequivalent arg 'x-queue-type' for queue 'email'")

    monkeypatch.setattr("shared.messaging.topology.apply", refuse)
    assert malote("topology", "apply") == 1
    said = capsys.readouterr().err
    assert "'email'" in said
    assert "other arguments" in said
    assert "administrator" not in said


def test_what_takes_long_is_said_before_it_is_done(
    malote: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(*_: object) -> None:
        raise SystemExit(9)  # from here on it would take long

    monkeypatch.setattr("deploy.local.fleet.running", lambda _: 1)
    monkeypatch.setattr("shared.messaging.topology.apply", end)
    monkeypatch.setattr("deploy.cli.up.os.kill", end)
    monkeypatch.setattr("deploy.cli.restart._pids", lambda _: {"broker": 1})
    monkeypatch.setattr("deploy.cli.restart._end", end)
    for command, said in (
        ("topology apply", "declaring exchanges, queues, users and permissions at "),
        ("down", "stopping the services, then the broker\n"),
        ("restart broker", "restarting broker\n"),
        ("restart broker --json", ""),
    ):
        assert malote(*command.split()) == 9
        out, err = capsys.readouterr()
        assert (out, err[: len(said)], bool(err)) == ("", said, bool(said))


@pytest.mark.parametrize(
    "command",
    [
        "nonsense",
        "jobs show 12",
        "orders place",
        "orders place --sku :",
        "reports create",
        "reports create --kind everything",
        "reports create --kind orders --output /no/such/folder/orders.csv",
        "populate 3 --direct --days 0",
        "token --role king --subject x",
        "migrate nope",
        "asyncapi nobody",
    ],
)
def test_a_wrong_command_line_is_status_2(command: str, malote: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert malote(*command.split()) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_wrong_setting_is_status_78_and_named(
    malote: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MALOTE_SMTP_PORT", "smtp")
    assert malote("status") == 78
    assert "MALOTE_SMTP_PORT" in capsys.readouterr().err


def test_a_database_address_that_is_none_is_named(
    malote: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORDERS_DATABASE_URL", "mysql://me:secret@host/x")
    assert malote("migrate", "orders") == 78
    said = capsys.readouterr().err
    assert "ORDERS_DATABASE_URL" in said
    assert "secret" not in said


def test_what_nobody_thought_of_is_one_line_too(
    malote: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.cli.mail.newest", lambda *_: 1 / 0)
    assert malote("mail", "list") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said


def test_a_token_is_all_that_is_printed(malote: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert malote("token", "--role", "customer", "--subject", "ana") == 0
    said = capsys.readouterr()
    assert (said.out.count("."), said.out.count("\n"), said.err) == (2, 1, "")


def test_the_topology_is_written_out_as_the_kernel_says_it(malote: Run, tmp_path: Path) -> None:
    from shared.messaging import topology

    path = tmp_path / "definitions.json"
    assert malote("topology", "export", "--output", str(path)) == 0
    assert json.loads(path.read_text()) == json.loads(json.dumps(topology.definitions()))
