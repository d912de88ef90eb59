from lakehouse.limits.lobby import Lobby

HOME, NEIGHBOUR = "203.0.113.7", "203.0.113.8"


def full(*, open_max=100, of_household_max=100, number=0, household=HOME):
    """So many, called 0, 1, 2, ..."""
    lobby = Lobby(open_max=open_max, of_household_max=of_household_max)
    assert [lobby.enter(one, household) for one in range(number)] == [None] * number
    return lobby


def test_the_one_that_waited_longest_goes_for_a_new_one():
    lobby = full(open_max=3, number=3)
    assert [lobby.enter(one, NEIGHBOUR) for one in ("a", "b")] == [0, 1]
    assert len(lobby) == 3


def test_a_household_that_has_enough_gives_one_of_its_own():
    lobby = full(of_household_max=2)
    lobby.enter("neighbour's", NEIGHBOUR)
    assert [lobby.enter(one, HOME) for one in range(4)] == [None, None, 0, 1]
    assert len(lobby) == 3


def test_who_is_served_stays_and_who_was_answered_last_goes_last():
    lobby = full(of_household_max=3, number=3)
    lobby.serve(0)
    lobby.serve(1)
    lobby.wait(1)
    assert [lobby.enter(one, HOME) for one in ("a", "b", "c")] == [2, 1, "a"]


def test_while_all_are_served_the_new_one_is_sent_away():
    lobby = full(open_max=2, number=2)
    lobby.serve(0)
    lobby.serve(1)
    assert lobby.enter("new", NEIGHBOUR) == "new"
    lobby.wait(1)
    assert lobby.enter("new", NEIGHBOUR) == 1


def test_whom_no_address_counts_is_counted_with_all():
    lobby = full(open_max=2, of_household_max=1)
    assert [lobby.enter(one, None) for one in range(3)] == [None, None, 0]


def test_who_left_is_forgotten_however_often_it_leaves_and_whatever_is_said_of_it():
    lobby = full(number=2)
    lobby.serve(0)
    for one in (0, 0, 1, 7):
        lobby.leave(one)
        lobby.wait(one)
    assert (len(lobby), lobby._of, lobby._waiting) == (0, {}, {})
