"""Who is tried together of those that may have killed their process."""

from shared.messaging import suspects

TRIES = {"new": 1, "fresh": 1, "seen": 2, "known": 3, "killer": 6}


def groups(tries: dict[str, int], at_once: int = 200) -> list[list[str]]:
    return list(suspects.groups(tries, tries.__getitem__, at_once))


def test_the_least_suspected_are_tried_first_and_together() -> None:
    assert groups(dict(reversed(TRIES.items()))) == [["fresh", "new"], ["seen"], ["known"], ["killer"]]


def test_those_of_one_death_are_tried_a_few_at_a_time_and_those_of_more_alone() -> None:
    of_one, of_two = dict.fromkeys(map(str, range(20)), 2), dict.fromkeys(map(str, range(3)), 3)
    assert [len(group) for group in groups(of_one)] == [8, 8, 4]
    assert [len(group) for group in groups(of_two)] == [1, 1, 1]


def test_no_group_is_larger_than_a_batch() -> None:
    assert [len(group) for group in groups(dict.fromkeys(map(str, range(5)), 1), at_once=2)] == [2, 2, 1]
    assert [len(group) for group in groups(dict.fromkeys(map(str, range(5)), 2), at_once=2)] == [2, 2, 1]


def test_three_deaths_alone_make_a_killer_however_many_it_had_near_others() -> None:
    alone = [tries for tries in range(1, 10) if suspects.together(tries, 200) == 1 and not suspects.is_killer(tries)]
    assert len(alone) == suspects.LONE_ATTEMPTS
    assert suspects.is_killer(TRIES["killer"])
