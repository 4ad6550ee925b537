"""Settings as files, one each, named like its variable in any case: how containers are given what is secret."""

from pathlib import Path

VARIABLE = "MALOTE_SECRETS_DIR"
USUAL = Path("/run/secrets")
LARGEST = 64 * 1024


class Unreadable(ValueError):
    """A folder or file is of no use. The text names it, and never says what is in it."""


def read(folder: str | None, *prefixes: str) -> dict[str, str]:
    """What the files of `folder` set, by variable: of those only that begin with one of `prefixes`.

    Without a folder it is `/run/secrets`, if that is there. Raises `Unreadable`.
    """
    found: dict[str, str] = {}
    for path in _files(folder):
        variable = path.name.upper()
        if variable.startswith(prefixes):
            if variable in found:
                raise Unreadable(f"{path.parent} has {variable} twice, spelled in two ways")
            found[variable] = _text(path)
    return found


def _files(folder: str | None) -> list[Path]:
    try:
        return sorted((Path(folder) if folder else USUAL).iterdir())
    except OSError as error:
        if not folder:  # it is not there, or somebody else's
            return []
        raise Unreadable(f"{VARIABLE}={folder} is no folder that can be read: {error.strerror}") from error


def _text(path: Path) -> str:
    """Without the line breaks at the end, which an editor leaves there."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe, which would be waited for
            raise Unreadable(f"{path} is no file")
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror}") from error
    if len(text) > LARGEST:
        raise Unreadable(f"{path} has more than {LARGEST} bytes: that is no setting")
    try:
        return text.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Unreadable(f"{path} is no text in UTF-8") from None
