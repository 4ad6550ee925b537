"""Settings from files: one file for each setting, named like its variable in any case. Containers get secrets this
way."""

from pathlib import Path

VARIABLE = "MALOTE_SECRETS_DIR"
USUAL = Path("/run/secrets")
LARGEST = 64 * 1024


class Unreadable(ValueError):
    """A folder or file cannot be used. The text names it, and never contains its content."""


def read(folder: str | None, *prefixes: str) -> dict[str, str]:
    """The settings in the files of `folder`, by variable; only variables that begin with one of `prefixes`.

    The default folder is `/run/secrets`, if it exists. Raises `Unreadable`.
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
        if not folder:  # it does not exist, or belongs to somebody else
            return []
        raise Unreadable(f"{VARIABLE}={folder} is no folder that can be read: {error.strerror}") from error


def _text(path: Path) -> str:
    """The text of a file without the line breaks at its end, which editors add."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe could block
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
