"""What deadletters does: collect dead letters, and carry out the actions of operators on them.

A handler only stores a new action. `step`, which runs periodically, takes it further from the state in its row. So
another process, or the same after a restart, goes on with the action of a process that died.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from contracts.broker import is_from
from contracts.deadletters import (
    CancelReplay,
    EditLetter,
    LetterEdited,
    LetterEditRefused,
    LetterFilter,
    LettersPurged,
    LettersReplayed,
    PurgeLetters,
    ReplayCancelled,
    ReplayCancelRefused,
    ReplayFailed,
    ReplayLetters,
)
from contracts.email import DigestGroup, MailDigest
from contracts.flow import LANES, service_of
from contracts.jobs import JobProgressed, LetterSettled
from services.deadletters import adapters, domain
from services.deadletters.adapters import Found
from services.deadletters.store import actions, digests, letters
from services.deadletters.store.actions import Action, load_letters_and_replays
from services.deadletters.store.letters import Content, Letter
from shared.messaging import inbox
from shared.messaging.handler import RetryLater, on, on_dead_letters
from shared.messaging.intake import IncomingMessage
from shared.messaging.outbox import Outbox
from shared.messaging.unit import UnitOfWork
from shared.persistence.clock import moment, now

GROUPS_IN_DIGEST = 10
"""The largest groups, which a mail to the operators names."""

# -- collecting -------------------------------------------------------------------------------------------------------


@on_dead_letters
async def collect(raws: Sequence[IncomingMessage], queue: str, unit: UnitOfWork) -> None:
    """Store new letters. A letter that is delivered twice, such as after a crash, is recognised by its key."""
    lane = queue.removesuffix(".dlq")
    found = {one.key: one for one in (adapters.read(raw, adapters.lane_of(raw, lane)) for raw in raws)}
    unseen = await inbox.claim(unit.session, queue, found)
    new = [one for key, one in found.items() if key in unseen]
    returned = [(one.replay, one) for one in new if one.replay]
    sent_by, sent = await actions.lock_sent(unit.session, {letter_id for (letter_id, _), _ in returned})
    known = {letter.id: letter for letter in sent}
    replays: dict[UUID | None, Action] = {action.id: action for action in sent_by}
    await letters.insert_groups(unit.session, (one.group for one in new))
    strangers = [one for one in new if not (one.replay and one.replay[0] in known)]
    await letters.insert_letters(unit.session, [one.letter for one in strangers], [one.content for one in strangers])
    carried = await letters.contents(unit.session, sent)
    for (id_, number), one in returned:
        if id_ in known and (known[id_].state, known[id_].number) == (
            "SENT",
            number,
        ):  # the last sending
            _take_back(known[id_], carried[id_], one, replays.get(known[id_].action_id))
    await digests.count_new(unit.session, [one.letter for one in strangers])


def _take_back(letter: Letter, content: Content, found: Found, replay: Action | None) -> None:
    """A letter that was sent again has failed again: it waits, and the replay that sent it counts the failure."""
    for name in ("group_id", "reason", "exception", "last_at", "service", "version", "host", "text"):
        setattr(letter, name, getattr(found.letter, name))
    content.headers, content.traceback = found.content.headers, found.content.traceback
    letter.state, letter.attempts = "WAITING", letter.attempts + 1
    letters.log(letter, "failed again", reason=letter.reason)
    if replay:
        replay.failed += 1
        replay.detail = replay.detail if replay.ended_at else letter.reason


# -- notifying operators ----------------------------------------------------------------------------------------------


async def notify_operators(outbox: Outbox) -> None:
    """Send a digest of new letters to the operators, if one is due. The email service knows their addresses."""
    async with outbox.unit() as unit:
        gathered, told_at = await digests.lock_unsent(unit.session)
        if not gathered or not domain.is_due(gathered[0].since, told_at, at := now()):
            return
        for digest in gathered:
            digest.sent_at = at
        found, _, waiting = await letters.groups(unit.session, LetterFilter())
        if not found:  # none waits any more
            return
        unit.cause = gathered[0].envelope()
        unit.send(
            MailDigest(
                new=sum(digest.letters for digest in gathered),
                since=moment(gathered[0].since),
                waiting=waiting,
                groups=tuple(
                    DigestGroup(**one["group"].model_dump(), count=one["count"]) for one in found[:GROUPS_IN_DIGEST]
                ),
                more_groups=max(0, len(found) - GROUPS_IN_DIGEST),
            )
        )


# -- letters that were sent again -------------------------------------------------------------------------------------


@on(LetterSettled, loads=load_letters_and_replays)
async def on_letter_settled(event: LetterSettled, unit: UnitOfWork) -> None:
    """A lane has processed the letter. An earlier sending counts too, unless a later one is under way."""
    letter = unit.get(Letter, event.letter_id)
    if letter is None or letter.state in letters.FINISHED or (letter.state == "SENT" and letter.number != event.number):
        return
    if not (unit.cause and is_from(unit.cause.user, service_of(letter.lane))):
        return  # only the service of the lane may confirm it
    replay = unit.get(Action, letter.action_id)
    if replay and letter.state == "SENT":
        replay.done += 1
    letter.state, letter.settled_at = "DONE", now()
    letters.log(letter, "done")


# -- actions of operators ---------------------------------------------------------------------------------------------


@on(ReplayLetters, PurgeLetters, EditLetter)
async def on_wish(command: ReplayLetters | PurgeLetters | EditLetter, unit: UnitOfWork) -> JobProgressed:
    """Store the action and the number of letters that it selects now. `step` carries it out."""
    action = _action(command, unit, until_id=uuid7())
    action.total = 1 if isinstance(command, EditLetter) else await actions.count_selected(unit.session, action)
    unit.add(action)
    return _progress(action)


@on(CancelReplay, loads=load_letters_and_replays)
async def on_cancel_replay(command: CancelReplay, unit: UnitOfWork) -> ReplayCancelled | ReplayCancelRefused:
    """Stop a replay: it sends no more letters."""
    replay = unit.get(Action, command.replay_id)
    if replay is None:
        raise RetryLater(f"replay {command.replay_id} has not begun")
    action = _action(command, unit)
    unit.add(action)
    if replay.ended_at is not None or replay.kind != "replay":
        reason = f"already_{replay.status.lower()}"
        action.end("FAILED", reason)
        return ReplayCancelRefused(replay_id=replay.id, reason=reason)
    action.end("DONE")
    replay.end("CANCELLED", f"stopped by {command.by}")
    return ReplayCancelled(replay_id=replay.id, sent=replay.sent, not_sent=replay.not_sent)


def _action(command: ReplayLetters | PurgeLetters | EditLetter | CancelReplay, unit: UnitOfWork, **more: Any) -> Action:
    wish = command.model_dump(mode="json", exclude={"by"}, exclude_none=True)
    rate = command.rate if isinstance(command, ReplayLetters) else None
    assert unit.cause
    about = {"kind": KINDS[type(command)], "by": command.by, "at": now(), "wish": wish, "rate": rate}
    return Action(id=UUID(unit.job_id), **{**about, "status": "RUNNING", "traceparent": unit.cause.traceparent, **more})


KINDS = {ReplayLetters: "replay", PurgeLetters: "purge", EditLetter: "edit", CancelReplay: "cancel"}


# -- steps of an action -----------------------------------------------------------------------------------------------


async def step(outbox: Outbox, action_id: UUID, ladder: Sequence[str]) -> None:
    """Take an action one step further, in one transaction."""
    async with outbox.unit() as unit:
        action = await actions.lock_running(unit.session, action_id)
        if action is None:
            return
        unit.cause = action.envelope()
        await {"replay": _replay, "purge": _purge, "edit": _edit}[action.kind](action, ladder, unit)
        if action.ended_at is None and action.finished != action.told:
            action.told = action.finished
            unit.send(_progress(action))


async def _replay(action: Action, ladder: Sequence[str], unit: UnitOfWork) -> None:
    moment = now()
    match domain.next_step(action.standing, moment):
        case "fail":
            reason = action.detail or "nobody said why"
            action.end("FAILED", reason)
            letter_id, not_sent = action.cursor or action.id, action.not_sent
            detail = f"letter {letter_id} was sent first and failed again: {reason}; {not_sent:,} more were not sent"
            unit.send(ReplayFailed(reason="probe_failed", detail=detail, letter_id=letter_id, not_sent=not_sent))
        case "finish":
            action.end("DONE")
            unit.send(LettersReplayed(sent=action.sent, done=action.done, failed=action.failed))
        case int(number):
            await _send(action, number, moment, ladder, unit)


async def _send(action: Action, number: int, moment: int, ladder: Sequence[str], unit: UnitOfWork) -> None:
    found = await actions.lock_next(unit.session, action, number)
    carried = await letters.contents(unit.session, found)
    for letter in found:
        letter.state, letter.number, letter.action_id = "SENT", letter.number + 1, action.id
        letters.log(letter, "sent again", by=action.by)
        unit.outgoing.append(adapters.again(letter, carried[letter.id], ladder))
    action.paced_at = domain.pace(action.standing, len(found), moment)
    action.sent += len(found)


async def _purge(action: Action, _: Sequence[str], unit: UnitOfWork) -> None:
    found = await actions.lock_next(unit.session, action, letters.REMOVED_AT_ONCE)
    await letters.remove(unit.session, [letter.id for letter in found])
    action.done += len(found)
    if action.is_exhausted:
        action.end("DONE")
        unit.send(LettersPurged(purged=action.done))


async def _edit(action: Action, ladder: Sequence[str], unit: UnitOfWork) -> None:
    """Send another message in the place of a letter, unless the letter no longer waits."""
    wish = EditLetter(**action.wish, by=action.by)
    letter, content = await letters.letter(unit.session, wish.letter_id, lock=True) or (None, None)
    if letter is None or content is None or letter.state != "WAITING" or letter.lane not in LANES:
        reason = _why_not_edited(letter)
        action.end("FAILED", reason)
        unit.send(LetterEditRefused(letter_id=wish.letter_id, reason=reason))
        return
    new_id, message = adapters.instead(letter, content, wish.message, wish.body, ladder)
    unit.outgoing.append(message)
    letter.state, letter.settled_at, letter.action_id = "REPLACED", now(), action.id
    letters.log(letter, "replaced", by=action.by, message_id=str(new_id))
    action.done = 1
    action.end("DONE", f"message {letter.message_id} is replaced by {new_id}")
    unit.send(LetterEdited(letter_id=letter.id, message_id=new_id, lane=letter.lane))


def _why_not_edited(letter: Letter | None) -> str:
    if letter is None:
        return "gone"
    return "no_such_lane" if letter.state == "WAITING" else f"already_{letter.state.lower()}"


def _progress(action: Action) -> JobProgressed:
    left = (action.total or 0) - action.finished
    seconds = max(left, 0) / action.rate if action.rate else None
    return JobProgressed(
        done=action.finished, total=action.total, unit="letters", rate=action.rate, seconds_left=seconds
    )
