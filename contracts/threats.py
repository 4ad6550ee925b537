"""The table of senders and consumers in docs/security.md, derived from `contracts/flow.py`.

`python -m contracts.threats` writes it into the document.
"""

from pathlib import Path

from contracts.flow import FLOW, SERVICES

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/security.md"
BEGIN, END = "<!-- derived from contracts/flow.py -->\n", "<!-- end of what is derived -->\n"


def table() -> str:
    """A row for each message: its senders, its exchange, and the lanes that consume it."""
    rows = ["| message | who may send it | exchange | which lanes act on it |", "|---|---|---|---|"]
    for message, (who, lanes) in FLOW.items():
        senders = "any service" if who == SERVICES else ", ".join(who)
        heard = ", ".join(lanes) or "none of ours"
        rows.append(f"| `{message.key}` | {senders} | `{message.exchange}` | {heard} |")
    return "\n".join(rows) + "\n"


def written(document: str) -> str:
    """The document with the table in its place. Raises ValueError where the place is not marked."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document lacks {BEGIN.strip()} or {END.strip()}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
