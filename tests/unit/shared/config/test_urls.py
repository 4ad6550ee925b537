"""The addresses of a broker: of one node, or of a cluster's."""

import pytest

from shared.config.urls import brokers, places_in, vhost_in

ONE, TWO = "amqp://stock:hunter2@one:5673/shop", "amqp://stock:hunter2@two/shop"


def test_several_addresses_have_a_comma_between_them_and_maybe_a_space() -> None:
    assert brokers(ONE) == (ONE,)
    assert brokers(f"{ONE},{TWO}") == brokers(f" {ONE}, {TWO} ") == (ONE, TWO)
    assert brokers("amqp://a:b,c@one/") == ("amqp://a:b,c@one/",), "a comma in a password is no end"


def test_only_their_places_are_shown() -> None:
    assert places_in(f"{ONE},{TWO}") == "one:5673/shop, two/shop"
    assert places_in("amqps://a:b@one/, amqps://a:b@two:5671/") == "one, two:5671"


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("scheme", "amqps://stock:hunter2@two/shop"),
        ("username", "amqp://orders:hunter2@two/shop"),
        ("password", "amqp://stock:hunter3@two/shop"),
        ("vhost", "amqp://stock:hunter2@two/"),
        ("query", "amqp://stock:hunter2@two/shop?heartbeat=9"),
    ],
)
def test_addresses_that_cannot_be_of_one_cluster_are_refused_by_what_differs(what: str, other: str) -> None:
    with pytest.raises(ValueError, match=f"differ in the {what}: ") as refused:
        brokers(f"{ONE},{other}")
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize("path", ["", "/", "/%2F", "//"])
def test_the_vhost_that_is_there_from_the_first_has_several_ways_to_be_written(path: str) -> None:
    assert vhost_in(f"amqp://one{path}") == "/"
    assert len(brokers(f"amqp://one{path},amqp://two/")) == 2
