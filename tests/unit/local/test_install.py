"""Servers are found where distributions put them; a missing one that we may not install is one clear sentence."""

from pathlib import Path

import pytest

from deploy.local import install

PROGRAMS = ("initdb", "postgres", "psql", "pg_isready")


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on it, so with no apt-get either; the folder is on its PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(install, "_RABBITMQ", ())
    monkeypatch.setattr(install, "_POSTGRES", ())
    install.docker.cache_clear()
    return folder


def put(folder: Path, *programs: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)


def test_rabbitmq_is_found_on_the_path(bare: Path) -> None:
    put(bare, "rabbitmq-server")
    assert install.rabbitmq() == bare / "rabbitmq-server"


def test_debians_wrapper_which_drops_the_environment_is_passed_by(bare: Path) -> None:
    put(bare, "rabbitmq-script-wrapper")
    (bare / "rabbitmq-server").symlink_to(bare / "rabbitmq-script-wrapper")
    assert install.find_rabbitmq() is None


def test_a_distributions_own_script_goes_before_the_path(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bare, "rabbitmq-server", "distributions")
    monkeypatch.setattr(install, "_RABBITMQ", (str(bare / "missing"), str(bare / "distributions")))
    assert install.find_rabbitmq() == bare / "distributions"


@pytest.mark.usefixtures("bare")
def test_missing_rabbitmq_says_what_to_do() -> None:
    with pytest.raises(install.Missing) as missing:
        install.rabbitmq()
    assert str(missing.value) == (
        "RabbitMQ is missing. Install it (Debian, Ubuntu: apt-get install rabbitmq-server; macOS: brew install"
        " rabbitmq), or start Docker, or set AMQP_URL to a broker that is there."
    )


@pytest.mark.usefixtures("bare")
def test_missing_postgresql_says_what_to_do() -> None:
    with pytest.raises(install.Missing, match=r"^PostgreSQL's server is missing\. Install it .*postgresql\)\.$"):
        install.postgres()


def test_nothing_is_installed_where_we_are_not_root_and_may_not_ask(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    put(bare, "apt-get")
    (bare / "apt-get").write_text(f"#!/bin/sh\n: > {bare / 'called'}\n")
    assert install.as_root() is None
    with pytest.raises(install.Missing, match="RabbitMQ is missing"):
        install.rabbitmq()
    assert not (bare / "called").exists()


def test_a_postgresql_client_alone_is_not_a_server(bare: Path) -> None:
    put(bare, "psql", "pg_isready", "initdb")
    assert install.find_postgres() is None


def test_the_newest_whole_postgresql_is_taken(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("9", "13", "15"):
        put(bare / f"pg-{version}" / "bin", *PROGRAMS)
    put(bare / "pg-16" / "bin", "psql")
    monkeypatch.setattr(install, "_POSTGRES", (f"{bare}/pg-*/bin",))
    assert install.postgres() == bare / "pg-15" / "bin"


@pytest.mark.parametrize(
    ("folder", "version"),
    [
        ("/usr/lib/postgresql/15/bin", 15),
        ("/opt/homebrew/opt/postgresql@14/bin", 14),
        ("/usr/lib64/pgsql-13.2/bin", 13),
        ("/usr/bin", 0),
    ],
)
def test_a_postgresqls_version_is_in_its_path(folder: str, version: int) -> None:
    assert install._version(Path(folder)) == version


def test_a_docker_client_without_an_engine_is_of_no_use(bare: Path) -> None:
    assert not install.docker()
    put(bare, "docker")
    (bare / "docker").write_text("#!/bin/sh\nexit 1\n")
    install.docker.cache_clear()
    assert not install.docker()
    (bare / "docker").write_text("#!/bin/sh\necho 24.0\n")
    install.docker.cache_clear()
    assert install.docker()
    install.docker.cache_clear()


FONTS = ["fonts-noto-core", "fonts-wqy-microhei", "fonts-noto-color-emoji"]


def test_pango_is_installed_by_its_three_packages_and_fonts_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []
    monkeypatch.setattr(install, "package", lambda *names: installed.extend(names))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: name if installed else None)
    assert install.pango()
    assert installed == ["libpango-1.0-0", "libpangoft2-1.0-0", "libharfbuzz-subset0", *FONTS]


@pytest.mark.parametrize(
    ("there", "missing"), [(("th", "ko"), FONTS[2:]), (("ko", "und-zsye"), FONTS[:1]), ((), FONTS)]
)
def test_a_machine_with_pango_gets_the_fonts_that_it_lacks(
    there: tuple[str, ...], missing: list[str], bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[str] = []
    monkeypatch.setattr(install, "package", lambda *names: installed.extend(names))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: name)
    assert install.pango()
    assert not installed  # nobody knows which there are
    put(bare, "fc-list")
    (bare / "fc-list").write_text(
        f"#!/bin/sh\ncase $1 in {'|'.join(f':lang={each}' for each in there) or 'none'}) echo Some Font ;; esac\n"
    )
    assert install.pango()
    assert installed == missing


def test_a_machine_without_pango_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> None:
        raise install.Missing("no network")

    monkeypatch.setattr(install, "package", refuse)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    assert not install.pango()
