"""What a message means for a job."""

import pytest
from uuid_utils.compat import uuid7

from contracts.base import JobState, Message
from contracts.flow import FLOW
from contracts.jobs import JobFailed, JobProgressed, JobRetrying
from contracts.orders import OrderCancelRefused, OrderRejected, RejectedLine
from services.gateway import domain
from services.gateway.domain import Key, Move, Seen
from tests.running import an_order

ORDER = uuid7()
REFUSED = OrderCancelRefused(order_id=ORDER, reason="already_cancelled")


@pytest.mark.parametrize("status", [JobState.SUCCESS, JobState.FAILURE, JobState.CANCELLED])
@pytest.mark.parametrize("said", list(JobState))
def test_a_final_state_is_never_left(status: JobState, said: JobState) -> None:
    assert domain.move(status, said, REFUSED) is None


@pytest.mark.parametrize("said", list(JobState))
def test_a_job_that_was_given_up_is_left_by_another_end_and_by_nothing_else(said: JobState) -> None:
    found = domain.move(JobState.FAILURE, said, REFUSED, error=domain.GIVEN_UP)
    assert (found.status if found else None) == (said if said.is_final else None)
    assert domain.move(JobState.FAILURE, said, REFUSED, error="out_of_stock") is None


def test_a_job_that_is_given_up_again_stays_as_it_is() -> None:
    again = JobFailed(reason="dead_lettered", detail="no such table")
    assert domain.move(JobState.FAILURE, JobState.FAILURE, again, error=domain.GIVEN_UP) is None


@pytest.mark.parametrize("status", [JobState.PENDING, JobState.STARTED, JobState.RETRY])
@pytest.mark.parametrize("said", list(JobState))
def test_any_other_state_becomes_what_the_message_says(status: JobState, said: JobState) -> None:
    found = domain.move(status, said, REFUSED)
    assert found
    assert found.status is said


def test_success_keeps_what_the_message_said() -> None:
    found = domain.move(JobState.PENDING, JobState.SUCCESS, REFUSED)
    body = {"order_id": str(ORDER), "reason": "already_cancelled"}
    assert found == Move(JobState.SUCCESS, result=body)


def test_a_failure_says_its_code_its_detail_and_the_rest() -> None:
    rejected = OrderRejected(
        **an_order(order_id=ORDER).model_dump(),
        currency="BRL",
        reason="out_of_stock",
        rejected_lines=(RejectedLine(sku="A", quantity=3, available=1),),
        rejected_at="2026-01-01T00:00:00Z",
    )
    found = domain.move(JobState.PENDING, JobState.FAILURE, rejected)
    assert found
    assert found.error
    assert found.error["code"] == "out_of_stock"
    assert found.error["detail"] == "Out of stock."
    assert found.error["rejected_lines"] == [{"sku": "A", "quantity": 3, "available": 1}]


def test_a_dead_lettered_command_says_why() -> None:
    found = domain.move(JobState.RETRY, JobState.FAILURE, JobFailed(reason="dead_lettered", detail="no such table"))
    assert found == Move(JobState.FAILURE, error={"code": "dead_lettered", "detail": "no such table"})


def test_progress_is_kept_and_is_no_line_in_the_timeline() -> None:
    found = domain.move(JobState.PENDING, JobState.STARTED, JobProgressed(done=3, total=10, unit="rows"))
    progress = {"done": 3, "total": 10, "unit": "rows", "rate": None, "seconds_left": None}
    assert found == Move(JobState.STARTED, progress=progress, is_milestone=False)


@pytest.mark.parametrize(("known", "is_news"), [(0, True), (3, True), (4, False)])
def test_progress_never_goes_back(known: int, is_news: bool) -> None:
    said = JobProgressed(done=3, total=10, unit="rows")
    assert bool(domain.move(JobState.RETRY, JobState.STARTED, said, known)) == is_news


@pytest.mark.parametrize(("message", "said"), [(JobRetrying(attempt=1, retry_in=5), JobState.RETRY)])
def test_a_retry_is_not_final(message: Message, said: JobState) -> None:
    assert domain.move(JobState.PENDING, said, message) == Move(JobState.RETRY)


def test_only_jobs_that_make_something_can_be_cancelled() -> None:
    cancellable = {kind.name for kind in domain.WORKERS if kind.cancelled_by}
    assert cancellable == {"order.place", "report.create", "dead_letters.replay"}
    assert domain.kind_named("a kind of long ago").cancelled_by is None


@pytest.mark.parametrize("kind", [kind for kind in domain.KINDS if domain.KINDS[kind].cancelled_by])
def test_a_cancellation_names_what_it_is_about_and_starts_a_job_about_the_same(kind: str) -> None:
    command, target = domain.kind_named(kind).cancelled_by, uuid7()
    assert command
    made = domain.cancellation(command, target, "olga")
    assert target in made.model_dump().values()
    assert getattr(made, "by", "olga") == "olga"
    assert domain.kind_of(command).resource == domain.kind_named(kind).resource


@pytest.mark.parametrize(
    ("kind", "resource"),
    [
        *(("order.place", "order"), ("order.cancel", "order"), ("report.create", "report")),
        *(("reports.rebuild", None), ("a kind of long ago", None)),
    ],
)
def test_a_kind_says_what_its_jobs_are_about(kind: str, resource: str | None) -> None:
    assert domain.kind_named(kind).resource == resource


def test_each_kind_is_started_by_one_command_and_at_one_path() -> None:
    kinds = list(domain.KINDS.values())
    assert len(kinds) == sum(1 for message in FLOW if getattr(message, "job_kind", None))
    paths = [kind.path for kind in kinds if not kind.path.startswith("/v1/jobs/")]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=5", 5),
        ("WAIT = 5", 5),
        ('respond-async, wait="7"', 7),
        ("wait=0", 0),
        ("wait=31", 30),
        ("wait=999999999999", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("await=5", None),
        ("", None),
    ],
)
def test_a_preference_is_read_leniently_and_bounded(prefer: str, seconds: int | None) -> None:
    assert domain.preferred_wait(prefer) == seconds


def test_an_event_id_comes_back_as_it_went() -> None:
    assert Seen.read(str(Seen(3, 2))) == Seen(3, 2)


@pytest.mark.parametrize("garbage", [None, "", "x", "1", "1.", "-1.2", "1.2.3", "9" * 50])
def test_an_event_id_that_is_not_ours_means_that_nothing_was_seen(garbage: str | None) -> None:
    assert Seen.read(garbage) == Seen()


def test_keys_are_scoped_to_caller_and_route() -> None:
    def scoped(subject: str, route: str) -> str:
        return Key.of("k", subject=subject, route=route, payload="").id

    assert scoped("ana", "A") == scoped("ana", "A")
    assert len({scoped("ana", "A"), scoped("bia", "A"), scoped("ana", "B"), scoped("an", "aA")}) == 4
